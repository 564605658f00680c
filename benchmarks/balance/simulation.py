"""``python -m benchmarks.balance.simulation``: what is too large or too long for one machine.

``convergence`` lets up to 10,000 clients and 1,000 servers level themselves;
``requests`` runs the policies on a model of the real run, in some forty cases.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import Pool
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from benchmarks.balance.cases import CASES, Case
from benchmarks.balance.convergence import Phase, Simulation, as_row
from benchmarks.balance.policies import POLICIES
from benchmarks.balance.queueing import Figures, Model
from benchmarks.balance.targets import beside_best, ratios_table, targets, targets_table
from benchmarks.report import about, arguments, markdown, show, write

_MODULE = "benchmarks.balance.simulation"
_OUTPUT = Path(__file__).parent / "simulation.json"

#: Clients, servers, max_slots, roving_interval.
FleetSize = tuple[int, int, int, float]

FLEETS: tuple[FleetSize, ...] = (
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

REQUESTS = 40_000
#: Others than those that the constants of ``LeastLoaded`` were chosen with.
SEEDS = (101, 102, 103)

#: The cases of a quick run.
QUICK = (
    "steady, 70%",
    "two slow, 70%",
    "started in turn, 70%",
    "one stalls, 70%",
    "one browns out, 70%",
    "one fails fast, told, 70%",
    "one fails fast, hangs up, 70%",
    "stride 2, all workers, 70%",
)

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


def convergence(fleets: Sequence[FleetSize], most: int, seeds: int, jobs: int) -> Any:
    """Return a row for each fleet and phase (the medians), and the course of some."""
    wanted = [
        (fleet, seed, most) for fleet in fleets for seed in range(seeds if fleet[0] < 10_000 else 1)
    ]
    runs: dict[FleetSize, list[list[Phase]]] = {}
    for (fleet, _, _), phases in zip(wanted, _spread(_level, wanted, jobs), strict=True):
        runs.setdefault(fleet, []).append(phases)
    rows, courses = [], []
    for fleet, found in runs.items():
        rows += [
            _median_of([as_row(*fleet, phase) for phase in phases])
            for phases in zip(*found, strict=True)
        ]
        if fleet in COURSES:
            variations = {phase.name: phase.variations[:160] for phase in found[0]}
            courses.append({"fleet": fleet, "variations": variations})
    return {"rows": rows, "courses": courses}


def _level(job: tuple[FleetSize, int, int]) -> list[Phase]:
    fleet, seed, most = job
    return Simulation(*fleet, seed).run(most)


def requests(
    cases: Sequence[Case],
    policies: Sequence[str],
    count: int,
    seeds: Sequence[int],
    jobs: int,
) -> list[dict[str, Any]]:
    """Return a row for each case and policy: the medians over the seeds."""
    wanted = [
        (case, policy, seed, count) for case in cases for policy in policies for seed in seeds
    ]
    found = list(_spread(_run, wanted, jobs))
    rows = []
    for number in range(0, len(found), len(seeds)):
        case, policy, _, _ = wanted[number]
        what = {
            "case": case.name,
            "load": case.load,
            "event": case.event,
            "failure": case.failure if case.event == "fails fast" else "",
            "policy": policy,
        }
        rows.append(what | _median_of(found[number : number + len(seeds)]))
    return rows


def _run(job: tuple[Case, str, int, int]) -> Figures:
    case, policy, seed, count = job
    return Model(case, policy, seed).run(count)


def _spread(do: Callable[[_Job], _Result], wanted: Sequence[_Job], jobs: int) -> Iterable[_Result]:
    """Generate the results of all jobs, of which so many run at a time, in their order."""
    if jobs == 1:
        yield from map(do, wanted)
        return
    with Pool(jobs) as pool:
        for number, result in enumerate(pool.imap(do, wanted)):
            show(f"{number + 1} of {len(wanted)} runs")
            yield result
    show("")


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


def _converge(quick: bool, jobs: int) -> Any:
    if quick:
        return convergence([(10, 4, 10, 1.0), (100, 10, 10, 1.0)], 20, 1, jobs)
    return convergence(FLEETS, MOST, 3, jobs)


def _request(quick: bool, jobs: int) -> Any:
    count, seeds = (200, SEEDS[:1]) if quick else (REQUESTS, SEEDS)
    cases = [case for case in CASES if str(case) in QUICK] if quick else CASES
    rows = requests(cases, list(POLICIES), count, seeds, jobs)
    return {
        "rows": rows,
        "beside the best": beside_best(rows),
        "targets": [target.as_json() for target in targets(rows)],
    }


PARTS: dict[str, Callable[[bool, int], Any]] = {"convergence": _converge, "requests": _request}


def main() -> None:
    parser = arguments(_MODULE, __doc__, PARTS, _OUTPUT)
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    options = parser.parse_args()
    report = about(_MODULE, 1 if options.quick else 3)
    for name, part in PARTS.items():
        if not options.only or name in options.only:
            report[name] = part(options.quick, options.jobs)
            print(f"{name}\n\n{table(report[name]['rows'])}\n")
    if "requests" in report:
        rows = report["requests"]["rows"]
        print(f"least loaded beside the best\n\n{ratios_table(beside_best(rows))}\n")
        print(f"targets\n\n{targets_table(targets(rows))}")
    write(options.output, report)


if __name__ == "__main__":
    main()
