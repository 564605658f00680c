"""What ``gevent-rover top`` shows, as cells: texts, and styles for terminals that have some."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from gevent_rover.command.console import printable
from gevent_rover.status.documents import Merged, MergedPool, MergedServer, Totals
from gevent_rover.status.reading import STATES

#: A text and its style, in rich's words; "": none.
Cell = tuple[str, str]

_STYLES: Final = {
    "up": "green",
    "slow": "yellow",
    "draining": "blue",
    "suspect": "magenta",
    "set aside": "bold yellow",
    "error": "bold red",
    "unreachable": "bold red",
}

# Characters of an id or an address, and of an error or a path, that are shown at most.
_MOST: Final = 60
_MOST_ERROR: Final = 120

# Squares that are shown of a server's slots.
_MOST_SLOTS: Final = 24

# Workers without an answer that are named.
_MOST_SILENT: Final = 3


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What isn't in every terminal's character set."""

    slots: dict[str, str]
    more: str

    @classmethod
    def of(cls, encoding: str | None) -> Glyphs:
        """Return those that can be written in an encoding."""
        try:
            "■□▫▪…".encode(encoding or "ascii")
        except (UnicodeError, LookupError):
            return cls({"leased": "#", "idle": "-", "preparing": ".", "retired": "x"}, "...")
        return cls({"leased": "■", "idle": "□", "preparing": "▫", "retired": "▪"}, "…")

    def cut(self, text: str, most: int) -> str:
        """Return a text that may be anybody's as one that fits and steers no terminal."""
        # What makes it longer is done first.
        text = printable(text[: most + 1])
        return text if len(text) <= most else text[: most - len(self.more)] + self.more


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    :param value: what rows are sorted by; None comes last.
    """

    name: str
    title: str
    cell: Callable[[Any, Glyphs, float], Cell]
    value: Callable[[Any], Any]
    #: Whether the highest comes first, and whether its cells stand at the right.
    descends: bool = True
    right: bool = True


@dataclass(frozen=True, slots=True)
class Grid:
    """A table."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def servers_grid(rows: Sequence[MergedServer], glyphs: Glyphs, now: float) -> Grid:
    """Return the table of servers.

    :param now: seconds since the epoch.
    """
    several = len({row["pool"] for row in rows}) > 1
    columns = [column for column in SERVER_COLUMNS if several or column.name != "pool"]
    return Grid(columns, [[each.cell(row, glyphs, now) for each in columns] for row in rows])


def pools_grid(rows: Sequence[MergedPool], glyphs: Glyphs, now: float) -> Grid:
    """Return the table of pools."""
    columns = _POOL_COLUMNS
    return Grid(columns, [[each.cell(row, glyphs, now) for each in columns] for row in rows])


def chosen(rows: Sequence[MergedServer], sort: str, filter: str) -> list[MergedServer]:
    """Return the servers that are shown, in order.

    :param sort: a column's name.
    :param filter: what their id, pool, address, state or error has to contain, in any case.
    """
    filter = filter.casefold()
    rows = [row for row in rows if not filter or filter in _words_of(row)]
    [column] = [column for column in SERVER_COLUMNS if column.name == sort]
    rows = sorted(rows, key=lambda row: (_natural(row["pool"] or ""), _natural(row["id"] or "")))
    # Both sorts are stable.
    known = [row for row in rows if column.value(row) is not None]
    known.sort(key=column.value, reverse=column.descends)
    return known + [row for row in rows if column.value(row) is None]


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in texts by their size: web2 before web10."""
    parts = re.split("([0-9]+)", text)
    for index in range(1, len(parts), 2):
        parts[index] = parts[index].lstrip("0")
    # Of digits the length comes first. An int may be too long to be made of them.
    return [(len(part) if index % 2 else 0, part) for index, part in enumerate(parts)]


def _words_of(row: MergedServer) -> str:
    texts = (row["id"], row["pool"], row["address"], row["state"], row["error"])
    return "\n".join(text for text in texts if text).casefold()


def workers_lines(document: Merged, glyphs: Glyphs) -> list[list[Cell]]:
    """Return who answers, and who doesn't and why."""
    totals = document["totals"]
    first = [(_many(totals["workers"], "worker"), "bold")]
    if totals["silent"]:
        first.append((f"{totals['silent']:,} without an answer", "bold red"))
    lines = [first]
    silent = [worker for worker in document["workers"] if worker["error"] is not None]
    for worker in silent[:_MOST_SILENT]:
        since = f", for {age(worker['silent'])}" if worker["silent"] else ""
        where = glyphs.cut(worker["where"], _MOST_ERROR)
        lines.append([(f"{where}: {glyphs.cut(worker['error'] or '', _MOST_ERROR)}{since}", "red")])
    if len(silent) > _MOST_SILENT:
        lines.append([(f"{glyphs.more} {len(silent) - _MOST_SILENT} more", "red")])
    return lines


def totals_lines(document: Merged) -> list[list[Cell]]:
    """Return how many servers are in which state, the worst first, and what is counted."""
    totals = document["totals"]
    states = totals["states"]
    worst = sorted(states, key=STATES.index, reverse=True)
    return [
        [
            (_many(totals["servers"], "server"), "bold"),
            *((f"{states[state]:,} {state}", _STYLES.get(state, "")) for state in worst),
            (f"{totals['leased']:,} of {totals['size']:,} leased", ""),
            (f"{totals['waiting']:,} waiting", "yellow" if totals["waiting"] else ""),
        ],
        [
            (f"{_rate(totals['lease_rate'])} leases/s", "bold"),
            *(_named(name, *_quantile(totals, name)) for name in ("p50", "p99")),
            (f"leases {totals['leases']:,}", ""),
            *(_named(name, *_bad(count)) for name, count in _bad_counts(totals)),
        ],
    ]


def _bad_counts(totals: Totals) -> list[tuple[str, int]]:
    return [
        ("failures", totals["failures"]),
        ("timeouts", totals["timeouts"]),
        ("rejected", totals["rejected"]),
    ]


def seconds_text(seconds: float | None) -> str:
    """Return a duration in three digits at most."""
    if seconds is None:
        return "-"
    if seconds >= 0.9995:
        return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"
    return f"{seconds * 1000:.3g} ms" if seconds >= 1e-5 else f"{seconds * 1000:.3f} ms"


def age(seconds: float) -> str:
    """Return a time that is over, in one unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"


def _many(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _rate(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:,.0f}" if rate >= 99.95 or not rate else f"{rate:.1f}"


def _bad(count: int) -> Cell:
    return f"{count:,}", "red" if count else ""


def _named(name: str, text: str, style: str) -> Cell:
    return f"{name} {text}", style


def _quantile(row: Any, name: str, recent: str = "recent") -> Cell:
    """Return a quantile; in parentheses if it's not of now."""
    text = seconds_text(row[name])
    return (text, "") if row[recent] or row[name] is None else (f"({text})", "dim")


def _text(name: str) -> Callable[[Any, Glyphs, float], Cell]:
    def cell(row: Any, glyphs: Glyphs, now: float) -> Cell:
        return ("-", "") if row[name] is None else (glyphs.cut(row[name], _MOST), "")

    return cell


def _pool(row: Any, glyphs: Glyphs, now: float) -> Cell:
    name = glyphs.cut(row["name"], _MOST)
    if not row["closed"]:
        return name, ""
    return f"{name} (closed {row['closed']}/{row['workers']})", "dim"


def _state(row: Any, glyphs: Glyphs, now: float) -> Cell:
    state, workers = row["state"], row["workers"]
    agreed = row["state_workers"] == workers
    text = state if agreed else f"{state} {row['state_workers']}/{workers}"
    return text, _STYLES.get(state, "")


def _slots(row: Any, glyphs: Glyphs, now: float) -> Cell:
    slots = row["slots"]
    text = "".join(glyphs.slots[state] for _, state in slots[:_MOST_SLOTS])
    more = len(slots) - _MOST_SLOTS
    return (f"{text} +{more}" if more > 0 else text), ""


def _error(row: Any, glyphs: Glyphs, now: float) -> Cell:
    over = row["state"] in ("up", "slow", "draining")
    return glyphs.cut(row["error"] or "", _MOST_ERROR), "dim" if over else ""


def _since(row: Any, glyphs: Glyphs, now: float) -> Cell:
    since = row["error_since"]
    over = row["state"] in ("up", "slow", "draining")
    return ("", "") if since is None else (age(now - since), "dim" if over else "")


def _count(name: str, title: str, *, bad: bool = False) -> Column:
    def cell(row: Any, glyphs: Glyphs, now: float) -> Cell:
        return _bad(row[name]) if bad else (f"{row[name]:,}", "")

    return Column(name, title, cell, itemgetter(name))


def _time(name: str, title: str, recent: str = "recent") -> Column:
    return Column(
        name, title, lambda row, glyphs, now: _quantile(row, name, recent), itemgetter(name)
    )


_RATE: Final = Column(
    "rate",
    "leases/s",
    lambda row, glyphs, now: (_rate(row["lease_rate"]), ""),
    itemgetter("lease_rate"),
)


def _words(
    name: str, title: str, cell: Callable[[Any, Glyphs, float], Cell] | None = None, key: str = ""
) -> Column:
    def value(row: Any) -> Any:
        text = row[key or name]
        return None if text is None else _natural(text)

    return Column(name, title, cell or _text(name), value, descends=False, right=False)


#: The columns of servers, by the names that the page has for them.
SERVER_COLUMNS: Final = (
    _words("id", "server"),
    _words("pool", "pool"),
    _words("address", "address"),
    Column("state", "state", _state, lambda row: STATES.index(row["state"]), right=False),
    Column("slots", "slots", _slots, lambda row: len(row["slots"]), right=False),
    _count("idle", "idle"),
    _count("leased", "leased"),
    _RATE,
    _time("p50", "p50"),
    _time("p99", "p99"),
    _count("leases", "leases"),
    _count("failures", "failures", bad=True),
    Column("since", "since", _since, itemgetter("error_since")),
    _words("error", "latest error", _error),
)

_POOL_COLUMNS: Final = (
    _words("pool", "pool", _pool, "name"),
    _count("workers", "workers"),
    _count("size", "size"),
    _count("max_slots", "of"),
    _count("idle", "idle"),
    _count("leased", "leased"),
    _RATE,
    _time("p50", "p50"),
    _time("p99", "p99"),
    _count("waiting", "waiting"),
    _time("wait_p99", "waits' p99", "waits_recent"),
    _count("leases", "leases"),
    _count("failures", "failures", bad=True),
    _count("timeouts", "timeouts", bad=True),
    _count("rejected", "rejected", bad=True),
)
