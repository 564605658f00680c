"""Servers and clients without sockets: the library's own decisions, and nothing of its I/O.

A server is its ``Slots``, a client its ``Ranking``, its ``Pacing`` and its ``Health``.
What an attempt does here is what a rover and a pool do with one, at once.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from statistics import mean, pstdev

from gevent_rover import Choice, Entry, LeaseOutcome, LowestSlot, Server, Slot, Slots
from gevent_rover.policy.health import Health
from gevent_rover.policy.pacing import Pacing
from gevent_rover.policy.ranking import Ranking

_SERVER: Server = {"host": "192.0.2.1", "port": 1}  # nobody connects to it


class SimulatedServer:
    """A server: its slots, and whether it answers."""

    __slots__ = ("_said", "alive", "id", "slots")

    def __init__(self, id: str) -> None:
        self.id = id
        self.alive = True
        self.slots = Slots()
        self._said: list[Slot] = []  # One object for each number: they are many.

    def take(self) -> Slot:
        number = self.slots.take()
        assert number is not None
        while len(self._said) <= number:
            self._said.append(Slot(len(self._said), self.id, _SERVER))
        return self._said[number]


class SimulatedClient:
    """A client: the pool's decisions, and the rover's about quick roving."""

    __slots__ = ("closed", "health", "pacing", "ranking")

    def __init__(self, max_slots: int, choice: Choice, max_pending: int = 64) -> None:
        self.ranking: Ranking[Entry] = Ranking(max_slots, choice)
        self.pacing = Pacing(max_pending)
        self.health = Health()
        self.closed = 0  # connections that it gave up for better ones

    @property
    def deficit(self) -> int:
        return self.ranking.max_slots - len(self.ranking)

    def room(self, now: float) -> int:
        """Return how many attempts of quick roving it may begin (below 1: none)."""
        for id in self.pacing.hanging(now):
            assert id is not None
            self.health.hangs(id)
        return self.pacing.room(self.deficit)


class Fleet:
    """Servers and clients that know all of them."""

    def __init__(
        self,
        clients: int,
        servers: int,
        max_slots: int,
        seed: int,
        make_choice: Callable[[], Choice] = LowestSlot,
    ) -> None:
        self.random = Random(seed)
        self.servers = {str(number): SimulatedServer(str(number)) for number in range(servers)}
        self._ids = list(self.servers)
        self.clients = [SimulatedClient(max_slots, make_choice()) for _ in range(clients)]
        self.attempts = 0

    def pick(self, is_avoided: Callable[[str], bool] | None = None) -> str | None:
        """Pick a server as the library's ``Picker`` does; None if all are avoided.

        That one's generator has no seed, and a run here is to be repeatable.
        """
        if is_avoided is None:
            return self.random.choice(self._ids)
        for _ in range(4):
            id = self.random.choice(self._ids)
            if not is_avoided(id):
                return id
        others = [id for id in self._ids if not is_avoided(id)]
        return self.random.choice(others) if others else None

    def dial(self, client: SimulatedClient, id: str) -> Slot | None:
        """Begin an attempt: take a slot; None from a dead server."""
        client.health.picked(id)
        self.attempts += 1
        server = self.servers[id]
        return server.take() if server.alive else None

    def answer(self, client: SimulatedClient, id: str, slot: Slot | None, now: float) -> None:
        """End an attempt: tell the client how it went, and offer it the connection."""
        if slot is None:
            client.pacing.fail(counts=not client.health.has_failed(id))
            client.health.record(id, "unreachable", now)
        else:
            client.pacing.succeed()
            client.health.record(id, "connection", now)
            self.offer(client, slot)

    def offer(self, client: SimulatedClient, slot: Slot) -> bool:
        """Keep a connection, or give its slot back."""
        ranking = client.ranking
        entry = Entry(slot, client.health.of(slot.server_id))
        if not self.servers[slot.server_id].alive or not ranking.admits(slot):
            self._free(entry)
            return False
        ranking.add(entry)
        excess = ranking.excess()
        if excess is not None:
            client.closed += 1
            if ranking.give_up(excess):
                self._free(excess)
        ranking.make_idle(entry)
        return True

    def release(
        self, client: SimulatedClient, entry: Entry, now: float, outcome: LeaseOutcome
    ) -> None:
        """End a lease: keep the connection, or close it if it was given up meanwhile."""
        if entry.state == "retired":
            self.close(client, entry, now, outcome)
        else:
            client.ranking.give_back(entry, now, outcome)

    def close(
        self,
        client: SimulatedClient,
        entry: Entry,
        now: float = 0.0,
        outcome: LeaseOutcome = "unknown",
    ) -> None:
        """Close a connection of a client, and end its lease if it has one."""
        client.ranking.remove(entry, now, outcome)
        self._free(entry)

    def _free(self, entry: Entry) -> None:
        """Give a connection's slot back to its server."""
        assert entry.server_id is not None
        server = self.servers[entry.server_id]
        if server.alive:
            server.slots.free(entry.slot)

    def tick(self, client: SimulatedClient, now: float = 0.0) -> None:
        """Make one attempt for a client, at the cost of no time."""
        client.pacing.tick()
        client.health.tick(self.servers, now)
        id = self.pick()
        assert id is not None
        self.answer(client, id, self.dial(client, id), now)

    def kill(self, id: str) -> None:
        """Let a server die: all of its connections end."""
        server = self.servers[id]
        server.alive = False
        server.slots = Slots()
        for client in self.clients:
            for entry in client.ranking:
                if entry.server_id == id:
                    client.ranking.remove(entry)

    def revive(self, id: str) -> None:
        self.servers[id].alive = True

    def counts(self) -> list[int]:
        """Return how many connections each server has, the dead left out."""
        return [len(server.slots) for server in self.servers.values() if server.alive]


def variation(values: list[float] | list[int]) -> float:
    """Return the coefficient of variation: the standard deviation as a part of the mean."""
    average = mean(values)
    return pstdev(values) / average if average else 0.0


def excess(values: list[float] | list[int]) -> float:
    """Return the largest value as a multiple of the mean."""
    average = mean(values)
    return max(values) / average if average else 0.0
