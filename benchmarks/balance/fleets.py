"""Servers and clients without sockets: the library's own decisions, and nothing of its I/O.

A server is its ``Slots``, a client its ``Ranking`` and its ``Pacing``. What an
attempt does here is what a rover and a pool do with one, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from random import Random
from statistics import mean, pstdev

from gevent_rover.pacing import Pacing
from gevent_rover.ranking import Ranked, Ranking
from gevent_rover.registry import Server
from gevent_rover.signals import Slot
from gevent_rover.slots import Slots

_ENTRY: Server = {"host": "192.0.2.1", "port": 1}  # nobody connects to it


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
            self._said.append(Slot(len(self._said), self.id, _ENTRY))
        return self._said[number]


class SimulatedClient:
    """A client: the pool's decisions, and the rover's about quick roving."""

    __slots__ = ("closed", "max_slots", "pacing", "ranking")

    def __init__(self, ranking: Ranking[Ranked], max_pending: int = 64) -> None:
        self.ranking = ranking
        self.max_slots = ranking.max_slots
        self.pacing = Pacing(max_pending)
        self.closed = 0  # connections that it gave up for better ones

    @property
    def deficit(self) -> int:
        return self.max_slots - len(self.ranking)


class Fleet:
    """Servers and clients that know all of them."""

    def __init__(
        self,
        clients: int,
        servers: int,
        seed: int,
        make_ranking: Callable[[], Ranking[Ranked]],
    ) -> None:
        self.random = Random(seed)
        self.servers = {str(number): SimulatedServer(str(number)) for number in range(servers)}
        self._ids = list(self.servers)
        self.clients = [SimulatedClient(make_ranking()) for _ in range(clients)]
        self.attempts = 0

    def pick(self, left_out: Container[str] = ()) -> str | None:
        """Pick a server as the rover does; None if all are left out."""
        for _ in range(4):
            id = self.random.choice(self._ids)
            if id not in left_out:
                return id
        others = [id for id in self._ids if id not in left_out]
        return self.random.choice(others) if others else None

    def dial(self, id: str) -> Slot | None:
        """Begin an attempt: take a slot; None from a dead server."""
        self.attempts += 1
        server = self.servers[id]
        return server.take() if server.alive else None

    def offer(self, client: SimulatedClient, slot: Slot) -> bool:
        """End an attempt: keep the connection, or give the slot back."""
        ranking = client.ranking
        server = self.servers[slot.server_id]
        if not server.alive or not ranking.admits(slot):
            if server.alive:
                server.slots.free(slot)
            return False
        ranked = Ranked(slot)
        ranking.add(ranked)
        surplus = ranking.surplus()
        if surplus is not None:
            client.closed += 1
            if surplus.state == "leased" and surplus is not ranked:
                ranking.retire(surplus)  # The client gives its slot back with it.
            else:
                ranking.remove(surplus)
                self.free(surplus)
        ranking.rest(ranked)
        return True

    def free(self, ranked: Ranked) -> None:
        """Give a connection's slot back to its server."""
        assert isinstance(ranked.slot, Slot)
        server = self.servers[ranked.slot.server_id]
        if server.alive:
            server.slots.free(ranked.slot)

    def tick(self, client: SimulatedClient) -> None:
        """Make one attempt for a client, at the cost of no time."""
        client.pacing.tick(self.servers)
        id = self.pick()
        assert id is not None
        client.pacing.pick(id)
        slot = self.dial(id)
        if slot is None:
            client.pacing.fail(id)
        else:
            client.pacing.succeed()
            self.offer(client, slot)

    def kill(self, id: str) -> None:
        """Let a server die: all of its connections end."""
        server = self.servers[id]
        server.alive = False
        server.slots = Slots()
        for client in self.clients:
            for ranked in client.ranking:
                assert isinstance(ranked.slot, Slot)
                if ranked.slot.server_id == id:
                    client.ranking.remove(ranked)

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
