"""``gevent-rover rove``: a rover that prints what each attempt gave, and sums up."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, Final

from gevent.event import Event

from gevent_rover.command import arguments, tls
from gevent_rover.command.console import Output, printable, table
from gevent_rover.command.servers import SERVERS, add_servers, registry_of, sources_of
from gevent_rover.discovery.feeder import feed
from gevent_rover.models import Attempt
from gevent_rover.roving.rover import Rover

HELP: Final = "rove servers and print what they give"

EPILOG: Final = (
    SERVERS
    + """
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
)

_OUTCOMES: Final = ("connection", "unreachable", "error")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the rover can be told."""
    add_servers(parser)
    parser.add_argument(
        "--interval",
        type=arguments.number(0.001, 86400),
        default=1.0,
        help="seconds from one attempt to the next (default: 1)",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.number(0.001, 86400),
        default=5.0,
        help="seconds that an attempt may take (default: 5)",
    )
    parser.add_argument("--count", type=arguments.integer(1), help="end after so many attempts")
    parser.add_argument("--json", action="store_true", help="print a JSON object per line")
    tls.add_client_options(parser)


def run(options: argparse.Namespace, output: Output, done: Event) -> int:
    """Rove until ``done`` is set, or for so many attempts, and sum up.

    :returns: the exit code.
    :raises BadOption: the options for TLS can't be used.
    """
    servers = registry_of(options)
    width = max((len(printable(id)) for id in servers), default=0)
    tally = _Tally()

    def show(rover: Rover, attempt: Attempt) -> None:
        if done.is_set() or tally.total == options.count:
            return
        nonlocal width
        width = max(width, len(printable(attempt.id or "")))
        tally.add(attempt)
        last = tally.total == options.count
        output.line(_json_of(attempt) if options.json else _text_of(attempt, width))
        if last:
            done.set()

    rover = Rover(
        servers,
        roving_interval=options.interval,
        timeout=options.timeout,
        ssl_context=tls.client_context(options),
    )
    # Nobody receives "connection": the rover closes the sockets.
    rover.on("error", lambda rover, error: None)
    rover.on("attempt", show)
    with ExitStack() as stack:
        for source in sources_of(options):
            stack.enter_context(feed(rover, source))
        stack.enter_context(rover)
        done.wait()
    ids = list(dict.fromkeys([*servers, *tally.ids]))
    for line in [tally.json(ids)] if options.json else tally.lines(ids):
        output.line(line)
    return 0


class _Tally:
    """How many attempts ended in which way, and the lowest slot of each server."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._outcomes: Counter[tuple[str | None, str]] = Counter()
        self._lowest: dict[str, int] = {}

    @property
    def total(self) -> int:
        """How many attempts there were."""
        return self._outcomes.total()

    @property
    def ids(self) -> list[str]:
        """The servers that there were attempts at."""
        return [id for id, _ in self._outcomes if id is not None]

    def add(self, attempt: Attempt) -> None:
        """Count an attempt."""
        self._outcomes[attempt.id, attempt.outcome] += 1
        if attempt.id is not None and attempt.slot is not None:
            lowest = self._lowest.get(attempt.id, attempt.slot)
            self._lowest[attempt.id] = min(attempt.slot, lowest)

    def json(self, ids: Iterable[str]) -> str:
        """Return the summary as a JSON object."""
        servers: dict[str, dict[str, Any]] = {
            id: {
                **{name: self._outcomes[id, name] for name in _OUTCOMES},
                "lowest_slot": self._lowest.get(id),
            }
            for id in ids
        }
        return json.dumps(
            {
                "event": "summary",
                "time": time.time(),
                "elapsed": round(self._elapsed(), 6),
                "attempts": self.total,
                "servers": servers,
            }
        )

    def lines(self, ids: Iterable[str]) -> list[str]:
        """Return the summary as a table."""
        title = f"--- attempts: {self.total}, in {self._elapsed():.1f} s ---"
        rows = [
            [
                printable(id),
                *(self._outcomes[id, name] for name in _OUTCOMES),
                self._lowest.get(id, "-"),
            ]
            for id in ids
        ]
        header = ["server", "connections", "unreachable", "errors", "lowest slot"]
        return ["", title, *table(header, rows)]

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


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
