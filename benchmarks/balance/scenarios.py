"""What happens to the servers in the real run, and which requests come when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.arrivals import Arrival, poisson
from benchmarks.balance.parameters import Setup, Start


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens to the servers (some are slow, or the last one comes or goes), and the start."""

    name: str
    loads: tuple[float, ...]
    slow: int = 0
    event: Literal["", "dies", "joins"] = ""
    start: Start = "together"

    def slowness(self, setup: Setup) -> list[float]:
        slow = [setup.slowness] * self.slow
        return slow + [1.0] * (setup.servers - self.slow)

    def rate(self, setup: Setup, load: float) -> float:
        """Return the requests per second that are ``load`` for the fleet at its smallest."""
        capacity = [setup.workers / setup.mean / slowness for slowness in self.slowness(setup)]
        return load * sum(capacity[:-1] if self.event else capacity)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("steady", (0.3, 0.7, 0.9)),
        Scenario("two slow servers", (0.7, 0.9), slow=2),
        Scenario("one dies", (0.7, 0.9), event="dies"),
        Scenario("one joins", (0.7, 0.9), event="joins"),
        Scenario("started in turn", (0.7,), start="in turn"),
    )
}


def arrivals(setup: Setup, rate: float, seed: int) -> Iterator[Arrival]:
    """Generate the requests of one run; with one seed they are the same for every policy."""
    return poisson(rate, setup.warm_up + setup.seconds, setup.pools, setup.mean, seed)
