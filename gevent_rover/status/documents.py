"""The document of what many workers are up to, as one: what there is in it."""

from __future__ import annotations

from typing import TypedDict

from gevent_rover.status.snapshot import PoolGauges, RoverSeen, SparseHistogram


class Counted(TypedDict):
    """Counters: they never fall while the reader watches, whatever becomes of the workers.

    A worker's are kept when it's gone.
    """

    #: Leases that began, the seconds that they took, and how many failed by the server's
    #: fault.
    leases: int
    lease_seconds: float
    failures: int
    #: Leases and failures in a second, in the last 10 s or so; None: nobody has watched yet.
    lease_rate: float | None
    failure_rate: float | None
    #: The median and the 99th percentile of how long leases took, in seconds; None: there
    #: were none. ``recent``: of the last 10 s or so; if not, of all that there were.
    p50: float | None
    p99: float | None
    recent: bool
    #: How long leases took that were answered: counts for ``bounds``.
    lease_times: SparseHistogram


class Pooled(Counted, PoolGauges):
    """What pools have beyond that: gauges add up those of the workers that answer."""

    #: How often one had to wait, and the seconds that they did.
    waits: int
    wait_seconds: float
    #: Times of waits, as of leases.
    wait_p50: float | None
    wait_p99: float | None
    waits_recent: bool
    timeouts: int
    rejected: int
    opened: int
    #: Connections that were closed, by reason.
    closed_by: dict[str, int]


class MergedWorker(TypedDict):
    """A worker, or a place where none answers."""

    where: str
    #: None: nobody knows.
    id: str | None
    pid: int | None
    host: str | None
    #: The name of its pool; None: it has none.
    pool: str | None
    #: When its snapshot was made, in seconds since the epoch.
    time: float | None
    rover: RoverSeen | None
    #: Why there is no snapshot now, and for how many seconds the reader has had none; None:
    #: it answered.
    error: str | None
    silent: float | None


class MergedPool(Pooled):
    """A pool, in all workers that have one of that name."""

    #: None: of workers that have a rover alone.
    name: str | None
    #: How many workers have it, and in how many of them it's closed.
    workers: int
    closed: int


class MergedServer(Counted):
    """A server, as the workers see it that have a pool of the same name."""

    pool: str | None
    #: None: of all connections of which nobody knows the server.
    id: str | None
    #: What most say; None: nobody knows.
    address: str | None
    #: The worst that any says, how many say so, and how many know the server.
    state: str
    state_workers: int
    workers: int
    #: How many workers say what.
    states: dict[str, int]
    #: Those that all workers hold, sorted, and what state each is in.
    slots: list[tuple[int, str]]
    idle: int
    leased: int
    preparing: int
    retired: int
    attempts: int
    failed_attempts: int
    #: Seconds that a lease takes, a moving average: the mean of the workers'; 0: unknown.
    latency: float
    #: The worst.
    slowness: float
    #: The latest failure's text, when that run of failures began, and when it was.
    error: str | None
    error_since: float | None
    error_at: float | None


class Totals(Pooled):
    """All of it."""

    #: Processes that answer, and places where none does.
    workers: int
    silent: int
    #: Rows in ``servers``, and how many of them are in which state.
    servers: int
    states: dict[str, int]
    attempts: int
    failed_attempts: int


class Merged(TypedDict):
    """What many workers are up to, as one. Times are seconds, dates are since the epoch."""

    version: int
    #: When the latest snapshot was made; None: there is none.
    time: float | None
    bounds: list[float]
    workers: list[MergedWorker]
    pools: list[MergedPool]
    #: By pool and id.
    servers: list[MergedServer]
    totals: Totals
