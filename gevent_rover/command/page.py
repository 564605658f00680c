"""``gevent-rover page``: what many workers are up to, as one page for a browser."""

from __future__ import annotations

import argparse
import os
from typing import Final

from gevent.event import Event

from gevent_rover.command.console import Output
from gevent_rover.command.where import WHERES, add_wheres
from gevent_rover.errors import InvalidServerError
from gevent_rover.status.app import StatusApp
from gevent_rover.status.collect import Collector
from gevent_rover.status.server import PageServer
from gevent_rover.status.sockets import parse_place

HELP: Final = "show what the workers of an app are up to as a page for browsers"

EPILOG: Final = (
    WHERES
    + """
The page shows addresses and errors to whoever can read it. So it listens on loopback alone,
or at a Unix domain socket that is its owner's alone (mode 0600); it has no option to be public.
To see it from elsewhere, take a tunnel (ssh -L 8400:127.0.0.1:8400 HOST), or a proxy that asks
who it is. Beside the page there are status.json and workers.ndjson, for programs.
"""
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command can be told."""
    add_wheres(parser)
    parser.add_argument(
        "--listen",
        metavar="LISTEN",
        type=_place,
        default="127.0.0.1:8400",
        help="where to listen: HOST:PORT on loopback (port 0 is any free one), unix:PATH or"
        " unix:@NAME (default: 127.0.0.1:8400)",
    )


def run(options: argparse.Namespace, output: Output, done: Event) -> int:
    """Serve the page until ``done`` is set.

    :returns: the exit code.
    """
    collector = Collector(*options.where)
    # Its own socket may be in a folder that it shows.
    own = os.path.basename(options.listen)
    server = PageServer(StatusApp(lambda: collector.raw(skip=own)), options.listen)
    try:
        server.start()
    except OSError as exc:
        # gevent has put the address behind the reason, as a tuple.
        reason = str(exc.strerror or exc).partition(": (")[0]
        options.parser.report(f"can't listen on {options.listen}: {reason}")
        return 1
    try:
        output.line(f"listening on {server.url}")
        done.wait()
    finally:
        server.stop()
    return 0


def _place(text: str) -> str:
    try:
        parse_place(text)
    except (ValueError, InvalidServerError) as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    return text
