"""The figures of the real run as rows, and the rows as a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.balance.policies import OURS
from benchmarks.measure import Spread
from benchmarks.report import markdown

#: What each run of one policy measured, round by round.
Rounds = list[dict[str, float]]


def rows_of(figures: dict[tuple[str, float, str], Rounds]) -> list[dict[str, Any]]:
    """Return the rows: medians and spread over the rounds, ratios taken within each."""
    rows = []
    for (scenario, load, policy), rounds in figures.items():
        row: dict[str, Any] = {"scenario": scenario, "load": load, "policy": policy}
        for name in rounds[0]:
            row[name] = asdict(Spread.of([figure[name] for figure in rounds]))
        ours = figures[scenario, load, OURS]
        ratios = [one["p99"] / other["p99"] for one, other in zip(rounds, ours, strict=True)]
        row["p99 ratio"] = asdict(Spread.of(ratios))
        rows.append(row)
    return rows


COLUMNS = {
    "p50": "p50, ms",
    "p99": "p99, ms",
    "p99.9": "p99.9, ms",
    "p99 ratio": "p99 / ours",
    "load max/mean": "load, max/mean",
    "load variation": "load, variation",
    "connections max/mean": "connections, max/mean",
    "kept per second": "new connections /s",
    "failures": "failures",
}

#: Those of which the lowest and the highest round are shown, too.
SPREAD = ("p99", "p99 ratio")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table, in Markdown."""
    lines = [["scenario", "load", "policy", *COLUMNS.values()]]
    for row in rows:
        cells = [row["scenario"], f"{row['load']:.0%}", row["policy"]]
        for name in COLUMNS:
            spread = Spread(**row[name])
            cells.append(str(spread) if name in SPREAD else f"{spread.median:.3g}")
        lines.append(cells)
    return markdown(lines)
