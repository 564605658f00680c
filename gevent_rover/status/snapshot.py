"""What a client's rover and pool are up to at a moment, as plain JSON: the one reader of both."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from time import monotonic, time
from typing import Any, Final, TypeAlias, TypedDict

from gevent_rover.policy.health import Health
from gevent_rover.policy.histogram import BOUNDS
from gevent_rover.policy.server_health import ServerHealth, ServerState
from gevent_rover.pooling.pool import SlotPool
from gevent_rover.pooling.stats import CloseReason, PoolStats, ServerUse
from gevent_rover.registry import address_of
from gevent_rover.roving.rover import Rover

#: Of the format: it changes when a reader has to.
VERSION: Final = 1

#: A histogram without the counts that are 0: each index of the others, and its count.
SparseHistogram = list[tuple[int, int]]


class WorkerSeen(TypedDict):
    """The process that a snapshot is of."""

    #: No other process has it, not even a later one with the same number.
    id: str
    pid: int
    host: str


class RoverSeen(TypedDict):
    """A rover."""

    started: bool
    #: Attempts that aren't published yet.
    pending: int
    #: Seconds from one attempt to the next.
    interval: float


class PoolGauges(TypedDict):
    """How a pool is right now; see :class:`PoolStats`."""

    size: int
    idle: int
    leased: int
    preparing: int
    retired: int
    candidates: int
    waiting: int
    max_slots: int
    min_slots: int


class PoolSeen(PoolGauges):
    """A pool: gauges, and counters since it was made."""

    name: str
    closed: bool
    leases: int
    lease_seconds: float
    failures: int
    waits: int
    wait_seconds: float
    timeouts: int
    rejected: int
    opened: int
    #: Only the reasons that there were.
    closed_by: dict[CloseReason, int]
    wait_times: SparseHistogram


class ServerSeen(TypedDict):
    """A server, as this client sees it."""

    #: None: of all connections of which nobody knows the server.
    id: str | None
    #: As :func:`parse_server` reads it; None: nobody knows, or the entry isn't valid.
    address: str | None
    #: In a word: a :data:`ServerState`.
    state: str
    #: Those held, the lowest first, and what state each is in.
    slots: Sequence[tuple[int, str]]
    idle: int
    leased: int
    preparing: int
    retired: int
    #: Leases that began, seconds that they took, and how many failed by the server's fault.
    leases: int
    lease_seconds: float
    failures: int
    #: Attempts of the rover, and how many of these got no slot.
    attempts: int
    failed_attempts: int
    #: Seconds that a lease takes, a moving average (0: unknown), and how many times slower
    #: than typical that is.
    latency: float
    slowness: float
    #: How long leases took that were answered.
    lease_times: SparseHistogram
    #: What went wrong latest, when this run of failures began, and when the latest one was,
    #: in seconds since the epoch; None: nothing.
    error: str | None
    error_since: float | None
    error_at: float | None


class Snapshot(TypedDict):
    """A client at a moment. Times are seconds, and dates are seconds since the epoch."""

    version: int
    time: float
    worker: WorkerSeen
    #: The upper bounds of the histograms' counts, in seconds; one more count is beyond them.
    bounds: Sequence[float]
    rover: RoverSeen | None
    pool: PoolSeen | None
    servers: list[ServerSeen]


def snapshot(
    rover: Rover | None, pool: SlotPool[Any] | None = None, *, name: str = "pool"
) -> Snapshot:
    """Return what can be seen of a rover and its pool right now. Doesn't switch.

    It takes time in proportion to the servers and connections: some 5 µs for each. What it
    says of a server is no secret of the process: its address, and in ``error`` what an
    exception said, in 300 characters at most.

    :param rover: whose registry it is; None: the pool has none.
    :param pool: None: somebody else takes the rover's connections.
    :param name: of the pool, to tell it from others of the same process.
    """
    epoch = time() - monotonic()
    rows = [_row_of(each, epoch) for each in servers_of(rover, pool)]
    servers: Any = [dict(zip(KEYS, row, strict=True)) for row in rows]
    return {**without_servers(rover, pool, name), "servers": servers}


def without_servers(rover: Rover | None, pool: SlotPool[Any] | None, name: str) -> Snapshot:
    """Return the rest of a snapshot."""
    return {
        "version": VERSION,
        "time": time(),
        "worker": _worker(),
        "bounds": BOUNDS,
        "rover": None if rover is None else _rover(rover),
        "pool": None if pool is None else _pool(name, pool, pool.stats(servers=False)),
        "servers": [],
    }


#: Those of a :class:`ServerSeen`, in order.
KEYS: Final = tuple(ServerSeen.__annotations__)

#: A server: its id, its address, its state if that isn't its record's, what is known of it,
#: and what the pool makes of it.
ServerView: TypeAlias = "tuple[str | None, str | None, ServerState | None, ServerHealth, ServerUse]"


def servers_of(rover: Rover | None, pool: SlotPool[Any] | None) -> Iterator[ServerView]:
    """Yield what is known of each server, as it is."""
    used = {} if pool is None else pool.use()
    if rover is None:
        health = Health() if pool is None else pool.health
        for id, use in used.items():
            yield id, None, None, health.get(id) or _UNKNOWN, use
        return
    known, use_of = rover.health.get, used.get
    registry = dict(rover.servers)  # Another thread may change it.
    address: str | None
    for id, server in registry.items():
        try:
            address = address_of(server)
        except (KeyError, TypeError, AttributeError):  # not a valid entry: users write them
            address = None
        yield id, address, None, known(id) or _UNKNOWN, use_of(id, UNUSED)
    # Those that left, for as long as connections to them are in use; and all connections of
    # which nobody knows the server.
    for id, use in used.items():
        if id not in registry and use.slots:
            yield id, None, None if id is None else "draining", known(id) or _UNKNOWN, use


def _row_of(server: ServerView, epoch: float) -> tuple[Any, ...]:
    """Return the values of a :class:`ServerSeen`.

    :param epoch: the date at which the monotonic clock began.
    """
    id, address, state, record, use = server
    trouble = record.trouble
    error: tuple[str | None, float | None, float | None] = (None, None, None)
    if trouble is not None:
        error = trouble.text, epoch + trouble.since, epoch + trouble.at
    return (
        id,
        address,
        record.state if state is None else state,
        *use,
        record.attempts,
        record.failed_attempts,
        record.latency,
        record.slowness,
        _sparse(record.lease_times),
        *error,
    )


# The process: its number, and the rest of what its id is made of. A fork makes another.
_process: tuple[int, str] = (0, "")
_HOST: Final = socket.gethostname()


def _worker() -> WorkerSeen:
    global _process  # noqa: PLW0603  # one for the process, as its number is
    pid = os.getpid()
    if _process[0] != pid:
        _process = pid, f"{pid}-{secrets.token_hex(6)}"
    return {"id": _process[1], "pid": pid, "host": _HOST}


def _rover(rover: Rover) -> RoverSeen:
    return {"started": rover.started, "pending": rover.pending, "interval": rover.roving_interval}


def _pool(name: str, pool: SlotPool[Any], stats: PoolStats) -> PoolSeen:
    return {
        "name": name,
        "closed": pool.closed,
        "size": stats.size,
        "idle": stats.idle,
        "leased": stats.leased,
        "preparing": stats.preparing,
        "retired": stats.retired,
        "candidates": stats.candidates,
        "waiting": stats.waiting,
        "max_slots": stats.max_slots,
        "min_slots": stats.min_slots,
        "leases": stats.leases,
        "lease_seconds": stats.lease_seconds,
        "failures": stats.failures,
        "waits": stats.waits,
        "wait_seconds": stats.wait_seconds,
        "timeouts": stats.timeouts,
        "rejected": stats.rejected,
        "opened": stats.opened,
        "closed_by": {reason: count for reason, count in stats.closed.items() if count},
        "wait_times": _sparse(stats.wait_times),
    }


def _sparse(counts: Sequence[int]) -> SparseHistogram:
    return [(index, count) for index, count in enumerate(counts) if count]


# What nobody knows anything of,
_UNKNOWN: Final = ServerHealth()
#: and what nobody has used.
UNUSED: Final = ServerUse()
