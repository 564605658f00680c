"""A model of the real run, request by request: what a policy does to the latency.

Its servers have workers and a queue, its clients a pool each; there is no
network and no CPU. So it has as many requests as it takes, and no noise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from random import Random
from typing import Any

import simpy

from benchmarks.balance.fleets import Fleet, SimulatedClient, excess, variation
from benchmarks.balance.parameters import Setup, Start
from benchmarks.balance.policies import maker, server_of
from benchmarks.measure import percentile
from gevent_rover import Entry


class _Request:
    __slots__ = ("arrived", "client", "counts", "entry", "work")

    def __init__(self, arrived: float, client: SimulatedClient, work: float, counts: bool) -> None:
        self.arrived = arrived
        self.client = client
        self.work = work
        self.counts = counts
        self.entry: Entry | None = None


class Model:
    """One run: a policy, a load, how many of the servers are slow, and the start."""

    def __init__(
        self, setup: Setup, policy: str, load: float, slow: int, start: Start, seed: int
    ) -> None:
        ids = [str(number) for number in range(setup.servers)]
        self.slowness = dict.fromkeys(ids, 1.0) | dict.fromkeys(ids[:slow], setup.slowness)
        self.capacity = {id: setup.workers / setup.mean / self.slowness[id] for id in ids}
        make = maker(policy, seed, self.capacity)
        self.fleet = Fleet(setup.pools, setup.servers, setup.max_slots, seed, make)
        self.setup = setup
        self.load = load
        self.start = start
        self.random = Random(seed)  # The same requests for every policy.
        self.env = simpy.Environment()
        self.busy = dict.fromkeys(ids, 0)
        self.queues: dict[str, deque[_Request]] = {id: deque() for id in ids}
        self.waiting: dict[SimulatedClient, deque[_Request]] = {
            client: deque() for client in self.fleet.clients
        }
        self.latencies: list[float] = []
        self.served = dict.fromkeys(ids, 0)

    def run(self, requests: int) -> dict[str, float]:
        """Settle the connections, run so many requests, and return the figures.

        The first tenth isn't counted.
        """
        self._settle()
        self.counted_from = requests // 10
        self.env.process(self._arrive(requests))
        self.env.run()
        share = [self.served[id] / self.capacity[id] for id in self.served]
        return {
            "p50": percentile(self.latencies, 50) * 1e3,
            "p99": percentile(self.latencies, 99) * 1e3,
            "p99.9": percentile(self.latencies, 99.9) * 1e3,
            "load max/mean": excess(share),
            "load variation": variation(share),
        }

    def _settle(self) -> None:
        """Connect all clients, and rove until no attempt has brought anything for long."""
        fleet = self.fleet
        if self.start != "together":
            for client in fleet.clients:
                self._fill(client)
        if self.start == "restarted":
            for _ in range(3):
                for client in fleet.random.sample(fleet.clients, len(fleet.clients)):
                    self._restart(client)
        idle = 0
        while idle < 20:
            idle += 1
            for client in fleet.clients:
                before = client.closed, client.deficit
                fleet.tick(client)
                if (client.closed, client.deficit) != before:
                    idle = 0

    def _fill(self, client: SimulatedClient) -> None:
        while client.deficit:
            self.fleet.tick(client)

    def _restart(self, client: SimulatedClient) -> None:
        """Let a client go, the others rove for two intervals, and it come back."""
        for entry in client.ranking:
            self.fleet.close(client, entry)
        for _ in range(2):
            for other in self.fleet.clients:
                if other is not client:
                    self.fleet.tick(other)
        self._fill(client)

    def _arrive(self, requests: int) -> Generator[simpy.Event, Any, None]:
        rate = self.load * sum(self.capacity.values())
        random, env = self.random, self.env
        for number in range(requests):
            yield env.timeout(random.expovariate(rate))
            client = random.choice(self.fleet.clients)
            work = random.expovariate(1 / self.setup.mean)
            request = _Request(env.now, client, work, number >= self.counted_from)
            entry = client.ranking.lease()
            if entry is None:
                self.waiting[client].append(request)
            else:
                self._send(request, entry)

    def _send(self, request: _Request, entry: Entry) -> None:
        request.entry = entry
        id = server_of(entry)
        if request.counts:
            self.served[id] += 1
        if self.busy[id] < self.setup.workers:
            self.busy[id] += 1
            self._work(request, id)
        else:
            self.queues[id].append(request)

    def _work(self, request: _Request, id: str) -> None:
        done = self.env.timeout(request.work * self.slowness[id], (request, id))
        assert done.callbacks is not None
        done.callbacks.append(self._finish)

    def _finish(self, event: Any) -> None:
        request, id = event.value
        if request.counts:
            self.latencies.append(self.env.now - request.arrived)
        if self.queues[id]:
            self._work(self.queues[id].popleft(), id)
        else:
            self.busy[id] -= 1
        entry, client = request.entry, request.client
        assert entry is not None
        if self.waiting[client]:
            self._send(self.waiting[client].popleft(), entry)
        else:
            self.fleet.release(client, entry)
