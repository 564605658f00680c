"""``python -m benchmarks.peers``: a pool side by side with two choices by hand and with HAProxy.

In the closed loop, requests flat out; in the open loop, requests that come when they come,
while servers are slow, die or join. The peers take turns within each round.

There are two cores: this process has one for itself, and HAProxy shares the other one with
the servers. The closed loop is measured on a single core, too, since waking a process
on another core can cost the client as much as the rest of a request.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from benchmarks.peers import closed, opened
from benchmarks.peers.opened import SCENARIOS
from benchmarks.peers.rows import CLOSED, rows_of, tables
from benchmarks.peers.site import Setup
from benchmarks.report import about, arguments, heading, show, write

_OUTPUT = Path(__file__).parent / "peers.json"

_QUICK = Setup(
    greenlets=4,
    requests=400,
    requests_once=100,
    clients=2,
    max_slots=8,
    mean=0.008,
    seconds=0.15,
    warm_up=0.05,
    lateness=10.0,
)


def main() -> None:
    parser = arguments("benchmarks.peers", __doc__, [*CLOSED, *SCENARIOS], _OUTPUT)
    parser.add_argument("--rounds", type=int, help="how many rounds (default: 3)")
    options = parser.parse_args()
    setup = _QUICK if options.quick else Setup()
    names = options.only or [*CLOSED, *SCENARIOS]
    rounds = options.rounds or (1 if options.quick else 3)
    rows = []
    for name in CLOSED:
        if name in names:
            rows += rows_of(name, closed.measure(setup, name, rounds))
    scenarios = [scenario for name, scenario in SCENARIOS.items() if name in names]
    if scenarios:
        for name, figures in opened.measure(setup, scenarios, rounds).items():
            rows += rows_of(name, figures)
    show("")
    report = about("benchmarks.peers", rounds)
    report |= {"setup": asdict(setup), "rows": rows}
    print(heading(report))
    print(tables(rows))
    write(options.output, report)


if __name__ == "__main__":
    main()
