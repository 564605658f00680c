"""What was measured as rows, and the rows as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

from benchmarks.measure import Spread
from benchmarks.peers.site import NO_HAPROXY, OURS, PEERS
from benchmarks.report import markdown

#: What one turn of one peer measured.
Figures: TypeAlias = "dict[str, float]"

#: The figures of each peer, round by round.
Rounds: TypeAlias = "dict[str, list[Figures]]"

#: On how many cores the client, HAProxy and the servers run in the closed loop.
CLOSED = {"closed loop, one core": 1, "closed loop, two cores": 2}


def rows_of(scenario: str, figures: Mapping[str, list[Figures]]) -> list[dict[str, Any]]:
    """Return a row for each peer: medians and spread over the rounds, ratios within each.

    In the closed loop the ratio is our requests per second as a multiple of the peer's; in
    the open loop it is the peer's p99 as a multiple of ours. Above 1 ours is better.
    """
    rows = []
    for peer in PEERS.values():
        row: dict[str, Any] = {"scenario": scenario, "peer": peer.name, "skipped": ""}
        rows.append(row)
        if peer.name not in figures:
            row["skipped"] = NO_HAPROXY
            continue
        rounds = figures[peer.name]
        for name in rounds[0]:
            row[name] = asdict(Spread.of([figure[name] for figure in rounds]))
        both = zip(figures[OURS], rounds, strict=True)
        if scenario in CLOSED:
            ratio = Spread.of([ours["requests/s"] / its["requests/s"] for ours, its in both])
        else:
            ratio = Spread.of([its["p99"] / ours["p99"] for ours, its in both])
        row["ratio"] = asdict(ratio)
        if scenario in CLOSED and peer.target is not None:
            row["target"] = peer.target
            row["outcome"] = "reached" if ratio.median >= peer.target else "missed"
    return rows


def tables(rows: list[dict[str, Any]]) -> str:
    """Return a table of the closed loop and one of the open loop, in Markdown."""
    closed = [row for row in rows if row["scenario"] in CLOSED]
    opened = [row for row in rows if row["scenario"] not in CLOSED]
    parts = ((closed, _CLOSED_COLUMNS), (opened, _OPEN_COLUMNS))
    return "\n\n".join(_table(part, columns) for part, columns in parts if part)


_SHARED = {
    "p50": "p50, ms",
    "p99": "p99, ms",
    "failures": "failures",
    "client cpu": "client's CPU, µs",
    "haproxy cpu": "HAProxy's CPU, µs",
}
_CLOSED_COLUMNS = {
    "requests/s": "requests/s",
    "ratio": "ours ÷ its",
    "outcome": "to reach",
    **_SHARED,
    "servers cpu": "servers' CPU, µs",
}
_OPEN_COLUMNS = {"ratio": "p99 ÷ ours", **_SHARED}


def _table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    lines = [["scenario", "peer", *columns.values()]]
    for row in rows:
        lines.append([row["scenario"], row["peer"], *(_cell(row, name) for name in columns)])
        if row["skipped"]:
            lines[-1][2] = f"skipped: {row['skipped']}"
    return markdown(lines)


def _cell(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    if name == "outcome":
        return f"≥ {row['target']:g}×: {row['outcome']}"
    spread = Spread(**row[name])
    if name == "requests/s":
        return f"{spread.median:,.0f} ({spread.low:,.0f}–{spread.high:,.0f})"
    if name == "ratio":
        return f"{spread}×"
    return str(spread) if name == "p99" else f"{spread.median:.3g}"
