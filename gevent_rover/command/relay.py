"""``gevent-rover relay``: balanced connections for clients that know nothing of slots."""

from __future__ import annotations

import argparse
import logging
from contextlib import ExitStack
from typing import Any, Final

from gevent.event import Event

from gevent_rover.command import arguments, tls
from gevent_rover.command.console import Output
from gevent_rover.command.servers import SERVERS, add_servers, registry_of, sources_of
from gevent_rover.command.serving import add_drain, add_listen, serve
from gevent_rover.discovery.feeder import feed
from gevent_rover.errors import RoverError
from gevent_rover.pooling.pool import SlotPool
from gevent_rover.relay import Relay
from gevent_rover.roving.rover import Rover

_log: Final = logging.getLogger("gevent_rover.cli")

HELP: Final = "give unmodified clients on this machine connections to slot servers"

EPILOG: Final = (
    SERVERS
    + """
Each client gets a connection of its own, the one that a lease of a pool would get, and keeps
it until either side ends it. --max-slots must exceed the number of clients: who finds no
connection within --timeout is closed.
docs/adoption.md has the units for systemd.
"""
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the relay can be told."""
    add_listen(parser)
    add_servers(parser)
    parser.add_argument(
        "--max-slots",
        type=arguments.integer(1),
        default=32,
        help="connections to keep, in use or not: more than there are clients (default: 32)",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.number(0, 86400),
        default=5.0,
        help="seconds that a client waits for a connection (default: 5)",
    )
    parser.add_argument(
        "--interval",
        type=arguments.number(0.001, 86400),
        default=1.0,
        help="seconds from one look for a better connection to the next (default: 1)",
    )
    parser.add_argument(
        "--connect-timeout",
        type=arguments.number(0.001, 86400),
        default=3.0,
        help="seconds to get a connection with a slot from a server (default: 3)",
    )
    add_drain(parser)
    tls.add_client_options(parser)


def run(options: argparse.Namespace, output: Output, done: Event) -> int:
    """Be a relay until ``done`` is set.

    :returns: the exit code.
    :raises BadOption: the options for TLS can't be used.
    """
    rover = Rover(
        registry_of(options),
        roving_interval=options.interval,
        timeout=options.connect_timeout,
        ssl_context=tls.client_context(options),
    )
    rover.on("error", _Errors().log)

    def make(listener: Any) -> Relay:
        return Relay(listener, pool, timeout=options.timeout)

    def last_words(relay: Relay) -> str:
        return f"closed; clients served: {relay.served}, turned away: {relay.turned_away}"

    with ExitStack() as stack:
        for source in sources_of(options):
            stack.enter_context(feed(rover, source))
        stack.enter_context(rover)
        pool = stack.enter_context(SlotPool(rover, max_slots=options.max_slots))
        return serve(make, options, output, done, last_words)


class _Errors:
    """Has the log say each error, but not again and again."""

    def __init__(self) -> None:
        self._latest = ""

    def log(self, rover: Rover, error: RoverError) -> None:
        said = f"{type(error).__name__}: {error}"
        repeated, self._latest = said == self._latest, said
        _log.log(logging.DEBUG if repeated else logging.WARNING, "error: %s", said)
