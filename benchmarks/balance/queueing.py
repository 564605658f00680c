"""A model of the real run, request by request: what a policy does to the latency.

Its servers have workers and a queue, its clients a pool each; there is no
network and no CPU. So it has as many requests as it takes, and no noise.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from math import inf, log, sqrt
from random import Random

from benchmarks.balance.cases import Case
from benchmarks.balance.fleets import Fleet, SimulatedClient, excess, variation
from benchmarks.balance.policies import maker, server_of
from benchmarks.balance.starts import settle
from benchmarks.balance.stations import Events, Request, Station
from benchmarks.measure import percentile
from gevent_rover import Entry, Slots

#: None: the case hasn't any.
Figures = dict[str, float | None]

#: Seconds of a stall, and of a brown-out; and how much slower the latter is.
STALL, BROWN_OUT, BROWN = 2.0, 8.0, 10.0
#: Seconds after a brown-out from which on the healed server is to have its share.
HEALED_AFTER = 10.0
#: Seconds from the loss of a connection to its replacement.
ROUND_TRIP = 0.002
#: Log-normal work: the logarithm's variance, for three times the mean as deviation.
_VARIANCE = log(1 + 3.0**2)


class Model:
    """One run: a case and a policy.

    What happens does so to server 0, and at a part of the time that the requests take.
    """

    def __init__(self, case: Case, policy: str, seed: int) -> None:
        self.case = case
        setup = case.setup
        ids = [str(number) for number in range(setup.servers)]
        self.capacity = {
            id: case.workers(number) / setup.mean / case.slowness(number)
            for number, id in enumerate(ids)
        }
        make = maker(policy, seed, self.capacity)
        self.fleet = Fleet(setup.pools, setup.servers, setup.max_slots, seed, make)
        self.fleet.servers["0"].slots = Slots(stride=case.stride)
        self.events = Events()
        self.stations = {
            id: Station(self.events, case.workers(number), case.slowness(number), self._answered)
            for number, id in enumerate(ids)
        }
        self.waiting: dict[SimulatedClient, deque[Request]] = {
            client: deque() for client in self.fleet.clients
        }
        self.latencies: list[float] = []
        self.served: Counter[str] = Counter()
        #: The same, in the time that the case is about.
        self.observed: Counter[str] = Counter()
        self._from, self._until = inf, inf  # that time
        self._random = Random(seed)  # The same requests for every policy.
        self._seed = seed
        self._left = 0  # requests to come, of which the latter ones are counted
        self._counted = 0

    def run(self, requests: int) -> Figures:
        """Settle the connections, run so many requests, and return the figures.

        The first tenth isn't counted.
        """
        random.seed(self._seed)  # How long a server is set aside is up to chance, too.
        settle(self.fleet, self.case.start)
        self._left, self._counted = requests, requests - requests // 10
        self._rate = self.case.load * sum(self.capacity.values())
        self._schedule(requests / self._rate)
        self.events.run()
        return self._figures()

    def _figures(self) -> Figures:
        share = [self.served[id] / self.capacity[id] for id in self.capacity]
        counts = self.fleet.counts()
        observed, fair = self.observed["0"], self.observed.total() / len(self.capacity)
        strided = self.served["0"] / self.served.total() / (counts[0] / sum(counts))
        event = self.case.event
        return {
            "p50": percentile(self.latencies, 50) * 1e3,
            "p99": percentile(self.latencies, 99) * 1e3,
            "p99.9": percentile(self.latencies, 99.9) * 1e3,
            "load max/mean": excess(share),
            "load variation": variation(share),
            "failed, %": 100 * observed / self.observed.total() if event == "fails fast" else None,
            "healed share": observed / fair if fair and event == "browns out" else None,
            "requests per connection": strided if self.case.stride > 1 else None,
        }

    # What happens

    def _schedule(self, duration: float) -> None:
        """Say what will happen: the first request, the roving, and the case's event."""
        after, station = self.events.after, self.stations["0"]
        after(self._random.expovariate(self._rate), self._arrive)
        clients, interval = self.fleet.clients, self.case.setup.roving_interval
        for number, client in enumerate(clients):
            after(interval * number / len(clients), self._rove, client)
        if self.case.event == "stalls":
            after(0.4 * duration, station.stall)
            after(0.4 * duration + STALL, station.resume)
        elif self.case.event == "browns out":
            after(0.2 * duration, setattr, station, "slowness", BROWN)
            after(0.2 * duration + BROWN_OUT, setattr, station, "slowness", 1.0)
            self._from = 0.2 * duration + BROWN_OUT + HEALED_AFTER
        elif self.case.event == "fails fast":
            self._from, self._until = 0.3 * duration, 0.8 * duration
            after(self._from, setattr, station, "fails", True)
            after(self._until, setattr, station, "fails", False)

    def _rove(self, client: SimulatedClient) -> None:
        if self._left:
            self.fleet.tick(client, self.events.now)
            self._lend(client)
            self.events.after(self.case.setup.roving_interval, self._rove, client)

    def _replace(self, client: SimulatedClient) -> None:
        """Make an attempt of quick roving."""
        id = self.fleet.pick(client.health.avoid)
        if client.deficit and id is not None:
            slot = self.fleet.dial(client, id)
            self.fleet.answer(client, id, slot, self.events.now)
            self._lend(client)

    def _arrive(self) -> None:
        client = self._random.choice(self.fleet.clients)
        counts = self._left <= self._counted
        work = work_of(self.case, self._random)
        self.waiting[client].append(Request(self.events.now, client, work, counts))
        self._lend(client)
        self._left -= 1
        if self._left:
            self.events.after(self._random.expovariate(self._rate), self._arrive)

    def _lend(self, client: SimulatedClient) -> None:
        """Lease what is idle to those who wait."""
        waiting, lease = self.waiting[client], client.ranking.lease
        while waiting and (entry := lease(self.events.now)) is not None:
            self._send(waiting.popleft(), entry)

    def _send(self, request: Request, entry: Entry) -> None:
        request.entry = entry
        id = server_of(entry)
        if request.counts:
            self.served[id] += 1
            if self._from <= self.events.now < self._until:
                self.observed[id] += 1
        self.stations[id].receive(request)

    def _answered(self, request: Request) -> None:
        client, entry, now = request.client, request.entry, self.events.now
        assert entry is not None
        failed = request.failed and self.case.failure != "not told"
        if request.failed and self.case.failure == "hangs up":
            self.fleet.close(client, entry, now, "failed")
            self.events.after(ROUND_TRIP, self._replace, client)
        else:
            self.fleet.release(client, entry, now, "failed" if failed else "answered")
        if request.counts and not request.failed:
            self.latencies.append(now - request.arrived)
        self._lend(client)


def work_of(case: Case, random: Random) -> float:
    """Return the seconds of work in one request."""
    mean = case.setup.mean
    if case.heavy_tailed:
        return random.lognormvariate(log(mean) - _VARIANCE / 2, sqrt(_VARIANCE))
    return random.expovariate(1 / mean)
