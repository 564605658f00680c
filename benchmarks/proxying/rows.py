"""What was measured as rows, and the rows as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from benchmarks.measure import Spread
from benchmarks.report import markdown

DIRECTLY = "directly"
FRONT = "front"
HAPROXY = "HAProxy"
LARGE_HAPROXY = "HAProxy, 64 KiB buffers"
SOCAT = "socat"
RELAY = "relay, front"
TWO_HAPROXIES = "HAProxy, HAProxy"

RELAYED = "relay, fronts"
LEAST = "HAProxy leastconn"
TURNS = "HAProxy roundrobin"
POOL = "SlotPool, redis-py"

#: Who is compared with whom.
_BESIDE = {RELAY: TWO_HAPROXIES, TWO_HAPROXIES: TWO_HAPROXIES}

Row: TypeAlias = "dict[str, Any]"


@dataclass(slots=True)
class Measured:
    """What was measured of each peer, round by round, and why there is nothing of others."""

    figures: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    #: Why there is nothing of anybody.
    nothing: str = ""

    def lacks(self, reason: str) -> None:
        self.figures.clear()
        self.nothing = reason

    def row(self, section: str, what: str, peer: str) -> Row:
        """Return a peer's row: the spread of each figure, or why it's skipped."""
        row: Row = {"section": section, "what": what, "peer": peer, "skipped": ""}
        # Of a peer that stalled in a later round, the earlier ones aren't shown either.
        reason = self.nothing or self.missing.get(peer, "")
        if reason:
            row["skipped"] = reason
            return row
        for name in self.figures[peer][0]:
            if name != "shares":
                row[name] = asdict(Spread.of([figure[name] for figure in self.figures[peer]]))
        return row

    def ratio(self, peer: str, other: str, name: str) -> Spread | None:
        """Return a peer's figure as a multiple of the other's, taken within each round.

        :returns: its spread; None: there is none, since one of them has no such figure.
        """
        if self.nothing or self.missing.keys() & {peer, other}:
            return None
        pairs = [*zip(self.figures[peer], self.figures[other], strict=True)]
        if not all(one.get(name) and its.get(name) for one, its in pairs):
            return None
        return Spread.of([one[name] / its[name] for one, its in pairs])


def judge(row: Row, name: str, target: float, *, least: bool) -> None:
    """Say in a row what is to be reached, and whether it is; nothing where it wasn't measured."""
    if name not in row:
        return
    median = row[name]["median"]
    row["target"] = f"{'≥' if least else '≤'} {target:g}"
    row["outcome"] = "reached" if (median >= target if least else median <= target) else "missed"


#: What a front's requests per second are to be, as a multiple of HAProxy's.
LEAST_RATIOS = {"PING": 0.45, "GET of 64 KiB": 0.7}
#: What an idle pair may take of a front's memory, in kB.
MOST_MEMORY = 40
#: How late the hub may be, in ms.
MOST_LAG = 10

PEERS = {
    "throughput": (DIRECTLY, FRONT, HAPROXY, LARGE_HAPROXY, SOCAT, RELAY, TWO_HAPROXIES),
    "memory": (FRONT, HAPROXY, SOCAT),
    "balance": (RELAYED, LEAST, TURNS, POOL),
}


def throughput_rows(measured: Mapping[str, Measured]) -> list[Row]:
    rows = []
    for what, each in measured.items():
        for peer in PEERS["throughput"]:
            row = each.row("throughput", what, peer)
            for name, ratio in (("requests/s", "ratio"), ("cpu", "cpu ratio")):
                found = each.ratio(peer, _BESIDE.get(peer, HAPROXY), name)
                if found is not None:
                    row[ratio] = asdict(found)
            if peer == FRONT:
                judge(row, "ratio", LEAST_RATIOS[what], least=True)
            rows.append(row)
    return rows


def memory_rows(measured: Measured) -> list[Row]:
    rows = [measured.row("memory", "idle pair", peer) for peer in PEERS["memory"]]
    judge(rows[0], "resident", MOST_MEMORY, least=False)
    return rows


def lag_rows(measured: Mapping[str, Measured]) -> list[Row]:
    rows = [each.row("lag", what, FRONT) for what, each in measured.items()]
    judge(rows[-1], "p99", MOST_LAG, least=False)
    return rows


def balance_rows(measured: Measured) -> list[Row]:
    rows = []
    for peer in PEERS["balance"]:
        row = measured.row("balance", "one of four slow", peer)
        if not row["skipped"]:
            shares = zip(*(each["shares"] for each in measured.figures[peer]), strict=True)
            *others, slow = (Spread.of([*share]) for share in shares)
            row["shares"] = [asdict(share) for share in others]
            row["slow share"] = asdict(slow)
        rows.append(row)
    return rows


_COLUMNS: dict[str, dict[str, str]] = {
    "throughput": {
        "requests/s": "requests/s",
        "ratio": "÷ HAProxy's",
        "cpu": "CPU s per 100,000",
        "cpu ratio": "÷ HAProxy's",
        "p50": "p50, ms",
        "p99": "p99, ms",
    },
    "memory": {"resident": "resident, kB", "private": "its own, kB", "pairs": "pairs"},
    "lag": {"p99": "lag p99, ms", "most": "the most, ms", "rate": "requests or pairs/s"},
    "balance": {
        "slow share": "slow server, %",
        "shares": "the others, %",
        "requests/s": "requests/s",
        "p50": "p50, ms",
        "p99": "p99, ms",
        "failures": "failures",
    },
}


def tables(rows: Sequence[Row]) -> str:
    """Return a table of each section, in Markdown."""
    parts = ([row for row in rows if row["section"] == section] for section in _COLUMNS)
    return "\n\n".join(_table(part) for part in parts if part)


def _table(rows: Sequence[Row]) -> str:
    columns = _COLUMNS[rows[0]["section"]]
    lines = [["what", "peer", *columns.values(), "to reach"]]
    for row in rows:
        cells = [_cell(name, row[name]) if name in row else "" for name in columns]
        outcome = f"{row['target']}: {row['outcome']}" if "outcome" in row else ""
        if row["skipped"]:
            cells[0] = f"skipped: {row['skipped']}"
        lines.append([row["what"], row["peer"], *cells, outcome])
    return markdown(lines)


def _cell(name: str, value: Any) -> str:
    if name == "shares":
        return ", ".join(f"{share['median']:.3g}" for share in value)
    spread = Spread(**value)
    if name in ("requests/s", "rate"):
        return f"{spread.median:,.0f} ({spread.low:,.0f}–{spread.high:,.0f})"
    if name in ("pairs", "failures", "p50"):
        return f"{spread.median:,.3g}" if name == "p50" else f"{spread.high:,}"
    return str(spread)
