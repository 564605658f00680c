"""What instruments take while nothing happens: they look all the same."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryDirectory

from benchmarks.child import python
from benchmarks.measure import Row, Spread, in_turn

_CONNECTIONS = 100

#: Servers, and what part of a core looks at them may take, in %.
_SERVERS = {4: 0.5, 200: 1.5}


def measure(rounds: int, *, quick: bool) -> list[Row]:
    seconds = 0.3 if quick else 3.0
    rounds = min(rounds, 5)
    rows = []
    with ExitStack() as stack:
        ports = stack.enter_context(python("speed.echo", 20)).receive()
        folder = stack.enter_context(TemporaryDirectory())
        for servers, target in _SERVERS.items():
            with python("metrics.client", folder, ports, servers, _CONNECTIONS) as client:
                client.receive()
                orders = {
                    name: {"instrumented": name == "instrumented", "seconds": seconds}
                    for name in ("instrumented", "bare")
                }
                figures = in_turn(
                    rounds, {name: partial(client.ask, order) for name, order in orders.items()}
                )
            pairs = zip(figures["instrumented"], figures["bare"], strict=True)
            looks = Spread.of([ours - theirs for ours, theirs in pairs])
            what = f"looks, {servers} servers, {_CONNECTIONS} connections, idle"
            rows.append(Row("looks", what, "% of a core", target, "figure", figure=looks))
    return rows
