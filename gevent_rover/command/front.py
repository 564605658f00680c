"""``gevent-rover front``: slots for a server that knows nothing of them."""

from __future__ import annotations

import argparse
from typing import Any, Final

from gevent.event import Event

from gevent_rover.command import arguments, tls
from gevent_rover.command.console import Output
from gevent_rover.command.serving import add_drain, add_listen, add_slot_options, serve, slots_of
from gevent_rover.serving.front import Front

HELP: Final = "be a slot server in front of an unmodified server"

EPILOG: Final = """\
Each connection is passed on to the BACKEND, which is reached first: where it refuses, or
doesn't accept in time, there's no slot line, and for a rover the server is unreachable.
docs/adoption.md has the units for systemd.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the front can be told."""
    add_listen(parser)
    parser.add_argument(
        "backend",
        metavar="BACKEND",
        type=arguments.server,
        help="the server: HOST:PORT, [IPv6]:PORT, unix:PATH or unix:@NAME",
    )
    add_slot_options(parser)
    parser.add_argument(
        "--proxy-protocol",
        action="store_true",
        help="tell the backend each client's address, by the PROXY protocol, version 2",
    )
    parser.add_argument(
        "--connect-timeout",
        type=arguments.number(0.001, 86400),
        default=5.0,
        help="seconds to reach the backend (default: 5)",
    )
    add_drain(parser)
    tls.add_server_options(parser)


def run(options: argparse.Namespace, output: Output, done: Event) -> int:
    """Be a front until ``done`` is set.

    :returns: the exit code.
    :raises BadOption: the options for TLS can't be used.
    """
    context = tls.server_context(options)
    _, backend = options.backend

    def make(listener: Any) -> Front:
        return Front(
            listener,
            backend,
            connect_timeout=options.connect_timeout,
            proxy_protocol=options.proxy_protocol,
            slots=slots_of(options),
            ssl_context=context,
        )

    def last_words(front: Front) -> str:
        return f"closed; connections served: {front.served}, without backend: {front.unreachable}"

    return serve(make, options, output, done, last_words)
