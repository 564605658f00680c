"""The ``gevent-rover`` command: arguments, logging, POSIX signals."""

from __future__ import annotations

import argparse
import ipaddress
import json
import logging
import math
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.socket import socket as Socket

from gevent_rover import __version__, cli_tls
from gevent_rover.console import Output, printable, table
from gevent_rover.demo import Demo
from gevent_rover.errors import InvalidServerError
from gevent_rover.registry import Server, check_server
from gevent_rover.rover import Rover
from gevent_rover.server import SlotServer
from gevent_rover.signals import Attempt
from gevent_rover.slots import Slots

_log: Final = logging.getLogger("gevent_rover.cli")
_log.addHandler(logging.NullHandler())

_LEVELS: Final = (logging.ERROR, logging.INFO, logging.DEBUG)

_ROVE_EPILOG: Final = """\
A SERVER is one of
  HOST:PORT       a name or an IPv4 address
  [IPv6]:PORT     an IPv6 address
  unix:PATH       a Unix domain socket
  unix:@NAME      a Unix domain socket with an abstract name (Linux)
each with ID= in front, if it's to have another id than its own text; an ID
doesn't begin with "unix:".

With --json, every line is an object with the keys
  event           "connection", "unreachable" or "error"
  time            when, in seconds since 1970
  id, server      which server: its id, and {"host", "port"} or {"path"}, and
                  "server_hostname" if that was given
  slot            the slot that it gave, or null
  elapsed         seconds that the attempt took
  reason          why there is no slot, or null
and the last one with the keys
  event           "summary"
  time, elapsed   when, and seconds since the beginning
  attempts        how many there were
  servers         by id: {"connection", "unreachable", "error", "lowest_slot"}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its process is its own, hence the monkey-patching.

    :param argv: the arguments without the command's name (default: the process's own).
    :returns: the exit code. A bad argument is a :class:`SystemExit` with code 2.
    """
    monkey.patch_all()
    return run(argv)


def run(argv: Sequence[str] | None = None) -> int:
    """Do what :func:`main` does, without monkey-patching."""
    options, unknown = _parser().parse_known_args(argv)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    level = _LEVELS[min(options.verbose + options.verbose_too, len(_LEVELS) - 1)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    done = Event()
    output = Output(done)
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, done.set)
    try:
        code: int = options.command(options, output, done)
    except cli_tls.BadOption as exc:
        options.parser.error(str(exc))
    if output.failure is not None:
        options.parser.report(f"can't write the output: {output.failure.strerror}")
        return 1
    return code


# The commands


def _demo(options: argparse.Namespace, output: Output, done: Event) -> int:
    try:
        Demo(output.line, servers=options.servers, seconds=options.seconds, done=done).run()
    except OSError as exc:
        options.parser.report(f"can't listen on 127.0.0.1: {exc.strerror}")
        return 1
    return 0


def _rove(options: argparse.Namespace, output: Output, done: Event) -> int:
    servers: dict[str, Server] = {}
    for id, server in options.server:
        if id in servers:
            options.parser.error(f"argument SERVER: duplicate ID {id!r}")
        servers[id] = cli_tls.with_hostname(id, server, options)
    width = max(len(printable(id)) for id in servers)
    outcomes: Counter[tuple[str | None, str]] = Counter()
    lowest: dict[str, int] = {}
    began = time.monotonic()

    def show(rover: Rover, attempt: Attempt) -> None:
        if done.is_set() or outcomes.total() == options.count:
            return
        outcomes[attempt.id, attempt.outcome] += 1
        if attempt.id is not None and attempt.slot is not None:
            lowest[attempt.id] = min(attempt.slot, lowest.get(attempt.id, attempt.slot))
        last = outcomes.total() == options.count
        output.line(_json_of(attempt) if options.json else _text_of(attempt, width))
        if last:
            done.set()

    rover = Rover(
        servers,
        roving_interval=options.interval,
        timeout=options.timeout,
        ssl_context=cli_tls.client_context(options),
    )
    # Nobody receives "connection": the rover closes the sockets.
    rover.on("error", lambda rover, error: None)
    rover.on("attempt", show)
    with rover:
        done.wait()

    elapsed = time.monotonic() - began
    names = ("connection", "unreachable", "error")
    if options.json:
        by_id = {
            id: {**{name: outcomes[id, name] for name in names}, "lowest_slot": lowest.get(id)}
            for id in servers
        }
        summary = {"event": "summary", "time": time.time(), "elapsed": round(elapsed, 6)}
        summary |= {"attempts": outcomes.total(), "servers": by_id}
        output.line(json.dumps(summary))
    else:
        rows = [
            [printable(id), *(outcomes[id, name] for name in names), lowest.get(id, "-")]
            for id in servers
        ]
        header = ["server", "connections", "unreachable", "errors", "lowest slot"]
        title = f"--- attempts: {outcomes.total()}, in {elapsed:.1f} s ---"
        for line in ["", title, *table(header, rows)]:
            output.line(line)
    return 0


def _serve(options: argparse.Namespace, output: Output, done: Event) -> int:
    served = 0

    def echo(slot: int, socket: Socket, address: object) -> None:
        nonlocal served
        served += 1
        _log.info("slot %d goes to %s", slot, address)
        try:
            while chunk := socket.recv(65536):
                socket.sendall(chunk)
        except OSError as exc:
            _log.info("slot %d: %s", slot, exc)
        _log.info("slot %d is free again", slot)

    slots = Slots(stride=options.stride, offset=options.offset, limit=options.limit)
    server = SlotServer(
        options.listen, echo, slots=slots, ssl_context=cli_tls.server_context(options)
    )
    try:
        server.start()
    except OSError as exc:
        # gevent has put the address behind the reason, as a tuple.
        reason = str(exc.strerror).partition(": (")[0]
        options.parser.report(f"can't listen on {_address(*options.listen)}: {reason}")
        return 1
    output.line(f"listening on {_address(*server.address[:2])}")
    done.wait()
    server.stop(timeout=0)
    output.line(f"closed; connections served: {served}")
    return 0


def _text_of(attempt: Attempt, width: int) -> str:
    now = time.time()
    clock = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03}"
    found = _reason(attempt) if attempt.slot is None else f"slot {attempt.slot}"
    took = f"{attempt.elapsed * 1000:.1f} ms"
    id = printable(attempt.id or "-")
    return f"{clock}  {attempt.outcome:<11}  {id:<{width}}  {took:>9}  {found}"


def _json_of(attempt: Attempt) -> str:
    return json.dumps(
        {
            "event": attempt.outcome,
            "time": time.time(),
            "id": attempt.id,
            "server": attempt.server,
            "slot": attempt.slot,
            "elapsed": round(attempt.elapsed, 6),
            "reason": _reason(attempt),
        }
    )


def _reason(attempt: Attempt) -> str | None:
    if attempt.error is None:
        return None
    return getattr(attempt.error, "strerror", None) or str(attempt.error)


# The arguments


class _Parser(argparse.ArgumentParser):
    """Says what's wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.report(message)
        sys.exit(2)

    def report(self, message: str) -> None:
        """Write one line on standard error."""
        print(f"{self.prog}: {printable(message)}", file=sys.stderr)


def _parser() -> _Parser:
    parser = _Parser(
        prog="gevent-rover",
        description="Rove servers for their lowest slots, or be such a server.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gevent-rover {__version__}")
    louder = "log to standard error what changes; -vv: everything"
    parser.add_argument("-v", "--verbose", action="count", default=0, help=louder)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, function: Callable[..., int], **texts: Any) -> _Parser:
        added: _Parser = commands.add_parser(
            name,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **texts,
        )
        added.set_defaults(command=function, parser=added)
        added.add_argument(
            "-v", "--verbose", dest="verbose_too", action="count", default=0, help=louder
        )
        return added

    demo = command("demo", _demo, help="show a rover at work, in this process alone")
    demo.add_argument(
        "--seconds", type=_number(1, 3600), default=5.0, help="how long, about (default: 5)"
    )
    demo.add_argument(
        "--servers", type=_integer(2, 20), default=4, help="how many slot servers (default: 4)"
    )

    rove = command("rove", _rove, help="rove servers and print what they give", epilog=_ROVE_EPILOG)
    rove.add_argument("server", metavar="SERVER", nargs="+", type=server_argument)
    rove.add_argument(
        "--interval",
        type=_number(0.001, 86400),
        default=1.0,
        help="seconds from one attempt to the next (default: 1)",
    )
    rove.add_argument(
        "--timeout",
        type=_number(0.001, 86400),
        default=5.0,
        help="seconds that an attempt may take (default: 5)",
    )
    rove.add_argument("--count", type=_integer(1), help="end after so many attempts")
    rove.add_argument("--json", action="store_true", help="print a JSON object per line")
    cli_tls.add_client_options(rove)

    serve = command("serve", _serve, help="be a slot server that echoes what it's sent")
    serve.add_argument(
        "listen",
        metavar="HOST:PORT",
        nargs="?",
        type=listen_argument,
        default=("127.0.0.1", 0),
        help="where to listen; port 0 is any free one (default: 127.0.0.1:0)",
    )
    serve.add_argument(
        "--stride", type=_integer(1), default=1, help="from one slot to the next (default: 1)"
    )
    serve.add_argument(
        "--offset", type=_integer(0, 10**15), default=0, help="the lowest slot (default: 0)"
    )
    serve.add_argument("--limit", type=_integer(1), help="slots in use at a time (default: any)")
    cli_tls.add_server_options(serve)
    return parser


def server_argument(text: str) -> tuple[str, Server]:
    """Return the id and the entry that a ``SERVER`` argument stands for.

    :raises argparse.ArgumentTypeError: it stands for none; the message names it.
    """
    id, where = text, text
    # A path may have a "=" of its own.
    if "=" in text and not text.startswith("unix:"):
        id, _, where = text.partition("=")
        if not id:
            raise argparse.ArgumentTypeError(f"empty ID in {text!r}")
    server: Server
    if where.startswith("unix:"):
        path = where.removeprefix("unix:")
        if path in ("", "@"):
            raise argparse.ArgumentTypeError(f"empty path in {text!r}")
        server = {"path": "\0" + path[1:] if path.startswith("@") else path}
    else:
        host, port = _host_and_port(where)
        server = {"host": host, "port": port}
    _check(server, id)
    return id, server


def listen_argument(text: str) -> tuple[str, int]:
    """Return the host and the port of an argument ``HOST:PORT``.

    :raises argparse.ArgumentTypeError: it isn't one; the message names it.
    """
    host, port = _host_and_port(text)
    _check({"host": host, "port": port or 1}, text)
    return host, port


def _check(server: Server, id: str) -> None:
    try:
        check_server(server, id)
    except InvalidServerError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT or [IPv6]:PORT, got {text!r}")
    # int() alone is no check: it takes "+80", "8_0" and digits of every script.
    if re.fullmatch("[0-9]{1,5}", port) is None or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"port must be a number up to 65535, got {text!r}")
    if bracketed:
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise argparse.ArgumentTypeError(f"not an IPv6 address in {text!r}") from None
    return host, int(port)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _number(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"expected a number from {least:g} to {most:g}, got {text!r}"
            )
        return value

    return number


def _integer(least: int, most: int = 10**9) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if re.fullmatch("[0-9]{1,18}", text) is None or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to {most}, got {text!r}"
            )
        return int(text)

    return integer
