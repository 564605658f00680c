"""What a pool counts: of its connections, its leases, and why connections were closed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from gevent_rover.policy.entry import Entry, EntryState
from gevent_rover.policy.histogram import bucket, no_counts
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

# The lease times of a server that nobody leased yet.
_NONE: Final = tuple(no_counts())

_slot_of: Final = attrgetter("slot")

_REASONS: Final[tuple[CloseReason, ...]] = get_args(CloseReason)


#: What a connection is up to whose slot is held; ``retired``: it's in use, and closed
#: when it comes back.
SlotState: TypeAlias = Literal["idle", "leased", "preparing", "retired"]

_SEEN_AS: Final[dict[EntryState, SlotState]] = {
    "idle": "idle",
    "leased": "leased",
    "resetting": "leased",
    "preparing": "preparing",
    "retired": "retired",
    "ending": "retired",
}


class ServerUse(NamedTuple):
    """What a pool makes of one server; see :class:`ServerStats`. It's made in a microsecond."""

    slots: tuple[tuple[int, SlotState], ...] = ()
    idle: int = 0
    leased: int = 0
    preparing: int = 0
    retired: int = 0
    leases: int = 0
    lease_seconds: float = 0.0
    failures: int = 0


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
    #: How long those took that were answered: a histogram, see :data:`BOUNDS`. It counts
    #: since the server is known, and a relay's answers, too.
    lease_times: Sequence[int]
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
    #: Its slots that the pool holds, the lowest first, and what state each is in.
    slots: Sequence[tuple[int, SlotState]]


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
    #: How long they waited: a histogram, see :data:`BOUNDS`.
    wait_times: Sequence[int]
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

    def with_open(self, entries: Iterable[Entry]) -> tuple[int, float, int]:
        """Return leases, seconds and failures, those of connections that aren't closed, too."""
        leases, seconds, failures = self.leases, self.lease_seconds, self.failures
        for entry in entries:
            leases += entry.leases
            seconds += entry.lease_seconds
            failures += entry.failures
        return leases, seconds, failures


class Tally:
    """The counters of a pool."""

    def __init__(self) -> None:
        self.total = Counters()
        self.by_server: dict[str | None, Counters] = {}
        self.waits = 0
        self.wait_seconds = 0.0
        self.wait_times = no_counts()
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

    def waited(self, seconds: float) -> None:
        """Count a greenlet's wait for a connection, whether it got one or not."""
        self.waits += 1
        self.wait_seconds += seconds
        self.wait_times[bucket(seconds)] += 1

    def forget_all_but(self, ids: set[str | None]) -> None:
        """Forget the counters of other servers; the total stays as it is."""
        for id in self.by_server.keys() - ids:
            del self.by_server[id]

    def _of(self, entry: Entry) -> tuple[Counters, Counters]:
        counters = self.by_server.get(entry.server_id)
        if counters is None:
            counters = self.by_server[entry.server_id] = Counters()
        return self.total, counters


def use_of(entries: list[Entry], counters: Counters) -> ServerUse:
    """Return what a pool makes of one server.

    :param entries: its connections.
    :param counters: of those that are closed.
    """
    entries.sort(key=_slot_of)
    # In one go, since a page asks for all servers each second.
    leases, seconds, failures = counters.leases, counters.lease_seconds, counters.failures
    idle = leased = retired = 0
    slots: list[tuple[int, SlotState]] = []
    for entry in entries:
        leases += entry.leases
        seconds += entry.lease_seconds
        failures += entry.failures
        state = _SEEN_AS[entry.state]
        slots.append((int(entry.slot), state))
        if state == "idle":
            idle += 1
        elif state == "leased":
            leased += 1
        elif state == "retired":
            retired += 1
    preparing = len(slots) - idle - leased - retired
    return ServerUse(tuple(slots), idle, leased, preparing, retired, leases, seconds, failures)


def server_stats(
    id: str | None, server: ServerHealth, use: ServerUse, counters: Counters, now: float
) -> ServerStats:
    """Return what is known of a server.

    :param now: a monotonic time, in seconds.
    """
    return ServerStats(
        id=id,
        size=use.idle + use.leased + use.preparing,
        idle=use.idle,
        leased=use.leased,
        preparing=use.preparing,
        retired=use.retired,
        leases=use.leases,
        lease_seconds=use.lease_seconds,
        failures=use.failures,
        lease_times=tuple(server.lease_times) or _NONE,
        opened=counters.opened,
        closed=dict(counters.closed),
        latency=server.latency,
        slowness=server.slowness,
        set_aside=server.is_set_aside(now),
        suspect=server.suspect,
        slots=use.slots,
    )
