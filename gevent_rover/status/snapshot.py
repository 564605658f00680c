"""What a client's rover and pool are up to at a moment, as plain JSON: the one reader of both."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from time import monotonic, time
from typing import Any, Final, TypedDict

from gevent_rover.models import Server
from gevent_rover.policy.health import Health
from gevent_rover.policy.histogram import BOUNDS
from gevent_rover.policy.server_health import ServerHealth, ServerState
from gevent_rover.pooling.pool import SlotPool
from gevent_rover.pooling.stats import CloseReason, Counters, PoolStats, ServerStats, server_stats
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
    now = monotonic()
    epoch = time() - now
    stats = None if pool is None else pool.stats()
    health = None if pool is None else pool.health
    if rover is not None:
        health = rover.health
    return {
        "version": VERSION,
        "time": epoch + now,
        "worker": _worker(),
        "bounds": BOUNDS,
        "rover": None if rover is None else _rover(rover),
        "pool": None if pool is None or stats is None else _pool(name, pool, stats),
        "servers": _servers(rover, stats, health, epoch),
    }


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


def _servers(
    rover: Rover | None, stats: PoolStats | None, health: Health | None, epoch: float
) -> list[ServerSeen]:
    counted = {} if stats is None else stats.servers
    if rover is None:
        return [_server(id, None, None, health, own, epoch) for id, own in counted.items()]
    registry = dict(rover.servers)  # Another thread may change it.
    rows = [
        _server(id, _address(server), None, health, counted.get(id, _UNUSED), epoch)
        for id, server in registry.items()
    ]
    # Those that left, for as long as connections to them are in use; and all connections of
    # which nobody knows the server.
    for id, own in counted.items():
        if id not in registry and (own.size or own.retired):
            state: ServerState | None = None if id is None else "draining"
            rows.append(_server(id, None, state, health, own, epoch))
    return rows


def _server(
    id: str | None,
    address: str | None,
    state: ServerState | None,
    health: Health | None,
    stats: ServerStats,
    epoch: float,
) -> ServerSeen:
    record = (health and health.get(id)) or _UNKNOWN
    trouble = record.trouble
    return {
        "id": id,
        "address": address,
        "state": record.state if state is None else state,
        "slots": stats.slots,
        "idle": stats.idle,
        "leased": stats.leased,
        "preparing": stats.preparing,
        "retired": stats.retired,
        "leases": stats.leases,
        "lease_seconds": stats.lease_seconds,
        "failures": stats.failures,
        "attempts": record.attempts,
        "failed_attempts": record.failed_attempts,
        "latency": record.latency,
        "slowness": record.slowness,
        "lease_times": _sparse(record.lease_times),
        "error": None if trouble is None else trouble.text,
        "error_since": None if trouble is None else epoch + trouble.since,
        "error_at": None if trouble is None else epoch + trouble.at,
    }


def _address(server: Server) -> str | None:
    try:
        return address_of(server)
    except (KeyError, TypeError, AttributeError):  # not a valid entry: users write them
        return None


def _sparse(counts: Sequence[int]) -> SparseHistogram:
    return [(index, count) for index, count in enumerate(counts) if count]


# What nobody knows anything of, and what nobody has used.
_UNKNOWN: Final = ServerHealth()
_UNUSED: Final = server_stats(None, _UNKNOWN, [], Counters(), 0.0)
