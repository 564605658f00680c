"""How the benchmarks measure: peers in turn, CPU time, medians and spread."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from time import process_time
from typing import Any, Literal

from benchmarks.report import show


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was measured, against whom, and what was to be reached."""

    section: str
    what: str
    unit: str
    target: float
    #: What the target is about: ``ratio`` to the peer's figure, or the figure itself.
    compared: Literal["ratio", "figure"]
    peer: str = ""
    figure: Spread | None = None
    peer_figure: Spread | None = None
    ratio: Spread | None = None
    #: Why there are no figures.
    skipped: str = ""
    note: str = ""

    @property
    def outcome(self) -> str:
        measured = self.ratio if self.compared == "ratio" else self.figure
        if measured is None:
            return f"skipped: {self.skipped}"
        return "reached" if measured.median <= self.target else "missed"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "outcome": self.outcome}


Rounds = Mapping[str, list[float]]


def in_turn(rounds: int, measures: Mapping[str, Callable[[], float]]) -> Rounds:
    """Take each measure once a round, one after the other, and return their figures by name.

    Whatever else the machine does meanwhile meets all of them alike. A first
    round warms up and doesn't count.
    """
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            show(f"round {number}/{rounds}: {name}")
            gc.collect()  # The garbage of one isn't charged to the next.
            figure = measure()
            if number:
                figures[name].append(figure)
    show("")
    return figures


def compare(
    section: str,
    figures: Rounds,
    what: str,
    peer: str,
    target: float,
    unit: str = "µs",
    note: str = "",
) -> Row:
    """Return the row of ``what`` against ``peer``: the ratios of each round."""
    ratios = [ours / theirs for ours, theirs in zip(figures[what], figures[peer], strict=True)]
    return Row(
        section,
        what,
        unit,
        target,
        "ratio",
        peer,
        Spread.of(figures[what]),
        Spread.of(figures[peer]),
        Spread.of(ratios),
        note=note,
    )


def cpu_of(work: Callable[[int], object], count: int) -> float:
    """Return the CPU time (user + system) of this process per operation, in µs."""
    began = process_time()
    work(count)
    return (process_time() - began) / count * 1e6


def percentile(values: list[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` % of ``values`` don't exceed."""
    values = sorted(values)
    return values[max(0, -(-int(len(values) * percent) // 100) - 1)]
