"""``gevent-rover serve``: a slot server that echoes what it's sent."""

from __future__ import annotations

import argparse
import logging
from typing import Any, Final

from gevent.event import Event
from gevent.socket import socket as Socket

from gevent_rover.command import arguments, tls
from gevent_rover.command.console import Output
from gevent_rover.command.serving import add_slot_options, serve, slots_of
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
    add_slot_options(parser)
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

    context = tls.server_context(options)

    def make(listener: Any) -> SlotServer:
        return SlotServer(listener, echo, slots=slots_of(options), ssl_context=context)

    return serve(
        make, options, output, done, lambda server: f"closed; connections served: {served}"
    )
