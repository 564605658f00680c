"""How a fleet levels itself: clients rove, servers die and join, and nothing else happens.

Time counts in roving intervals, a quarter of one after the other. Clients whose
tick falls into the same 20th of an interval make their attempts one after the
other at the same moment; an attempt of quick roving takes a round trip.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from benchmarks.balance.fleets import Fleet, SimulatedClient, excess, variation
from gevent_rover import Slot

ROUND_TRIP = 0.001
GROUPS = 20

#: Level means: the connections of no server differ by more than one from the mean.
#: Nearly level: their variation is 5 % at most.
NEARLY = 0.05


@dataclass
class Phase:
    """What happened from one event to the next. Times are in roving intervals."""

    name: str
    #: None: not within the phase.
    full: float | None = None
    nearly: float | None = None
    level: float | None = None
    #: Of the server that joined: until it has nine tenths of its share.
    joined: float | None = None
    #: Attempts that the fleet received, for each client, until the pools were full.
    attempts_to_full: float = 0.0
    #: The most that one server received on average in a round trip.
    peak: float = 0.0
    #: Attempts that the fleet received in an interval, in the phase's last one.
    attempts: float = 0.0
    #: Each quarter of an interval: variation and max/mean.
    variations: list[float] = field(default_factory=list)
    excesses: list[float] = field(default_factory=list)


class Simulation:
    """A fleet through three phases: the start, the death of a server, and its return."""

    def __init__(
        self, clients: int, servers: int, max_slots: int, interval: float, seed: int
    ) -> None:
        self.interval = interval
        self.env = simpy.Environment()
        self.fleet = Fleet(clients, servers, max_slots, seed)
        self._hungry: dict[SimulatedClient, None] = dict.fromkeys(self.fleet.clients)
        self._hunger = self.env.event()
        self._peak = 0
        self.env.process(self._start_wanted())
        everyone = list(self.fleet.clients)
        self.fleet.random.shuffle(everyone)
        for group in range(GROUPS):
            self.env.process(self._rove(everyone[group::GROUPS], group))

    def run(self, most: int) -> list[Phase]:
        """Return the phases, each of which ends once it's level, after ``most`` intervals at last.

        One that is level at once still lasts for two.
        """
        fleet = self.fleet
        phases = [self._phase("start", most)]
        fleet.kill("0")
        phases.append(self._phase("one dies", most))
        fleet.revive("0")
        phases.append(self._phase("one joins", most, "0"))
        return phases

    def _phase(self, name: str, most: int, newcomer: str = "") -> Phase:
        phase = Phase(name)
        fleet = self.fleet
        began = self.env.now
        before = latest = fleet.attempts
        self._peak = 0
        self._look_for_hungry()
        quarters = 0
        while quarters < 4 * most and (phase.level is None or quarters < 8):
            quarters += 1
            if phase.full is None:
                self._until_full(phase, began, before, began + quarters * self.interval / 4)
            self.env.run(began + quarters * self.interval / 4)
            counts = fleet.counts()
            phase.variations.append(variation(counts))
            phase.excesses.append(excess(counts))
            mean = sum(counts) / len(counts)
            at = quarters / 4
            if phase.nearly is None and phase.variations[-1] <= NEARLY:
                phase.nearly = at
            if phase.level is None and max(abs(count - mean) for count in counts) <= 1:
                phase.level = at
            newest = len(fleet.servers[newcomer].slots) if newcomer else 0
            if newcomer and phase.joined is None and newest >= 0.9 * mean:
                phase.joined = at
            if quarters % 4 == 0:
                phase.attempts, latest = float(fleet.attempts - latest), fleet.attempts
        alive = len(fleet.counts())
        phase.peak = self._peak / alive
        return phase

    def _until_full(self, phase: Phase, began: float, before: int, until: float) -> None:
        """Run until the pools are full, in steps of a round trip, or until ``until``."""
        while self._hungry and self.env.now + ROUND_TRIP < until:
            self.env.run(self.env.now + ROUND_TRIP)
        if not self._hungry:
            phase.full = (self.env.now - began) / self.interval
            clients = len(self.fleet.clients)
            phase.attempts_to_full = (self.fleet.attempts - before) / clients

    def _look_for_hungry(self) -> None:
        for client in self.fleet.clients:
            if client.deficit:
                self._hungry[client] = None
        if self._hungry and not self._hunger.triggered:
            self._hunger.succeed()

    def _rove(
        self, clients: list[SimulatedClient], group: int
    ) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(self.interval * group / GROUPS)
        while True:
            for client in clients:
                self.fleet.tick(client, self.env.now)
            yield self.env.timeout(self.interval)

    def _start_wanted(self) -> Generator[simpy.Event, Any, None]:
        """Quick roving: what all clients begin in one round trip ends in the next."""
        env, fleet = self.env, self.fleet
        begun: list[tuple[SimulatedClient, int, str, Slot | None]] = []
        number = 0
        while True:
            if not self._hungry and not begun:
                self._hunger = env.event()
                yield self._hunger
            fleet.random.shuffle(begun)
            for client, key, id, slot in begun:
                client.pacing.finish(key)
                fleet.answer(client, id, slot, env.now)
            begun.clear()
            received = fleet.attempts
            for client in list(self._hungry):
                if not client.deficit:
                    del self._hungry[client]
                    continue
                for _ in range(client.room(env.now)):
                    picked = fleet.pick(client.health.avoid)
                    if picked is None:
                        client.pacing.end()
                        break
                    number += 1
                    client.pacing.begin(number, picked, env.now)
                    begun.append((client, number, picked, fleet.dial(client, picked)))
            self._peak = max(self._peak, fleet.attempts - received)
            yield env.timeout(ROUND_TRIP)


def as_row(
    clients: int, servers: int, max_slots: int, interval: float, phase: Phase
) -> dict[str, Any]:
    """Return the figures of a phase as a line of the table; times in seconds."""

    def seconds(intervals: float | None) -> float | None:
        return None if intervals is None else intervals * interval

    return {
        "clients": clients,
        "servers": servers,
        "max_slots": max_slots,
        "roving_interval": interval,
        "phase": phase.name,
        "full, s": seconds(phase.full),
        "nearly level, s": seconds(phase.nearly),
        "level, s": seconds(phase.level),
        "joined, s": seconds(phase.joined),
        "attempts/client to full": phase.attempts_to_full,
        "peak attempts/server in a round trip": phase.peak,
        "attempts/s": phase.attempts / interval,
        "attempts/s/server": phase.attempts / interval / servers,
        "variation at first": phase.variations[0],
        "variation": phase.variations[-1],
        "max/mean": phase.excesses[-1],
    }
