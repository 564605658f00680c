"""Pools whose policy can be changed while they keep their connections."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from gevent import socket as gevent_socket

from gevent_rover import Choice, Entry, LeaseOutcome, LeastLoaded, Rover, Slot, SlotPool
from gevent_rover.policy.health import Health


class Switching:
    """A :class:`Choice` that leaves the choice to another, which may be replaced.

    What the pool knows of its servers from then on is kept in records of its own: each
    policy begins with connections and no experience. The rover's records still serve
    the attempts.
    """

    def __init__(self) -> None:
        self._policy: Choice = LeastLoaded()
        self._health = Health()
        self._idle: dict[Entry, None] = {}
        self._leased = 0

    def use(self, policy: Choice) -> None:
        """Leave the choice to ``policy`` from now on. Nothing is leased.

        It gets the idle connections from the lowest slot to the highest, whatever the
        policy before it made of their order: all policies begin alike.
        """
        assert self._leased == 0
        self._health = Health()
        for entry in sorted(self._idle, key=lambda entry: entry.slot):
            self._take_over(entry)
            policy.add(entry)
        self._policy = policy

    def _take_over(self, entry: Entry) -> None:
        """Let the pool write a connection's leases into the present records."""
        record = self._health.of(entry.server_id)
        self._health.servers = entry.server.known.servers or self._health.servers
        entry.server.connections -= 1
        record.connections += 1
        entry.server = record

    def add(self, entry: Entry) -> None:
        self._take_over(entry)
        self._idle[entry] = None
        self._policy.add(entry)

    def take(self, now: float) -> Entry | None:
        entry = self._policy.take(now)
        if entry is not None:
            del self._idle[entry]
            self._leased += 1
        return entry

    def finished(self, entry: Entry, now: float, outcome: LeaseOutcome) -> None:
        self._leased -= 1
        self._policy.finished(entry, now, outcome)

    def put_back(self, entry: Entry) -> None:
        self._idle[entry] = None
        self._policy.put_back(entry)

    def remove(self, entry: Entry) -> None:
        del self._idle[entry]
        self._policy.remove(entry)

    def __len__(self) -> int:
        return len(self._idle)

    def clear(self) -> None:
        self._idle.clear()
        self._leased = 0
        self._policy.clear()


class CountingPool(SlotPool):
    """A pool that counts the connections that it takes in, and knows whose they are."""

    def __init__(self, rover: Rover, max_slots: int) -> None:
        self.policy = Switching()
        self.kept = 0
        self.server_of: WeakKeyDictionary[gevent_socket.socket, str] = WeakKeyDictionary()
        super().__init__(rover, max_slots=max_slots, choice=self.policy)

    def offer(self, slot: int, socket: gevent_socket.socket) -> bool:
        assert isinstance(slot, Slot)
        self.server_of[socket] = slot.server_id
        kept = super().offer(slot, socket)
        self.kept += kept
        return kept

    @property
    def quiet(self) -> bool:
        """Whether it is full, and nobody uses it."""
        return self.deficit == self.leased == self.retired == 0
