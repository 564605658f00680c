"""Requests that come when they come, whether the earlier ones are answered or not."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic, process_time
from typing import Literal

import gevent
from gevent import Timeout
from gevent.pool import Group

from benchmarks.arrivals import Arrival, poisson
from benchmarks.measure import percentile
from benchmarks.peers.clients import Client
from benchmarks.peers.fleet import REQUEST
from benchmarks.peers.rows import Figures, Rounds
from benchmarks.peers.site import Peer, Setup, Site
from benchmarks.report import show
from gevent_rover import PoolTimeout


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens to the servers: some are slow, or the last one comes or goes."""

    name: str
    slow: int = 0
    event: Literal["", "dies", "joins"] = ""

    def slowness(self, setup: Setup) -> list[float]:
        return [setup.slowness] * self.slow + [1.0] * (setup.servers - self.slow)

    def rate(self, setup: Setup) -> float:
        """Return the requests per second that are the load of the fleet at its smallest."""
        capacity = [setup.workers / setup.mean / slowness for slowness in self.slowness(setup)]
        return setup.load * sum(capacity[:-1] if self.event else capacity)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("equal servers"),
        Scenario("one slow", slow=1),
        Scenario("one dies", event="dies"),
        Scenario("one joins", event="joins"),
    )
}


def arrivals(setup: Setup, rate: float, seed: int) -> Iterator[Arrival]:
    """Generate the requests of one run; with one seed they are the same for every peer."""
    return poisson(rate, setup.warm_up + setup.seconds, setup.clients, setup.mean, seed)


class _Run:
    """One peer's turn, with new clients."""

    def __init__(self, site: Site, scenario: Scenario, peer: Peer) -> None:
        self._site = site
        self._scenario = scenario
        self._peer = peer
        self._requests = Group()
        self._made = 0
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.failures = 0

    def figures(self, seed: int) -> Figures:
        """Run, and return what was measured."""
        site, scenario, peer = self._site, self._scenario, self._peer
        setup = site.setup
        site.prepare(scenario.slowness(setup), scenario.event)
        gc.collect()  # The garbage of one isn't charged to the next.
        cpu, proxy_cpu = process_time(), site.proxy_cpu(peer)
        # All pools at the same time, as clients that are told of the same servers do.
        clients = [site.client(peer, setup.roving_interval) for _ in range(setup.clients)]
        try:
            self._make_all(clients, arrivals(setup, scenario.rate(setup), seed))
            self._requests.join()
            cpu, proxy_cpu = process_time() - cpu, site.proxy_cpu(peer) - proxy_cpu
        finally:
            for client in clients:
                client.close()
        return {
            "p50": percentile(self.latencies, 50) * 1e3,
            "p99": percentile(self.latencies, 99) * 1e3,
            "client cpu": cpu / self._made * 1e6,
            "haproxy cpu": proxy_cpu / self._made * 1e6,
            "requests": len(self.latencies),
            "failures": self.failures,
            "lateness p99": percentile(self.lateness, 99) * 1e3,
        }

    def _make_all(self, clients: list[Client], requests: Iterator[Arrival]) -> None:
        event = self._scenario.event
        began = monotonic()
        for at, number, work in requests:
            wait = began + at - monotonic()
            if wait > 0:
                gevent.sleep(wait)
            measured = at >= self._site.setup.warm_up
            if measured and event:
                self._site.happen(event)
                event = ""
            self._made += 1
            self._requests.spawn(self._request, clients[number], began + at, work, measured)

    def _request(self, client: Client, at: float, work: float, measured: bool) -> None:
        """Make a request; its time counts from when it came, wherever it waited since."""
        if measured:
            self.lateness.append(monotonic() - at)
        try:
            with Timeout(self._site.setup.timeout):
                client.request(REQUEST.pack(work))
        except (OSError, PoolTimeout, Timeout):
            # Those before the measured time, too: whoever is served when a server dies.
            self.failures += 1
            return
        if measured:
            self.latencies.append(monotonic() - at)


def measure(setup: Setup, scenarios: list[Scenario], rounds: int) -> dict[str, Rounds]:
    """Return the figures of each scenario and peer, round by round."""
    figures: dict[str, Rounds] = {scenario.name: {} for scenario in scenarios}
    with ExitStack() as stack:
        site = Site(setup, stack, moving=True, cores=2)
        for number in range(rounds):
            for scenario in scenarios:
                for peer in site.peers():
                    show(f"round {number + 1}/{rounds}: {scenario.name}, {peer.name}")
                    for _ in range(2):
                        found = _Run(site, scenario, peer).figures(seed=number)
                        if found["lateness p99"] <= 1e3 * setup.lateness:
                            break
                    figures[scenario.name].setdefault(peer.name, []).append(found)
    return figures
