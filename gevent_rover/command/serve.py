"""``gevent-rover serve``: a slot server that echoes what it's sent."""

from __future__ import annotations

import argparse
import logging
from typing import Final

from gevent.event import Event
from gevent.socket import socket as Socket

from gevent_rover.command import arguments, tls
from gevent_rover.command.console import Output
from gevent_rover.command.tls import BadOption
from gevent_rover.discovery.announcing import announce
from gevent_rover.policy.slots import Slots
from gevent_rover.serving.server import SlotServer

HELP: Final = "be a slot server that echoes what it's sent"

_log: Final = logging.getLogger("gevent_rover.cli")
_log.addHandler(logging.NullHandler())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the server can be told."""
    parser.add_argument(
        "listen",
        metavar="HOST:PORT",
        nargs="?",
        type=arguments.listener,
        default=("127.0.0.1", 0),
        help="where to listen; port 0 is any free one (default: 127.0.0.1:0)",
    )
    parser.add_argument(
        "--stride",
        type=arguments.integer(1),
        default=1,
        help="from one slot to the next (default: 1)",
    )
    parser.add_argument(
        "--offset",
        type=arguments.integer(0, 10**15),
        default=0,
        help="the lowest slot (default: 0)",
    )
    parser.add_argument(
        "--limit", type=arguments.integer(1), help="slots in use at a time (default: any)"
    )
    parser.add_argument(
        "--announce",
        metavar="URL",
        type=arguments.zookeeper_url,
        help="announce the server in ZooKeeper: zk://HOST:PORT[,HOST:PORT…]/PATH makes it a"
        " child of that node for as long as it serves (extra: zookeeper)",
    )
    tls.add_server_options(parser)


def run(options: argparse.Namespace, output: Output, done: Event) -> int:
    """Serve until ``done`` is set.

    :returns: the exit code.
    :raises BadOption: the options for TLS can't be used.
    """
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
    server = SlotServer(options.listen, echo, slots=slots, ssl_context=tls.server_context(options))
    try:
        server.start()
    except OSError as exc:
        # gevent has put the address behind the reason, as a tuple.
        reason = str(exc.strerror).partition(": (")[0]
        options.parser.report(f"can't listen on {_address(*options.listen)}: {reason}")
        return 1
    output.line(f"listening on {_address(*server.address[:2])}")
    announcement = None
    if options.announce is not None:
        try:
            announcement = announce(server, *options.announce)
        except ValueError as exc:
            raise BadOption(f"argument --announce: {exc}") from exc
    done.wait()
    server.stop(timeout=0)
    if announcement is not None:
        announcement.stop()
    output.line(f"closed; connections served: {served}")
    return 0


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
