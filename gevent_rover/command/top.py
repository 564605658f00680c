"""``gevent-rover top``: what many workers are up to, as one, in a terminal."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final, TypeAlias

import gevent
from gevent.event import Event

from gevent_rover.command import arguments
from gevent_rover.command.console import Output
from gevent_rover.command.stream import Stream
from gevent_rover.command.top_cells import SERVER_COLUMNS, Glyphs, chosen
from gevent_rover.command.top_text import Frames, lines_of
from gevent_rover.command.where import WHERES, add_wheres
from gevent_rover.status.collect import Collector
from gevent_rover.status.documents import Merged
from gevent_rover.status.merge import Merger

HELP: Final = "show what the workers of an app are up to"

EPILOG: Final = (
    WHERES
    + """
On a terminal it's a screen that stays in place, as much of it as there is room for, if the
extra "cli" is installed (pip install 'gevent_rover[cli]'). Elsewhere it's lines of text, once
for each poll. Squares are slots held: ■ is leased, □ idle, ▫ being prepared, ▪ closed when it
comes back. Rates, p50 and p99 are of the last ten seconds; in parentheses: nothing was leased
then, so it's of all there was. When nobody answers any more, the latest rows stay.

With --json it's a JSON object for each poll, on a line of its own, with the keys
  time            when the latest snapshot was made, in seconds since 1970, or null
  workers         a list: "where", "id", "pid", "host", "pool", "time", "rover", and
                  "error" and "silent" (for how many seconds), null if it answers
  pools, servers  lists; numbers of all workers that answer are added up
  totals          of all of them; its counters never fall while top runs
  version, bounds the format's version, and the upper bounds of "lease_times" in seconds
Times are seconds. --sort and --filter choose among "servers" alone.

--once polls twice, --interval apart, so that there are rates, and prints the second one. Exit
code 1: nobody answered it.
"""
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command can be told."""
    add_wheres(parser)
    parser.add_argument(
        "--interval",
        type=arguments.number(0.1, 3600),
        default=1.0,
        help="seconds from one poll to the next (default: 1)",
    )
    parser.add_argument("--once", action="store_true", help="print it once, and end")
    parser.add_argument("--json", action="store_true", help="print a JSON object per line")
    parser.add_argument(
        "--sort",
        metavar="COLUMN",
        choices=[column.name for column in SERVER_COLUMNS],
        default="state",
        help="sort the servers by one of "
        + ", ".join(column.name for column in SERVER_COLUMNS)
        + " (default: state, the worst first)",
    )
    parser.add_argument(
        "--filter",
        metavar="TEXT",
        default="",
        help="show only servers with this text in their id, pool, address, state or error",
    )


def run(options: argparse.Namespace, output: Output, done: Event) -> int:
    """Show it until ``done`` is set, or once.

    :returns: the exit code.
    """
    stream = Stream(output, done)
    collector = Collector(*options.where)
    merger = Merger()
    polls = 0
    resized = Event()
    with closing(stream), _shows(options, stream, resized) as show:
        while not done.is_set():
            next_at = time.monotonic() + options.interval
            merger.add(collector.collect(), time.monotonic())
            document = merger.merged()
            polls += 1
            if not options.once or polls == 2:
                show(document)
            if options.once and polls == 2:
                return 0 if document["totals"]["workers"] else 1
            while not done.is_set() and (left := next_at - time.monotonic()) > 0:
                gevent.wait([done, resized], timeout=left, count=1)
                if resized.is_set():
                    resized.clear()
                    show(document)
    return 0


# Terminals that can't move their cursor.
_DUMB: Final = (None, "", "dumb", "unknown")

_Show: TypeAlias = "Callable[[Merged], object]"


@contextmanager
def _shows(options: argparse.Namespace, stream: Stream, resized: Event) -> Iterator[_Show]:
    """Give what shows a document, as the options and standard output want it.

    :param resized: is set when there is more or less room than there was.
    """
    if options.json:
        yield lambda document: stream.line(_json_of(document, options))
        return
    frames = Frames(options.sort, options.filter, Glyphs.of(stream.encoding))
    if stream.isatty() and not options.once and os.environ.get("TERM") not in _DUMB:
        try:
            from gevent_rover.command.top_screen import Screen
        except ImportError:  # the extra isn't installed
            options.parser.report(
                "pip install 'gevent_rover[cli]' for a screen that stays in place"
            )
        else:
            handler = gevent.signal_handler(signal.SIGWINCH, resized.set)
            try:
                with Screen(stream) as screen:
                    yield lambda document: screen.show(frames.frame(document, time.time()))
            finally:
                handler.cancel()
            return

    def show_text(document: Merged) -> None:
        lines = lines_of(frames.frame(document, time.time()))
        # Polls are told apart by an empty line.
        stream.line("\n".join(lines if options.once else [*lines, ""]))

    yield show_text


def _json_of(document: Merged, options: argparse.Namespace) -> str:
    servers = chosen(document["servers"], options.sort, options.filter)
    return json.dumps({**document, "servers": servers})
