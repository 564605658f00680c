"""Which idle connection a pool leases next."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Literal, Protocol, TypeAlias

from gevent_rover.policy.entry import Entry

#: How a lease went: it was answered; it failed by the server's fault; or it was
#: cut short, which says nothing about the server.
LeaseOutcome: TypeAlias = Literal["answered", "failed", "unknown"]


class Choice(Protocol):
    """Chooses among the idle connections of one pool.

    A pool tells it of each connection that becomes idle, and of each lease that
    ends, in the step in which that happens. No method may switch greenlets, and none
    changes an entry but its ``note``, or a server's record. A connection is idle in
    between ``add`` or ``put_back`` and ``take`` or ``remove``; only then the choice
    knows it. ``now`` is a monotonic time in seconds.
    """

    def add(self, entry: Entry) -> None:
        """Take in a new connection: it is idle."""

    def take(self, now: float) -> Entry | None:
        """Return the connection to lease next, and forget it; None if none is idle.

        This begins a lease; ``entry.server.leased`` grows right after it.
        """

    def finished(self, entry: Entry, now: float, outcome: LeaseOutcome) -> None:
        """Take note that a lease has ended, whatever becomes of the connection.

        It began at ``entry.leased_at``. The server's record knows of it already. It
        comes before ``put_back``, or alone if the connection is closed.
        """

    def put_back(self, entry: Entry) -> None:
        """Take a connection back: it is idle again after a lease."""

    def remove(self, entry: Entry) -> None:
        """Forget an idle connection: it ended, or the pool gave it up."""

    def __len__(self) -> int:
        """Return how many are idle."""

    def clear(self) -> None:
        """Forget all of them, and all leases: a forked child has none."""


class LowestSlot:
    """The lowest slot; among equal slots the connection that is idle longest."""

    def __init__(self) -> None:
        self._clock = 0  # counts what became idle
        # A sorted list of -slot, -since and the entry. The lowest slot stands last, so
        # that leasing and releasing move next to nothing, however many there are.
        self._idle: list[tuple[int, int, Entry]] = []

    def __repr__(self) -> str:
        return f"<LowestSlot idle={len(self._idle)}>"

    def put_back(self, entry: Entry) -> None:
        self._clock = clock = self._clock + 1
        entry.note = clock
        key = -entry.slot, -clock, entry
        idle = self._idle
        if not idle or idle[-1] < key:  # the lowest slot, which is leased most
            idle.append(key)
        else:
            insort(idle, key)

    add = put_back

    def take(self, now: float) -> Entry | None:
        idle = self._idle
        return idle.pop()[2] if idle else None

    def finished(self, entry: Entry, now: float, outcome: LeaseOutcome) -> None:
        pass

    def remove(self, entry: Entry) -> None:
        del self._idle[bisect_left(self._idle, (-entry.slot, -entry.note))]

    def __len__(self) -> int:
        return len(self._idle)

    def clear(self) -> None:
        self._idle.clear()
