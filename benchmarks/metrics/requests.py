"""What a request pays for instruments, beside the same process without: there's no lease more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryDirectory

from benchmarks.child import Child, python
from benchmarks.measure import Row, compare, in_turn

#: What a request may take, with instruments, as a multiple of what it takes without.
TARGET = 1.03

#: How many short turns there are for each round: the two that are compared are close to
#: each other then, and whatever else the machine does meets both.
TURNS = 4

_SERVERS = 4
_CONNECTIONS = 20

#: How the client library counts: in this process alone, or in files for all of them.
_MODES = ("one process", "several")


def measure(rounds: int, *, quick: bool) -> list[Row]:
    count = 400 if quick else 10_000
    cases = [(mode, greenlets) for mode in _MODES for greenlets in (1, 20)]
    with ExitStack() as stack:
        ports = stack.enter_context(python("speed.echo", _SERVERS)).receive()
        clients: dict[str, Child] = {}
        for mode in _MODES:
            folder = "" if mode == _MODES[0] else stack.enter_context(TemporaryDirectory())
            clients[mode] = stack.enter_context(
                python("metrics.client", folder, ports, _SERVERS, _CONNECTIONS)
            )
            clients[mode].receive()
        measures: dict[str, Callable[[], float]] = {}
        for mode, greenlets in cases:
            for instrumented in (False, True):
                order = {"instrumented": instrumented, "greenlets": greenlets, "count": count}
                name = _name(mode, greenlets, instrumented)
                measures[name] = partial(clients[mode].ask, order)
        figures = in_turn(TURNS * rounds, measures)
    return [
        compare(
            "request",
            figures,
            _name(mode, greenlets, True),
            _name(mode, greenlets, False),
            TARGET,
        )
        for mode, greenlets in cases
    ]


def _name(mode: str, greenlets: int, instrumented: bool) -> str:
    side_by_side = "1 greenlet" if greenlets == 1 else f"{greenlets} greenlets"
    return f"{'instrumented' if instrumented else 'bare'}, {mode}, {side_by_side}"
