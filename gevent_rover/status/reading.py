"""Reads snapshots that others wrote: what is missing or makes no sense counts as nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from gevent_rover.policy.histogram import BOUNDS
from gevent_rover.policy.server_health import ServerState
from gevent_rover.pooling.stats import CloseReason
from gevent_rover.status.snapshot import VERSION, RoverSeen

#: What a server's state may be, the worst last; a word that isn't known is the last one.
STATES: Final[tuple[str, ...]] = (*get_args(ServerState), "unknown")

#: What a slot's state may be.
SLOT_STATES: Final = ("idle", "leased", "preparing", "retired")

#: Why connections are closed; "other": a word that isn't known.
REASONS: Final[tuple[str, ...]] = (*get_args(CloseReason), "other")

#: Gauges and counters of a pool, and of a server.
POOL_GAUGES: Final = (
    "size",
    "idle",
    "leased",
    "preparing",
    "retired",
    "candidates",
    "waiting",
    "max_slots",
    "min_slots",
)
POOL_COUNTERS: Final = ("leases", "failures", "waits", "timeouts", "rejected", "opened")
POOL_SECONDS: Final = ("lease_seconds", "wait_seconds")
SERVER_GAUGES: Final = ("idle", "leased", "preparing", "retired")
SERVER_COUNTERS: Final = ("leases", "failures", "attempts", "failed_attempts")
SERVER_SECONDS: Final = ("lease_seconds",)

# Beyond these a number makes no sense: of things, and of seconds.
_MOST: Final = 2**63
_LONGEST: Final = 1e15

# Bounds of a histogram that another version of this package may have.
_MOST_BOUNDS: Final = 1000

#: A histogram without the counts that are 0: by index.
Times = dict[int, int]


class BadSnapshot(ValueError):
    """It can't be read at all; the text says why."""


@dataclass(slots=True)
class ServerReading:
    """What one worker says of a server."""

    id: str | None
    address: str | None
    state: str
    slots: list[tuple[int, str]]
    gauges: dict[str, int]
    counters: dict[str, float]
    lease_times: Times
    latency: float
    slowness: float
    error: str | None
    error_since: float | None
    error_at: float | None


@dataclass(slots=True)
class PoolReading:
    """What one worker says of its pool."""

    closed: bool
    gauges: dict[str, int]
    counters: dict[str, float]
    closed_by: dict[str, float]
    wait_times: Times


@dataclass(slots=True)
class Reading:
    """What one worker says."""

    #: Where it was asked.
    where: str
    id: str
    pid: int
    host: str
    time: float
    #: Of the pool; None: it has none.
    name: str | None
    pool: PoolReading | None
    rover: RoverSeen | None
    servers: list[ServerReading]
    #: What it was read from.
    source: object


def read(where: str, snapshot: object) -> Reading:
    """Read a snapshot.

    :param where: where the worker was asked.
    :raises BadSnapshot: it's none, or of another version, or doesn't say whose it is.
    """
    if not isinstance(snapshot, dict):
        raise BadSnapshot("no snapshot")
    version = snapshot.get("version")
    if version != VERSION or isinstance(version, bool):
        shown = version if isinstance(version, int) and abs(version) < _MOST else "unknown"
        raise BadSnapshot(f"snapshot of version {shown}: only {VERSION} can be read")
    worker = _object(snapshot.get("worker"))
    id = _text(worker.get("id"))
    if not id:
        raise BadSnapshot("the snapshot doesn't say whose it is")
    spread = _spread_of(snapshot.get("bounds"))
    pool = snapshot.get("pool")
    rows: dict[str | None, ServerReading] = {}
    for row in _list(snapshot.get("servers")):
        if isinstance(row, dict):
            server = _server(row, spread)
            rows.setdefault(server.id, server)
    return Reading(
        where=where,
        id=id,
        pid=_count(worker.get("pid")),
        host=_text(worker.get("host")) or "",
        time=_seconds(snapshot.get("time")),
        name=_text(pool.get("name")) or "" if isinstance(pool, dict) else None,
        pool=_pool(pool, spread) if isinstance(pool, dict) else None,
        rover=_rover(snapshot.get("rover")),
        servers=list(rows.values()),
        source=snapshot,
    )


def sparse(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Return a histogram without the counts that are 0."""
    return [(index, count) for index, count in enumerate(counts) if count]


def _server(row: Mapping[str, Any], spread: Sequence[int]) -> ServerReading:
    get = row.get
    state = get("state")
    return ServerReading(
        id=_text(get("id")),
        address=_text(get("address")),
        state=state if isinstance(state, str) and state in STATES else STATES[-1],
        slots=_slots(get("slots")),
        gauges=_numbers(get, SERVER_GAUGES),
        counters=_counters(get, SERVER_COUNTERS, SERVER_SECONDS),
        lease_times=_times(get("lease_times"), spread),
        latency=_seconds(get("latency")),
        slowness=_seconds(get("slowness")) or 1.0,
        error=_text(get("error")),
        error_since=_date(get("error_since")),
        error_at=_date(get("error_at")),
    )


def _pool(pool: Mapping[str, Any], spread: Sequence[int]) -> PoolReading:
    closed_by: dict[str, float] = {}
    for reason, count in _object(pool.get("closed_by")).items():
        known = reason if reason in REASONS else REASONS[-1]
        closed_by[known] = closed_by.get(known, 0) + _count(count)
    return PoolReading(
        closed=pool.get("closed") is True,
        gauges=_numbers(pool.get, POOL_GAUGES),
        counters=_counters(pool.get, POOL_COUNTERS, POOL_SECONDS),
        closed_by=closed_by,
        wait_times=_times(pool.get("wait_times"), spread),
    )


def _rover(rover: object) -> RoverSeen | None:
    if not isinstance(rover, dict):
        return None
    return {
        "started": rover.get("started") is True,
        "pending": _count(rover.get("pending")),
        "interval": _seconds(rover.get("interval")),
    }


def _numbers(get: Callable[[str], object], names: Iterable[str]) -> dict[str, int]:
    return {name: _count(get(name)) for name in names}


def _counters(
    get: Callable[[str], object], counts: Iterable[str], seconds: Iterable[str]
) -> dict[str, float]:
    counters: dict[str, float] = {name: _count(get(name)) for name in counts}
    counters.update((name, _seconds(get(name))) for name in seconds)
    return counters


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int:
    if type(value) is int and 0 <= value < _MOST:
        return value
    return 0


def _seconds(value: object) -> float:
    if type(value) in (int, float) and 0 <= value <= _LONGEST:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    return 0.0


def _date(value: object) -> float | None:
    return _seconds(value) or None


def _pairs(value: object) -> Iterator[tuple[Any, Any]]:
    for pair in _list(value):
        if isinstance(pair, (list, tuple)) and len(pair) == 2:
            yield pair[0], pair[1]


def _slots(value: object) -> list[tuple[int, str]]:
    return [
        (slot, state)
        for slot, state in _pairs(value)
        # A slot has up to 19 digits.
        if type(slot) is int and 0 <= slot < 10**19 and state in SLOT_STATES
    ]


def _times(value: object, spread: Sequence[int]) -> Times:
    times: Times = {}
    for index, count in _pairs(value):
        if type(index) is int and 0 <= index < len(spread):
            ours = spread[index]
            times[ours] = times.get(ours, 0) + _count(count)
    return times


_SAME: Final = range(len(BOUNDS) + 1)
_OURS: Final = list(BOUNDS)


def _spread_of(bounds: object) -> Sequence[int]:
    """Return which of our counts each of a snapshot's belongs to; none: nobody knows.

    Another version of this package may have other bounds.
    """
    bounds = _list(bounds)
    if list(bounds) == _OURS:
        return _SAME
    valid = 0 < len(bounds) <= _MOST_BOUNDS and all(
        type(bound) in (int, float) and 0 < bound <= _LONGEST for bound in bounds
    )
    if not valid or list(bounds) != sorted(set(bounds)):
        return ()
    return [*(bisect_left(BOUNDS, bound) for bound in bounds), len(BOUNDS)]
