"""Which connections a pool keeps.

It decides and counts, and does nothing else. So the simulation in ``benchmarks``
balances with the very same decisions.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

from gevent_rover.policy.choice import Choice, LeaseOutcome
from gevent_rover.policy.entry import Entry

_Entry = TypeVar("_Entry", bound=Entry)


class Ranking(Generic[_Entry]):
    """The connections of a pool, sorted by slot; each method is one decision.

    :param max_slots: how many connections to keep, leased ones included. May be
        changed at any time: see :meth:`excess`.
    :param choice: which of the idle ones to lease next.
    """

    def __init__(self, max_slots: int, choice: Choice) -> None:
        self.max_slots = max_slots
        self._choice = choice
        # Each lease goes through these: looking them up would cost it a twentieth.
        self._take, self._finished, self._put_back = choice.take, choice.finished, choice.put_back
        self._clock = 0  # counts arrivals
        self._by_slot: list[tuple[int, int, _Entry]] = []  # slot, number

    def __len__(self) -> int:
        """Return how many are kept: the idle and the leased ones."""
        return len(self._by_slot)

    def __iter__(self) -> Iterator[_Entry]:
        """Iterate over a snapshot, from the lowest slot to the highest."""
        return iter([entry for _, _, entry in self._by_slot])

    @property
    def idle(self) -> int:
        """How many of them can be leased right now."""
        return len(self._choice)

    def admits(self, slot: int) -> bool:
        """Tell whether a connection with ``slot`` would be kept.

        Equal slots are no reason to change: the incumbent stays.
        """
        if len(self._by_slot) < self.max_slots:
            return True
        return bool(self._by_slot) and slot < self._by_slot[-1][0]

    def add(self, entry: _Entry) -> None:
        """Take in a new connection: it's preparing, until :meth:`make_idle`."""
        if entry.state != "candidate":
            entry.server.connections += 1
        entry.state = "preparing"
        self._clock += 1
        entry.order = entry.slot, self._clock
        insort(self._by_slot, (*entry.order, entry))

    def excess(self) -> _Entry | None:
        """Return the connection to give up; None while there aren't too many.

        The one with the highest slot; among equals one that nobody uses.
        """
        if len(self._by_slot) <= self.max_slots:
            return None
        highest = self._by_slot[-1][0]
        for slot, _, entry in reversed(self._by_slot):
            if slot != highest:
                break
            if entry.state in ("idle", "preparing"):
                return entry
        return self._by_slot[-1][2]

    def lease(self, now: float) -> _Entry | None:
        """Lease the idle connection that the choice picks; None if none is idle.

        :param now: a monotonic time, in seconds.
        """
        entry = self._take(now)
        if entry is not None:
            entry.state = "leased"
            entry.leased_at = now
            server = entry.server
            server.leased += 1
            server.known.leases += 1
        return entry  # type: ignore[return-value]  # the choice returns what it was given

    def make_idle(self, entry: _Entry) -> None:
        """Make a new connection idle."""
        entry.state = "idle"
        self._choice.add(entry)

    def add_candidate(self, entry: _Entry) -> None:
        """Take note of a connection that is prepared before it has a place."""
        entry.server.connections += 1
        entry.state = "candidate"

    def lay_aside(self, entry: _Entry) -> None:
        """Take the place of a connection away that is preparing: it's a candidate then."""
        self._forget(entry)
        entry.state = "candidate"

    def reset(self, entry: _Entry) -> None:
        """Take note that a leased connection's user has given it back, and it's being reset."""
        entry.state = "resetting"

    def give_back(self, entry: _Entry, now: float, outcome: LeaseOutcome) -> None:
        """End a lease, and make its connection idle again."""
        self._end_lease(entry, now, outcome)
        entry.state = "idle"
        self._put_back(entry)

    def give_up(self, entry: _Entry) -> bool:
        """Count a connection no more.

        :returns: whether to close it now; else it's in use, and to be closed, and given
            to :meth:`remove`, when it comes back.
        """
        if entry.state == "leased":
            entry.state = "retired"
        elif entry.state == "resetting":
            entry.state = "ending"
        else:
            self.remove(entry)
            return True
        self._forget(entry)
        return False

    def remove(self, entry: _Entry, now: float = 0.0, outcome: LeaseOutcome = "unknown") -> None:
        """Forget a connection, whatever state it is in; it's closed.

        :param now: a monotonic time, in seconds; needed if it's leased.
        :param outcome: how the lease went that ends with it.
        """
        state = entry.state
        if state == "idle":
            self._choice.remove(entry)
        elif state not in ("preparing", "candidate"):
            self._end_lease(entry, now, outcome)
        if state not in ("candidate", "retired", "ending"):
            self._forget(entry)
        entry.state = "closed"
        entry.server.connections -= 1

    def clear(self) -> None:
        """Forget all of them, and all leases."""
        self._choice.clear()
        self._by_slot.clear()

    def _end_lease(self, entry: _Entry, now: float, outcome: LeaseOutcome) -> None:
        """Tell the server's record how a lease went, and then the choice."""
        server = entry.server
        server.leased -= 1
        duration = now - entry.leased_at
        entry.lease_seconds += duration
        if outcome == "answered":
            server.answered(duration, now)
        elif outcome == "failed":
            entry.failures += 1
            server.failed(now)
        self._finished(entry, now, outcome)

    def _forget(self, entry: _Entry) -> None:
        del self._by_slot[bisect_left(self._by_slot, entry.order)]
