"""``python -m benchmarks.balance.simulation``: what is too large or too long for one machine.

``convergence`` lets up to 10,000 clients and 1,000 servers level themselves;
``requests`` runs the policies on a model of the real run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.balance.convergence import Phase, Simulation, as_row
from benchmarks.balance.parameters import Setup, Start
from benchmarks.balance.policies import POLICIES
from benchmarks.balance.queueing import Model
from benchmarks.report import about, arguments, markdown, show, write

_MODULE = "benchmarks.balance.simulation"
_OUTPUT = Path(__file__).parent / "simulation.json"

#: Clients, servers, max_slots, roving_interval.
FLEETS = (
    (10, 4, 10, 1.0),
    (10, 4, 100, 1.0),
    (100, 10, 10, 0.1),
    (100, 10, 10, 1.0),
    (100, 10, 10, 10.0),
    (100, 10, 30, 1.0),
    (100, 10, 100, 1.0),
    (1000, 10, 10, 1.0),
    (1000, 100, 10, 1.0),
    (1000, 100, 30, 1.0),
    (1000, 100, 100, 1.0),
    (100, 1000, 30, 1.0),
    (10_000, 1000, 10, 1.0),
    (10_000, 1000, 30, 1.0),
)
#: How many intervals a phase may take.
MOST = 200
#: Of which fleets the JSON has the course, for the plots.
COURSES = FLEETS[3], FLEETS[6], FLEETS[8], FLEETS[12]

LOADS = (0.1, 0.3, 0.5, 0.7, 0.9)
#: How the clients started, and at which loads that is looked at.
STARTS: dict[Start, tuple[float, ...]] = {
    "together": LOADS,
    "in turn": (0.3, 0.7, 0.9),
    "restarted": (0.3, 0.7, 0.9),
}
REQUESTS = 50_000
#: What is varied, the others being as in the real run, with two slow servers and 70 %.
VARIED = {"pools": (10, 30, 100, 300), "max_slots": (3, 5, 10, 20, 50)}


def convergence(fleets: Sequence[tuple[int, int, int, float]], most: int, seeds: int) -> Any:
    """Return a row for each fleet and phase (the medians), and the course of some."""
    rows, courses = [], []
    for fleet in fleets:
        clients, servers, max_slots, interval = fleet
        runs: list[list[Phase]] = []
        for seed in range(seeds if clients < 10_000 else 1):
            show(f"{clients} clients, {servers} servers, max_slots {max_slots}, seed {seed}")
            runs.append(Simulation(clients, servers, max_slots, interval, seed).run(most))
        for phases in zip(*runs, strict=True):
            each = [as_row(clients, servers, max_slots, interval, phase) for phase in phases]
            rows.append(_median_of(each))
        if fleet in COURSES:
            courses.append(
                {
                    "fleet": fleet,
                    "variations": {phase.name: phase.variations[:160] for phase in runs[0]},
                }
            )
    return {"rows": rows, "courses": courses}


def requests(
    setups: Sequence[tuple[Setup, Start, int, float]],
    policies: Sequence[str],
    count: int,
    seeds: int,
) -> list[dict[str, Any]]:
    """Return a row for each setup, number of slow servers, load and policy: the medians."""
    rows = []
    for setup, start, slow, load in setups:
        for policy in policies:
            pools = f"{setup.pools} pools of {setup.max_slots} {start}"
            show(f"{pools}, {slow} slow, {load:.0%}, {policy}")
            what = {
                "pools": setup.pools,
                "max_slots": setup.max_slots,
                "start": start,
                "slow": slow,
                "load": load,
                "policy": policy,
            }
            runs = [
                Model(setup, policy, load, slow, start, seed).run(count) for seed in range(seeds)
            ]
            rows.append(what | _median_of(runs))
    return rows


def _median_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each number; of times that aren't always there: None if one isn't."""
    found: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if isinstance(values[0], str):
            found[name] = values[0]
        elif None in values:
            found[name] = None
        else:
            found[name] = median(values)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table, in Markdown."""
    lines = [list(rows[0])]
    lines += [[_cell(value) for value in row.values()] for row in rows]
    return markdown(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _converge(quick: bool) -> Any:
    if quick:
        return convergence([(10, 4, 10, 1.0), (100, 10, 10, 1.0)], 20, 1)
    return convergence(FLEETS, MOST, 3)


def _request(quick: bool) -> Any:
    setup = Setup()
    count, seeds = (1000, 1) if quick else (REQUESTS, 3)
    main: list[tuple[Setup, Start, int, float]] = [
        (setup, start, slow, load)
        for start, loads in STARTS.items()
        for slow in (0, 2)
        for load in ((0.7,) if quick else loads)
    ]
    varied: list[tuple[Setup, Start, int, float]] = [
        (replace(setup, **{name: value}), "together", 2, 0.7)
        for name, values in VARIED.items()
        for value in (values[:1] if quick else values)
    ]
    policies = list(POLICIES)
    return {
        "rows": requests(main, policies, count, seeds),
        "varied": requests(varied, policies, count, seeds),
    }


PARTS: dict[str, Callable[[bool], Any]] = {"convergence": _converge, "requests": _request}


def main() -> None:
    options = arguments(_MODULE, __doc__, PARTS, _OUTPUT).parse_args()
    report = about(_MODULE, 1 if options.quick else 3)
    for name, part in PARTS.items():
        if not options.only or name in options.only:
            report[name] = part(options.quick)
            show("")
            print(f"{name}\n\n{table(report[name]['rows'])}\n")
            if "varied" in report[name]:
                print(f"{table(report[name]['varied'])}\n")
    write(options.output, report)


if __name__ == "__main__":
    main()
