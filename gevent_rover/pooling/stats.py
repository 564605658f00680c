"""What a pool counts: of its connections, its leases, and why connections were closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from gevent_rover.policy.entry import Entry
from gevent_rover.policy.server_health import ServerHealth

#: Why a pool closed a connection:
#:
#: - ``lifetime``: it had lived for its ``max_lifetime``;
#: - ``idle``: it wasn't needed for ``max_idle`` seconds;
#: - ``ended``: its peer ended it, or vanished;
#: - ``unread``: bytes were there that nobody asked for, or that its user didn't read;
#: - ``server gone``: its server left the registry, or changed in it;
#: - ``failed``: its lease failed by the server's fault;
#: - ``replaced``: one with a lower slot took its place;
#: - ``resized``: there was no place for it any more, since ``max_slots`` was lowered;
#: - ``discarded``: its user discarded or closed it, or was killed, or its block raised
#:   what says nothing about the server;
#: - ``setup``, ``check``, ``reset``: that hook failed;
#: - ``closed``: the pool was closed.
CloseReason: TypeAlias = Literal[
    "lifetime",
    "idle",
    "ended",
    "unread",
    "server gone",
    "failed",
    "replaced",
    "resized",
    "discarded",
    "setup",
    "check",
    "reset",
    "closed",
]

_REASONS: Final[tuple[CloseReason, ...]] = get_args(CloseReason)


@dataclass(frozen=True, slots=True)
class ServerStats:
    """What a pool knows of one server: gauges, and counters since the pool was made."""

    #: The server's id; None: of all connections of which nobody knows the server.
    id: str | None
    #: Connections that are kept: the sum of the next three.
    size: int
    idle: int
    leased: int
    preparing: int
    #: Connections that are in use, and closed when they come back.
    retired: int
    #: Leases that began; seconds that those took which have ended; and how many of them
    #: failed by the server's fault.
    leases: int
    lease_seconds: float
    failures: int
    #: Connections that the pool took in, and closed again, by reason.
    opened: int
    closed: dict[CloseReason, int]
    #: Seconds that a lease takes: a moving average; 0: unknown.
    latency: float
    #: How many times slower than typical that is; 1 within the dead band.
    slowness: float
    #: Whether the server comes after all others, since its leases failed in a row.
    set_aside: bool
    #: Whether it hung up on new connections, or their setup failed.
    suspect: bool


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool is up to: gauges, and counters that grow as long as it lives.

    ``opened`` is always the sum of ``closed``, ``size``, ``retired`` and ``candidates``.
    """

    #: Connections that are kept: the sum of the next three.
    size: int
    idle: int
    leased: int
    #: Their ``setup`` hasn't ended.
    preparing: int
    #: Connections that are in use, and closed when they come back.
    retired: int
    #: Connections that are being set up beside a full pool, to replace a higher slot, or
    #: whose setup hangs.
    candidates: int
    #: Greenlets that wait for a connection.
    waiting: int
    max_slots: int
    min_slots: int
    #: Leases that began, and seconds that those took which have ended.
    leases: int
    lease_seconds: float
    #: Leases that failed by the server's fault.
    failures: int
    #: How often a greenlet had to wait, whether it got a connection or not, and for how
    #: many seconds in all. Those who wait now count when they wait no more.
    waits: int
    wait_seconds: float
    #: How often one had none in time (:class:`PoolTimeout`), or wasn't allowed to wait
    #: (:class:`PoolFull`).
    timeouts: int
    rejected: int
    #: Connections that the pool took in, and closed again, by reason.
    opened: int
    closed: dict[CloseReason, int]
    #: The same for each server, by its id.
    servers: dict[str | None, ServerStats]


class Counters:
    """Counters of connections, for all of a pool's or those of one server."""

    __slots__ = ("closed", "failures", "lease_seconds", "leases", "opened")

    def __init__(self) -> None:
        self.opened = 0
        self.closed: dict[CloseReason, int] = dict.fromkeys(_REASONS, 0)
        # Of connections that are closed: each counts its own until then.
        self.leases = 0
        self.lease_seconds = 0.0
        self.failures = 0

    def add(self, entry: Entry) -> None:
        """Add what a connection counted."""
        self.leases += entry.leases
        self.lease_seconds += entry.lease_seconds
        self.failures += entry.failures

    def plus(self, entries: Sequence[Entry]) -> Counters:
        """Return a copy that counts these connections, too, which aren't closed."""
        sum = Counters()
        sum.opened, sum.closed = self.opened, dict(self.closed)
        sum.leases, sum.lease_seconds = self.leases, self.lease_seconds
        sum.failures = self.failures
        for entry in entries:
            sum.add(entry)
        return sum


class Tally:
    """The counters of a pool."""

    def __init__(self) -> None:
        self.total = Counters()
        self.by_server: dict[str | None, Counters] = {}
        self.waits = 0
        self.wait_seconds = 0.0
        self.timeouts = 0
        self.rejected = 0

    def opened(self, entry: Entry) -> None:
        """Count a connection that was taken in."""
        for counters in self._of(entry):
            counters.opened += 1

    def closed(self, entry: Entry, reason: CloseReason) -> None:
        """Count one that was closed, and what it counted."""
        for counters in self._of(entry):
            counters.closed[reason] += 1
            counters.add(entry)

    def forget_all_but(self, ids: set[str | None]) -> None:
        """Forget the counters of other servers; the total stays as it is."""
        for id in self.by_server.keys() - ids:
            del self.by_server[id]

    def _of(self, entry: Entry) -> tuple[Counters, Counters]:
        counters = self.by_server.get(entry.server_id)
        if counters is None:
            counters = self.by_server[entry.server_id] = Counters()
        return self.total, counters


def server_stats(
    id: str | None, server: ServerHealth, entries: Sequence[Entry], counters: Counters, now: float
) -> ServerStats:
    """Return what is known of a server.

    :param entries: its connections.
    :param now: a monotonic time, in seconds.
    """
    states = [entry.state for entry in entries]
    idle, preparing = states.count("idle"), states.count("preparing")
    leased = states.count("leased") + states.count("resetting")
    counted = counters.plus(entries)
    return ServerStats(
        id=id,
        size=idle + leased + preparing,
        idle=idle,
        leased=leased,
        preparing=preparing,
        retired=states.count("retired") + states.count("ending"),
        leases=counted.leases,
        lease_seconds=counted.lease_seconds,
        failures=counted.failures,
        opened=counted.opened,
        closed=counted.closed,
        latency=server.latency,
        slowness=server.slowness,
        set_aside=server.is_set_aside(now),
        suspect=server.suspect,
    )
