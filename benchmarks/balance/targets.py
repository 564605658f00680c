"""What the library's choice is to reach on the model, and whether it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from benchmarks.balance.policies import LOWEST, ORACLE, OURS
from benchmarks.report import markdown

Row = dict[str, Any]

#: Of our p99 by the best other policy's: on average of the cases, and in each.
MEAN_RATIO, MOST_RATIO = 1.03, 1.15

#: Of our p99 by that of the lowest slot.
BESIDE_LOWEST = {
    ("two slow", 0.7): 0.42,
    ("started in turn", 0.7): 0.36,
    ("300 clients, two slow", 0.7): 0.2,
    ("200 servers, pools of 200", 0.7): 1.05,
}

#: The most per cent of all requests that a server may fail that fails fast.
MOST_FAILED = {"told": 1.5, "hangs up": 1.5, "not told": 12.0}

#: The least part of its fair share that a healed server is to have.
HEALED = 0.9

#: How far a strided server's requests per connection may be from the others'.
STRIDED = 0.15


@dataclass(frozen=True, slots=True)
class Target:
    """A figure, and what it was to be."""

    what: str
    #: None: the run was too short to tell.
    figure: float | None
    least: float | None = None
    most: float | None = None

    @property
    def outcome(self) -> str:
        if self.figure is None:
            return "skipped"
        low = self.least is not None and self.figure < self.least
        high = self.most is not None and self.figure > self.most
        return "missed" if low or high else "reached"

    def as_json(self) -> Row:
        return {
            "what": self.what,
            "figure": self.figure,
            "least": self.least,
            "most": self.most,
            "outcome": self.outcome,
        }


def beside_best(rows: Sequence[Row]) -> list[Row]:
    """Return our p99 in each case, the best of the others but the oracle's, and the ratio.

    Where requests fail there is none: who has more of them fail has less to answer.
    """
    found = []
    for (case, load), policies in _by_case(rows).items():
        ours = policies[OURS]
        others = [row for name, row in policies.items() if name not in (OURS, ORACLE)]
        if ours["failed, %"] is not None or not others:
            continue
        best = min(others, key=lambda row: row["p99"])
        found.append(
            {
                "case": case,
                "load": load,
                "p99": ours["p99"],
                "best": best["p99"],
                "best policy": best["policy"],
                "ratio": ours["p99"] / best["p99"],
            }
        )
    return found


def targets(rows: Sequence[Row]) -> list[Target]:
    """Return all targets that these rows tell something about."""
    return list(_targets(rows))


def _targets(rows: Sequence[Row]) -> Iterator[Target]:
    beside = beside_best(rows)
    if beside:
        ratios = [row["ratio"] for row in beside]
        yield Target("p99 / the best, mean of the cases", mean(ratios), most=MEAN_RATIO)
        worst = max(beside, key=lambda row: row["ratio"])
        name = f"{worst['case']}, {worst['load']:.0%}"
        yield Target(f"p99 / the best, most: {name}", worst["ratio"], most=MOST_RATIO)
    for (case, load), policies in _by_case(rows).items():
        ours, lowest = policies[OURS], policies.get(LOWEST)
        name = f"{case}, {load:.0%}"
        most = BESIDE_LOWEST.get((case, load))
        if most is not None and lowest is not None:
            yield Target(f"p99 / lowest slot: {name}", ours["p99"] / lowest["p99"], most=most)
        if ours["failed, %"] is not None:
            most = MOST_FAILED[ours["failure"]]
            yield Target(f"failed, %: {name}", ours["failed, %"], most=most)
        if ours["event"] == "browns out":
            yield Target(f"share of the healed: {name}", ours["healed share"], least=HEALED)
        share = ours["requests per connection"]
        if share is not None:
            what = f"requests per connection: {name}"
            yield Target(what, share, least=1 - STRIDED, most=1 + STRIDED)


def _by_case(rows: Sequence[Row]) -> dict[tuple[str, float], dict[str, Row]]:
    found: dict[tuple[str, float], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row["case"], row["load"]), {})[row["policy"]] = row
    return {case: policies for case, policies in found.items() if OURS in policies}


def ratios_table(beside: Sequence[Row]) -> str:
    """Return a table of :func:`beside_best`, in Markdown."""
    lines = [["case", "load", "p99, ms", "best, ms", "of", "ratio"]]
    lines += [
        [
            row["case"],
            f"{row['load']:.0%}",
            f"{row['p99']:.3g}",
            f"{row['best']:.3g}",
            row["best policy"],
            f"{row['ratio']:.2f}",
        ]
        for row in beside
    ]
    return markdown(lines)


def targets_table(found: Sequence[Target]) -> str:
    """Return the targets as a table, in Markdown."""
    lines = [["what", "figure", "to reach", ""]]
    for target in found:
        figure = "–" if target.figure is None else f"{target.figure:.3g}"
        least = f"≥ {target.least:g}" if target.least is not None else ""
        most = f"≤ {target.most:g}" if target.most is not None else ""
        lines.append([target.what, figure, " ".join(filter(None, (least, most))), target.outcome])
    return markdown(lines)
