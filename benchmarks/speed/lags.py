"""How late the hub is while the rover is at its busiest."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import gevent

from benchmarks.child import python
from benchmarks.loopback import descriptors, hang, registry, silent_servers
from benchmarks.measure import Row, Spread, in_turn, percentile
from gevent_rover import Rover, SlotPool

_EVERY = 0.001


def measure(rounds: int, *, quick: bool) -> list[Row]:
    count = 200 if quick else descriptors(10_000)
    timeout = 0.5 if quick else 5.0  # more than it takes to start so many
    size = 100 if quick else descriptors(5000)
    hanging = f"hub lag (p99) while {count:,} attempts hang"
    fill = f"hub lag (p99) while a pool of {size:,} fills flat out"
    figures = in_turn(
        rounds, {hanging: lambda: _hanging(count, timeout), fill: lambda: _filling(size)}
    )
    return [
        Row("lag", what, "ms", 10, "figure", figure=Spread.of(figures[what]))
        for what in (hanging, fill)
    ]


def _lag(during: Callable[[], object]) -> float:
    """Return how late a greenlet was that wanted to run every millisecond: p99 in ms."""
    lags: list[float] = []

    def watch() -> None:
        while True:
            due = monotonic() + _EVERY
            gevent.sleep(_EVERY)
            lags.append(monotonic() - due)

    watcher = gevent.spawn(watch)
    try:
        during()
    finally:
        watcher.kill()
    return percentile(lags, 99) * 1e3


def _hanging(count: int, timeout: float) -> float:
    """Measure while they start, while all of them hang, and while their deadlines pass."""
    with silent_servers() as addresses:
        rover = Rover(registry(addresses), timeout=timeout, max_pending=count)

        def run() -> None:
            with rover:
                hang(rover, count)
                gevent.sleep(timeout)

        with gevent.Timeout(60):
            return _lag(run)


def _filling(size: int) -> float:
    with python("speed.fills", 10) as servers:
        rover = Rover(registry([(host, port) for host, port in servers.receive()]))
        with SlotPool(rover, max_slots=size) as pool:

            def fill() -> None:
                with rover:
                    while pool.size < size:
                        gevent.sleep(0.01)

            with gevent.Timeout(60):
                return _lag(fill)
