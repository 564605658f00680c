"""Which connections a pool keeps, and which of them it leases next.

It decides and counts, and does nothing else: no gevent, no socket, no clock.
So the simulation in ``benchmarks`` balances with the very same decisions.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Generic, Literal, TypeVar


class Ranked:
    """A connection as a pool sees it: its slot, and what state it is in."""

    __slots__ = ("number", "since", "slot", "state")

    state: Literal["idle", "leased", "retired", "closed"]

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.number = 0  # tells equal slots apart, in order of arrival
        self.since = 0  # while idle: its place among those with the same slot
        self.state = "leased"


_Ranked = TypeVar("_Ranked", bound=Ranked)


class Ranking(Generic[_Ranked]):
    """The connections of a pool, sorted by slot; each method is one decision.

    :param max_slots: how many connections to keep, leased ones included.
    """

    def __init__(self, max_slots: int) -> None:
        self.max_slots = max_slots
        self._clock = 0  # counts arrivals and releases
        # Sorted lists of keys that end with their connection. The lowest slot that
        # is idle stands last in its list, so that leasing and releasing move next
        # to nothing, however many there are.
        self._idle: list[tuple[int, int, _Ranked]] = []  # -slot, -since
        self._by_slot: list[tuple[int, int, _Ranked]] = []  # slot, number

    def __len__(self) -> int:
        """Return how many are kept: the idle and the leased ones."""
        return len(self._by_slot)

    def __iter__(self) -> Iterator[_Ranked]:
        """Iterate over a snapshot, from the lowest slot to the highest."""
        return iter([ranked for _, _, ranked in self._by_slot])

    @property
    def idle(self) -> int:
        """How many of them can be leased right now."""
        return len(self._idle)

    def admits(self, slot: int) -> bool:
        """Tell whether a connection with ``slot`` would be kept.

        Equal slots are no reason to change: the incumbent stays.
        """
        return len(self._by_slot) < self.max_slots or slot < self._by_slot[-1][0]

    def add(self, ranked: _Ranked) -> None:
        """Take in a new connection, leased for now."""
        self._clock += 1
        ranked.number = self._clock
        insort(self._by_slot, (ranked.slot, ranked.number, ranked))

    def surplus(self) -> _Ranked | None:
        """Return the connection to give up; None while there aren't too many.

        The one with the highest slot; among equals an idle one.
        """
        if len(self._by_slot) <= self.max_slots:
            return None
        highest = self._by_slot[-1][0]
        for slot, _, ranked in reversed(self._by_slot):
            if slot != highest:
                break
            if ranked.state == "idle":
                return ranked
        return self._by_slot[-1][2]

    def lease(self) -> _Ranked | None:
        """Lease the idle connection with the lowest slot, among equals the one idle longest."""
        if not self._idle:
            return None
        ranked = self._idle.pop()[2]
        ranked.state = "leased"
        return ranked

    def rest(self, ranked: _Ranked) -> None:
        """Make a leased connection idle."""
        self._clock = clock = self._clock + 1
        ranked.since = clock
        ranked.state = "idle"
        key = -ranked.slot, -clock, ranked
        idle = self._idle
        if not idle or idle[-1] < key:  # the lowest slot, which is leased most
            idle.append(key)
        else:
            insort(idle, key)

    def retire(self, ranked: _Ranked) -> None:
        """Count a leased connection no more; it's to be closed when it comes back."""
        self._forget(ranked)
        ranked.state = "retired"

    def remove(self, ranked: _Ranked) -> None:
        """Forget a connection, whatever state it is in; it's closed."""
        if ranked.state != "retired":
            self._forget(ranked)
        if ranked.state == "idle":
            del self._idle[bisect_left(self._idle, (-ranked.slot, -ranked.since))]
        ranked.state = "closed"

    def _forget(self, ranked: _Ranked) -> None:
        del self._by_slot[bisect_left(self._by_slot, (ranked.slot, ranked.number))]

    def clear(self) -> None:
        """Forget all of them."""
        self._idle.clear()
        self._by_slot.clear()
