"""``python -m benchmarks.balance``: how well a pool's choice of connections spreads the load.

Real servers with workers and queues, real pools, and requests that come when they
come, whether the earlier ones are answered or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.balance.parameters import QUICK, Setup
from benchmarks.balance.policies import MEASURED
from benchmarks.balance.real import Bench, Run
from benchmarks.balance.rows import Rounds, rows_of, table
from benchmarks.balance.scenarios import SCENARIOS, Scenario
from benchmarks.report import about, arguments, heading, show, write

_OUTPUT = Path(__file__).parent / "balance.json"


def measure(
    setup: Setup, scenarios: Sequence[Scenario], rounds: int, *, quick: bool = False
) -> list[dict[str, Any]]:
    """Return a row for each scenario, load and policy."""
    figures: dict[tuple[str, float, str], Rounds] = {}
    with ExitStack() as stack:
        bench = Bench(setup, stack)
        stack.callback(bench.disconnect)
        for number in range(rounds):
            bench.start = None
            for scenario in scenarios:
                if bench.start != scenario.start:
                    bench.connect(scenario.start)
                for load in scenario.loads[-1:] if quick else scenario.loads:
                    for policy in MEASURED:
                        show(f"round {number + 1}/{rounds}: {scenario.name}, {load:.0%}, {policy}")
                        seed = 100 * number + round(100 * load)
                        for _ in range(3):
                            found = Run(bench, scenario, policy, load).figures(seed)
                            if found["lateness p99"] <= 1e3 * setup.lateness:
                                break
                        figures.setdefault((scenario.name, load, policy), []).append(found)
    show("")
    return rows_of(figures)


def main() -> None:
    parser = arguments("benchmarks.balance", __doc__, SCENARIOS, _OUTPUT)
    parser.add_argument("--rounds", type=int, help="how many rounds (default: 3)")
    parser.add_argument("--seconds", type=float, help="how long each run is measured (default: 3)")
    options = parser.parse_args()
    setup = QUICK if options.quick else Setup()
    if options.seconds:
        setup = replace(setup, seconds=options.seconds)
    rounds = options.rounds or (1 if options.quick else 3)
    names = options.only or list(SCENARIOS)
    rows = measure(setup, [SCENARIOS[name] for name in names], rounds, quick=options.quick)
    report = about("benchmarks.balance", rounds)
    report |= {"setup": asdict(setup), "rows": rows}
    print(heading(report))
    print(table(rows))
    write(options.output, report)


if __name__ == "__main__":
    main()
