"""What the starts measured as rows, and the rows as a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.measure import Spread
from benchmarks.report import markdown
from benchmarks.workers.parameters import BY_HAND, OURS, PEERS, Part

#: What each start of one peer measured, in turn.
Starts = list[dict[str, float]]

#: Percent of the requests that the busiest server may get: the median, and in any start.
SHARE = 28.0
ANY_SHARE = 34.0
#: What our p99 beside a slow server may be, as a multiple of that of two choices by hand.
RATIO = 0.6


def rows_of(figures: dict[Part, dict[str, Starts]]) -> list[dict[str, Any]]:
    """Return the rows: medians and spread over the starts, ratios taken within each."""
    rows = []
    for part, starts in figures.items():
        for peer in PEERS:
            spreads = {
                name: Spread.of([start[name] for start in starts[peer]]) for name in starts[peer][0]
            }
            pairs = zip(starts[peer], starts[BY_HAND], strict=True)
            spreads["p99 ratio"] = Spread.of([one["p99"] / other["p99"] for one, other in pairs])
            row: dict[str, Any] = {"section": part.section, "clients": part.clients}
            row |= {"what": part.what, "peer": peer}
            row |= {name: asdict(spread) for name, spread in spreads.items()}
            target, is_reached = _judge(part, spreads) if peer == OURS else ("", None)
            row["target"] = target
            row["outcome"] = {True: "reached", False: "missed", None: ""}[is_reached]
            rows.append(row)
    return rows


def _judge(part: Part, spreads: dict[str, Spread]) -> tuple[str, bool | None]:
    """Return what is to be reached, and whether it is; None where nothing is."""
    if part.section == "share":
        share = spreads["busiest server"]
        is_reached = share.median <= SHARE and share.high <= ANY_SHARE
        return f"busiest {SHARE:g} %, in no start above {ANY_SHARE:g} %", is_reached
    if part.section == "slow":
        return f"p99 {RATIO:g}×", spreads["p99 ratio"].median <= RATIO
    return "", None


COLUMNS = {
    "busiest server": "busiest server, %",
    "first server": "slow or failing one, %",
    "p50": "p50, ms",
    "p99": "p99, ms",
    "p99 ratio": "p99 / by hand",
    "busiest worker": "busiest worker, %",
}

#: Those of which only the median is shown.
MEDIANS = ("p50", "busiest worker")


def others(rows: list[dict[str, Any]]) -> str:
    """Return how busy the machine was with something else, which makes latencies longer."""
    shares = [row["cpu of others"] for row in rows]
    mean = sum(share["median"] for share in shares) / len(shares)
    highest = max(share["high"] for share in shares)
    return f"\nOther processes took {mean:.0f} % of the cores, at most {highest:.0f} %."


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table, in Markdown."""
    lines = [["section", "clients", "peer", *COLUMNS.values(), "to reach", ""]]
    for row in rows:
        what = f"{row['section']}: {row['what']}" if row["what"] else row["section"]
        cells = [what, str(row["clients"]), row["peer"]]
        for name in COLUMNS:
            spread = Spread(**row[name])
            shown = f"{spread.median:.3g}" if name in MEDIANS else str(spread)
            alike = name == "first server" and row["section"] in ("unsettled", "share")
            cells.append("" if alike else shown)
        lines.append([*cells, row["target"], row["outcome"]])
    return markdown(lines)
