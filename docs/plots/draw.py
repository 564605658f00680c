"""``python docs/plots/draw.py``: the plots of docs/explanation.md, from the benchmarks' figures."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from gevent_rover import Slots

HERE: Final = Path(__file__).parent
BENCHMARKS: Final = HERE.parents[1] / "benchmarks"

#: The same figures, the same file.
REPRODUCIBLE: Final = {"svg.hashsalt": "docs", "svg.fonttype": "none", "font.size": 9}
COLOURS: Final = ["#2e86ab", "#edae49", "#66a182", "#7b2d8b", "#8cc5dd", "#d1495b"]
OURS: Final = "#d1495b"
OTHERS: Final = "#9aa5b1"

CLIENTS: Final = len(COLOURS)
MAX_SLOTS: Final = 4
TICKS: Final = 12


# Slots


class Fleet:
    """Servers that give slots, and clients that keep the lowest ones they find.

    :param servers: how many there are at first.
    """

    def __init__(self, servers: int) -> None:
        self.slots = [Slots() for _ in range(servers)]
        # Each client's, as (slot, server).
        self.kept: list[list[tuple[int, int]]] = [[] for _ in range(CLIENTS)]
        self._random = random.Random(1)

    def fill(self, servers: int) -> None:
        """Have each client connect to some of the servers, until it has enough."""
        for kept in self.kept:
            while len(kept) < MAX_SLOTS:
                kept.append(self._connect(servers))

    def tick(self) -> None:
        """Have each client look at one server, and keep the lower slot."""
        for kept in self.kept:
            slot, server = self._connect(len(self.slots))
            highest = max(kept)
            if slot < highest[0]:
                kept.remove(highest)
                kept.append((slot, server))
                slot, server = highest
            self.slots[server].free(slot)

    def _connect(self, servers: int) -> tuple[int, int]:
        server = self._random.randrange(servers)
        slot = self.slots[server].take()
        assert slot is not None  # there is no limit
        return slot, server

    @property
    def counts(self) -> list[int]:
        """How many connections each server has."""
        return [
            sum(server == number for kept in self.kept for _, server in kept)
            for number in range(len(self.slots))
        ]


def stages() -> list[tuple[str, list[list[tuple[int, int]]], list[int]]]:
    """Return what clients hold at some times: a title, each one's slots, and counts."""
    fleet = Fleet(3)
    fleet.fill(2)
    found = []

    def look(title: str) -> None:
        found.append((title, [list(kept) for kept in fleet.kept], fleet.counts))

    look("web3 has just started")
    for _ in range(TICKS):
        fleet.tick()
    look(f"{TICKS} ticks later")
    fleet.slots.append(Slots())
    for _ in range(TICKS):
        fleet.tick()
    look(f"web4 joined {TICKS} ticks ago")
    return found


def slots() -> Any:
    """Return a plot of who holds which slot: a square for each connection."""
    found = stages()
    figure, axes = pyplot.subplots(1, len(found), figsize=(9, 2.3), sharex=True, sharey=True)
    for axis, (title, held, counts) in zip(axes, found, strict=True):
        for client, kept in enumerate(held):
            for slot, server in kept:
                axis.add_patch(
                    pyplot.Rectangle((slot + 0.08, server + 0.1), 0.84, 0.8, color=COLOURS[client])
                )
        for server, count in enumerate(counts):
            axis.text(
                max(slot for kept in held for slot, of in kept if of == server) + 1.3
                if count
                else 0.3,
                server + 0.5,
                str(count),
                va="center",
            )
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("slot")
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    most = max(slot for _, held, _ in found for kept in held for slot, _ in kept)
    axes[0].set_xlim(0, most + 3)
    axes[0].set_xticks([n + 0.5 for n in range(0, most + 1, 3)], list(range(0, most + 1, 3)))
    axes[0].set_ylim(4, 0)
    axes[0].set_yticks([n + 0.5 for n in range(4)], [f"web{n}" for n in range(1, 5)])
    figure.tight_layout()
    return figure


# Figures of the benchmarks


def slow_server() -> dict[str, dict[str, float]]:
    """Return each peer's p99 where one of four servers is slow: medians and ranges, in ms."""
    report = json.loads((BENCHMARKS / "peers" / "peers.json").read_text(encoding="utf-8"))
    return {row["peer"]: row["p99"] for row in report["rows"] if row["scenario"] == "one slow"}


def slow_shares() -> dict[str, dict[str, float]]:
    """Return each proxy's share of requests that a slow server gets: medians and ranges, in %."""
    report = json.loads((BENCHMARKS / "proxying" / "proxying.json").read_text(encoding="utf-8"))
    return {row["peer"]: row["slow share"] for row in report["rows"] if row["section"] == "balance"}


def bars(figures: dict[str, dict[str, float]], label: str, ours: str) -> Any:
    """Return a plot of a figure of each peer, with its range.

    :param ours: what the names of our own begin with, if they aren't ``SlotPool``.
    """
    figure, axis = pyplot.subplots(figsize=(7, 0.5 + 0.34 * len(figures)))
    for place, (name, spread) in enumerate(figures.items()):
        median = spread["median"]
        mine = name.startswith(("SlotPool", ours))
        axis.barh(
            place,
            median,
            0.66,
            xerr=[[median - spread["low"]], [spread["high"] - median]],
            error_kw={"elinewidth": 0.7},
            color=OURS if mine else OTHERS,
        )
        axis.text(spread["high"], place, f"  {median:.3g}", va="center")
    axis.set_yticks(range(len(figures)), list(figures))
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.set_xlim(right=axis.get_xlim()[1] * 1.1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", linewidth=0.3)
    axis.set_axisbelow(True)
    figure.tight_layout()
    return figure


def main() -> None:
    """Draw all of them, each with its figures in its description."""
    shares, latencies = slow_shares(), slow_server()
    with matplotlib.rc_context(REPRODUCIBLE):
        for name, figure, drawn in (
            ("slots", slots(), stages()),
            ("slow-server", bars(latencies, "p99, ms", "SlotPool"), latencies),
            ("slow-share", bars(shares, "requests to the slow server, %", "relay"), shares),
        ):
            description = {"Description": json.dumps(drawn), "Date": None}
            figure.savefig(HERE / f"{name}.svg", metadata=description)


if __name__ == "__main__":
    main()
