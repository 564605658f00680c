"""``python -m benchmarks.balance.plots``: ``balance.json`` and ``simulation.json`` as SVG."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from benchmarks.balance.policies import MEASURED, OURS

_HERE = Path(__file__).parent
_COLOURS = {
    "least loaded": "#d1495b",
    "lowest slot": "#f0a6af",
    "random": "#bdbdbd",
    "round robin": "#7d7d7d",
    "least used": "#2e86ab",
    "least used, scattered": "#8cc5dd",
    "two choices": "#edae49",
    "peak EWMA": "#66a182",
    "load × EWMA": "#7b2d8b",
    "load × EWMA, scattered": "#c08bcb",
    "oracle": "#1b1b1b",
}
#: The same figures, the same file.
_REPRODUCIBLE = {"svg.hashsalt": "balance", "svg.fonttype": "none", "font.size": 9}


def latency(rows: list[dict[str, Any]]) -> Any:
    """Return a plot of p99 in the real run, in each scenario, and of the load's variation."""
    cases = list(dict.fromkeys((row["scenario"], row["load"]) for row in rows))
    figure, axes = pyplot.subplots(2, 1, figsize=(9, 6.5), sharex=True)
    for axis, name in zip(axes, ("p99", "load variation"), strict=True):
        for number, policy in enumerate(MEASURED):
            found = {(r["scenario"], r["load"]): r[name] for r in rows if r["policy"] == policy}
            places = [place for place, case in enumerate(cases) if case in found]
            spreads = [found[cases[place]] for place in places]
            medians = [spread["median"] for spread in spreads]
            axis.bar(
                [place + (number - 3.5) / 10 for place in places],
                medians,
                0.1,
                yerr=[
                    [spread["median"] - spread["low"] for spread in spreads],
                    [spread["high"] - spread["median"] for spread in spreads],
                ],
                error_kw={"elinewidth": 0.6},
                color=_COLOURS[policy],
                label=policy,
            )
        axis.grid(axis="y", linewidth=0.3)
        axis.set_axisbelow(True)
    _logarithmic(axes[0], (100, 200, 500, 1000, 2000))
    axes[0].set_ylabel("p99, ms")
    axes[0].legend(ncols=4, loc="upper left", fontsize=7.5)
    axes[0].set_ylim(top=axes[0].get_ylim()[1] * 2.5)
    axes[1].set_ylabel("requests per capacity,\ncoefficient of variation")
    axes[1].set_xticks(
        range(len(cases)),
        ["\n".join([*wrap(scenario, 10), f"{load:.0%}"]) for scenario, load in cases],
        fontsize=8,
    )
    figure.tight_layout()
    return figure


def cases(rows: list[dict[str, Any]]) -> Any:
    """Return a plot of each policy's p99 in each case, simulated; the cases in two columns."""
    names = list(dict.fromkeys((row["case"], row["load"]) for row in rows))
    half = (len(names) + 1) // 2
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 7), sharex=True)
    for axis, shown in zip(axes, (names[:half], names[half:]), strict=True):
        for policy, colour in _COLOURS.items():
            found = {(r["case"], r["load"]): r["p99"] for r in rows if r["policy"] == policy}
            axis.scatter(
                [found[name] for name in shown],
                range(len(shown)),
                s=30 if policy == OURS else 14,
                marker="|" if policy == "oracle" else "o",
                color=colour,
                label=policy,
                zorder=3 if policy == OURS else 2,
            )
        axis.set_yticks(
            range(len(shown)),
            ["\n".join(wrap(f"{case}, {load:.0%}", 26)) for case, load in shown],
            fontsize=7,
        )
        axis.invert_yaxis()
        axis.grid(linewidth=0.3)
        axis.set_axisbelow(True)
        axis.set_xscale("log")
        ticks = (100, 200, 500, 1000, 2000, 5000)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel("p99, ms")
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="lower center", fontsize=8)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


def levelling(courses: list[dict[str, Any]]) -> Any:
    """Return a plot of how the connections of fleets level themselves, simulated."""
    phases = list(courses[0]["variations"])
    figure, axes = pyplot.subplots(1, len(phases), figsize=(9, 3.8), sharey=True)
    for axis, phase in zip(axes, phases, strict=True):
        for course in courses:
            clients, servers, max_slots, _ = course["fleet"]
            variations = course["variations"][phase]
            axis.plot(
                [(number + 1) / 4 for number in range(len(variations))],
                [max(variation, 1e-3) for variation in variations],
                label=f"{clients:,}×{servers:,}, max_slots {max_slots}",
                linewidth=1.2,
            )
        axis.set_title(phase)
        axis.set_yscale("log")
        axis.set_xlim(0, 40)
        axis.set_xlabel("roving intervals")
        axis.grid(linewidth=0.3)
    axes[0].set_ylabel("connections per server,\ncoefficient of variation")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        ncols=4,
        loc="lower center",
        fontsize=8,
        title="clients×servers",
        title_fontsize=8,
    )
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    return figure


def _logarithmic(axis: Any, ticks: tuple[int, ...]) -> None:
    axis.set_yscale("log")
    axis.set_yticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.balance.plots", description=__doc__)
    parser.add_argument("--balance", type=Path, default=_HERE / "balance.json", metavar="PATH")
    parser.add_argument(
        "--simulation", type=Path, default=_HERE / "simulation.json", metavar="PATH"
    )
    parser.add_argument("--to", type=Path, default=_HERE, metavar="DIRECTORY")
    parser.add_argument("--format", default="svg", choices=("svg", "png"))
    options = parser.parse_args()
    balance = json.loads(options.balance.read_text())
    simulation = json.loads(options.simulation.read_text())
    with matplotlib.rc_context(_REPRODUCIBLE):
        figures = {
            "balance-latency": latency(balance["rows"]),
            "simulation-cases": cases(simulation["requests"]["rows"]),
            "simulation-levelling": levelling(simulation["convergence"]["courses"]),
        }
        for name, figure in figures.items():
            date = {"Date": None} if options.format == "svg" else None
            path = options.to / f"{name}.{options.format}"
            figure.savefig(path, format=options.format, metadata=date, dpi=110)


if __name__ == "__main__":
    main()
