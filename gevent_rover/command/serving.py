"""What the commands have in common that accept connections: from listening to their end."""

from __future__ import annotations

import argparse
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import gevent
from gevent.event import Event

from gevent_rover.command import arguments
from gevent_rover.command.console import Output
from gevent_rover.command.tls import BadOption
from gevent_rover.discovery.announcing import announce
from gevent_rover.net.unix import listen_at
from gevent_rover.policy.slots import Slots
from gevent_rover.registry import host_and_port
from gevent_rover.serving.base import ConnectionServer

_Server = TypeVar("_Server", bound=ConnectionServer)


def add_listen(parser: argparse.ArgumentParser) -> None:
    """Add where to listen."""
    parser.add_argument(
        "listen",
        metavar="LISTEN",
        type=arguments.listener_or_path,
        help="where to listen: HOST:PORT (port 0 is any free one), [IPv6]:PORT, unix:PATH or"
        " unix:@NAME",
    )


def add_slot_options(parser: argparse.ArgumentParser) -> None:
    """Add which slots a server gives, and where it's announced."""
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
    parser.add_argument(
        "--announce-as",
        metavar="HOST:PORT",
        type=arguments.listener,
        help="where others reach it (default: where it listens)",
    )


def add_drain(parser: argparse.ArgumentParser) -> None:
    """Add how long connections may go on after SIGTERM."""
    parser.add_argument(
        "--drain",
        type=arguments.number(0, 86400),
        default=10.0,
        help="seconds that connections in use may go on after SIGTERM or SIGINT; a second"
        " one ends them at once (default: 10)",
    )


def slots_of(options: argparse.Namespace) -> Slots:
    """Return the slots of a server with these options."""
    return Slots(stride=options.stride, offset=options.offset, limit=options.limit)


def serve(
    make: Callable[[Any], _Server],
    options: argparse.Namespace,
    output: Output,
    done: Event,
    last_words: Callable[[_Server], str],
) -> int:
    """Listen and serve until ``done`` is set, and then for ``options.drain`` seconds at most.

    :param make: makes the server, from where it's to listen.
    :param last_words: what to say at the end, of the server.
    :returns: the exit code.
    :raises BadOption: the server can't be announced.
    """
    _allow_descriptors()
    announce_at = getattr(options, "announce", None)
    if announce_at is None and getattr(options, "announce_as", None) is not None:
        raise BadOption("argument --announce-as: needs --announce")
    place = options.listen
    try:
        server = make(listen_at(place) if isinstance(place, str) else place)
        server.start()
    except OSError as exc:
        # gevent has put the address behind the reason, as a tuple.
        reason = str(exc.strerror).partition(": (")[0]
        options.parser.report(f"can't listen on {_text_of(place)}: {reason}")
        return 1
    output.line(f"listening on {_text_of(server.address)}")
    announcement = None
    if announce_at is not None:
        try:
            host, port = options.announce_as or (None, None)
            announcement = announce(server, *announce_at, host=host, port=port or None)
        except ValueError as exc:
            raise BadOption(f"argument --announce: {exc}") from exc
    done.wait()
    _stop(server, getattr(options, "drain", 0.0))
    if announcement is not None:
        announcement.stop()
    if isinstance(place, str) and not place.startswith("\0"):
        Path(place).unlink(missing_ok=True)
    output.line(last_words(server))
    return 0


def _stop(server: ConnectionServer, drain: float) -> None:
    """Stop a server; at once if there is another signal meanwhile."""
    at_once = Event()
    handlers: list[Any] = [
        gevent.signal_handler(number, at_once.set) for number in (signal.SIGINT, signal.SIGTERM)
    ]
    stopping = gevent.spawn(server.stop, drain)
    stopping.rawlink(lambda stopping: at_once.set())
    at_once.wait()
    if not stopping.ready():
        server.stop(timeout=0)
        stopping.join()
    for handler in handlers:
        handler.cancel()


def _allow_descriptors() -> None:
    """Allow this process as many descriptors as it may have: each client takes one or two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _text_of(address: Any) -> str:
    if isinstance(address, bytes):  # an abstract name, as the kernel has it
        address = os.fsdecode(address)
    if isinstance(address, str):
        return "unix:" + address.replace("\0", "@", 1)
    host, port = address[:2]
    return host_and_port(host, port)
