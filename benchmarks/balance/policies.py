"""Ways to choose among a pool's idle connections. All else is the pool's own ``Ranking``.

They keep, give up and retire the same connections, so that what differs between
two of them is nothing but the choice. The first two are the library's, untouched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from math import exp
from random import Random
from typing import Any

from gevent_rover import Choice, Entry, LeaseOutcome, LeastLoaded, LowestSlot
from gevent_rover.policy.idle_group import scatter

#: The idle connections of each server that has any; the one idle longest comes first.
Idle = Mapping[str, list[Entry]]


def server_of(entry: Entry) -> str:
    """Return the id of a connection's server."""
    assert entry.server_id is not None
    return entry.server_id


class Choosing:
    """A :class:`Choice` that leases what :meth:`choose` picks.

    :param random: for the policies that leave something to chance.
    :param capacity: what each server can do, for the oracle alone; any unit.
    """

    def __init__(self, random: Random, capacity: Mapping[str, float]) -> None:
        self.random = random
        self.capacity = capacity
        self._idle: dict[str, list[Entry]] = {}
        self._count = 0

    def choose(self, idle: Idle, now: float) -> Entry:
        """Return one of the connections that are idle; there is at least one."""
        raise NotImplementedError

    def add(self, entry: Entry) -> None:
        self._idle.setdefault(server_of(entry), []).append(entry)
        self._count += 1

    put_back = add

    def take(self, now: float) -> Entry | None:
        if not self._count:
            return None
        entry = self.choose(self._idle, now)
        self.remove(entry)
        return entry

    def finished(self, entry: Entry, now: float, outcome: LeaseOutcome) -> None:
        pass

    def remove(self, entry: Entry) -> None:
        id = server_of(entry)
        self._idle[id].remove(entry)
        if not self._idle[id]:
            del self._idle[id]
        self._count -= 1

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        self._idle.clear()
        self._count = 0

    def _least(self, idle: Idle, cost: Callable[[str], float], ids: Iterable[str] = ()) -> Entry:
        """Return the first of the server with the least ``cost``; among several, by chance."""
        costs = {id: cost(id) for id in ids or idle}
        least = min(costs.values())
        return idle[self.random.choice([id for id in costs if costs[id] == least])][0]

    def _two(self, idle: Idle) -> list[str]:
        """Return two servers by chance; one if no other has any idle."""
        return self.random.sample(list(idle), min(2, len(idle)))


class RandomChoice(Choosing):
    """Any of them."""

    def choose(self, idle: Idle, now: float) -> Entry:
        return self.random.choice([entry for entries in idle.values() for entry in entries])


class RoundRobin(Choosing):
    """One of the next server that has any, in an order of each client's own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # In one order they would all move on to the same server at the same time.
        ids = self.random.sample(sorted(self.capacity), len(self.capacity))
        self._turn = {id: number for number, id in enumerate(ids)}
        self._next = 0

    def choose(self, idle: Idle, now: float) -> Entry:
        count = len(self._turn)
        found = min(idle, key=lambda id: (self._turn[id] - self._next) % count)
        self._next = self._turn[found] + 1
        return idle[found][0]


class LeastUsed(Choosing):
    """One of the server at which this client has the fewest requests."""

    def choose(self, idle: Idle, now: float) -> Entry:
        return self._least(idle, lambda id: idle[id][0].server.leased)


class LeastUsedScattered(Choosing):
    """As :class:`LeastUsed`, and among several such servers the lowest slot, scattered.

    That's another order of the slots, the same for all clients. A pool that filled
    after others has slots close together, and its lowest ones are those of the
    server that was behind then: the same one for all that filled at that time. In
    this order neighbours are far apart.
    """

    def choose(self, idle: Idle, now: float) -> Entry:
        firsts = (min(entries, key=_place) for entries in idle.values())
        return min(firsts, key=lambda entry: (entry.server.leased, scatter(entry.slot)))


class TwoChoices(Choosing):
    """Of two servers picked at random, the one at which this client has fewer requests."""

    def choose(self, idle: Idle, now: float) -> Entry:
        return idle[min(self._two(idle), key=lambda id: idle[id][0].server.leased)][0]


class _Timing(Choosing):
    """A choice that knows a moving average of each server's latency."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._latency: dict[str, float] = {}
        self._latest: dict[str, float] = {}  # when the average last changed

    def finished(self, entry: Entry, now: float, outcome: LeaseOutcome) -> None:
        if outcome == "answered":
            id = server_of(entry)
            self._latency[id] = self._average(id, now - entry.leased_at, now)
            self._latest[id] = now

    def _average(self, id: str, latency: float, now: float) -> float:
        """Return the average with one more answer."""
        raise NotImplementedError

    def clear(self) -> None:
        super().clear()
        self._latency.clear()


class PeakEwma(_Timing):
    """Finagle's: of two servers by chance the one with the lower load × peak EWMA.

    The average follows a longer latency at once, and decays with a time constant of
    10 s. A server that hasn't answered yet comes first, but with one request at most.
    """

    def choose(self, idle: Idle, now: float) -> Entry:
        return self._least(idle, lambda id: self._cost(idle[id][0], now), self._two(idle))

    def _average(self, id: str, latency: float, now: float) -> float:
        if id not in self._latency or latency > self._latency[id]:
            return latency
        weight = exp((self._latest[id] - now) / 10)
        return self._latency[id] * weight + latency * (1 - weight)

    def _cost(self, entry: Entry, now: float) -> float:
        id, leased = server_of(entry), entry.server.leased
        if id not in self._latency:
            return 1e6 + leased if leased else 0.0
        return self._latency[id] * exp((self._latest[id] - now) / 10) * (leased + 1)


class LoadEwma(PeakEwma):
    """The one with the lowest load × peak EWMA of all servers."""

    def choose(self, idle: Idle, now: float) -> Entry:
        return self._least(idle, lambda id: self._cost(idle[id][0], now))


class LoadEwmaScattered(_Timing):
    """The lowest load × EWMA × (1 + the place of the slot in the scattered order).

    An answer weighs the more the longer ago the one before it was, and what is known
    of a server fades, with a half-life of 5 s, to the mean of all.
    """

    def choose(self, idle: Idle, now: float) -> Entry:
        known = self._latency
        mean = sum(known.values()) / len(known) if known else 1.0

        def cost(entry: Entry) -> float:
            id, average = server_of(entry), mean
            if id in known:
                average += (known[id] - mean) * 0.5 ** ((now - self._latest[id]) / 5)
            return (entry.server.leased + 1) * average * (1 + scatter(entry.slot))

        return min((min(entries, key=_place) for entries in idle.values()), key=cost)

    def _average(self, id: str, latency: float, now: float) -> float:
        if id not in self._latency:
            return latency
        weight = max(0.2, 1 - exp(self._latest[id] - now))
        return self._latency[id] + (latency - self._latency[id]) * weight


class Oracle(Choosing):
    """One of the server that would be through first, as far as its queue and its speed tell.

    Nobody has this knowledge; it shows what there is to win.

    :param outstanding: how many requests each server has to answer, of all clients.
    """

    def __init__(
        self, random: Random, capacity: Mapping[str, float], outstanding: Counter[str]
    ) -> None:
        super().__init__(random, capacity)
        self.outstanding = outstanding

    def choose(self, idle: Idle, now: float) -> Entry:
        return self._least(idle, lambda id: (self.outstanding[id] + 1) / self.capacity[id])

    def take(self, now: float) -> Entry | None:
        entry = super().take(now)
        if entry is not None:
            self.outstanding[server_of(entry)] += 1
        return entry

    def finished(self, entry: Entry, now: float, outcome: LeaseOutcome) -> None:
        self.outstanding[server_of(entry)] -= 1

    def clear(self) -> None:
        super().clear()
        self.outstanding.clear()


def _place(entry: Entry) -> float:
    return scatter(entry.slot)


#: The library's default, and what it was before.
OURS = "least loaded"
LOWEST = "lowest slot"
ORACLE = "oracle"

#: The policies by name.
POLICIES: dict[str, Callable[..., Choice]] = {
    OURS: LeastLoaded,
    LOWEST: LowestSlot,
    "random": RandomChoice,
    "round robin": RoundRobin,
    "least used": LeastUsed,
    "least used, scattered": LeastUsedScattered,
    "two choices": TwoChoices,
    "peak EWMA": PeakEwma,
    "load × EWMA": LoadEwma,
    "load × EWMA, scattered": LoadEwmaScattered,
    ORACLE: Oracle,
}

#: Those of the real run: the others are variants of these.
MEASURED = (
    OURS,
    LOWEST,
    "random",
    "round robin",
    "least used",
    "two choices",
    "peak EWMA",
    ORACLE,
)


def maker(name: str, seed: int, capacity: Mapping[str, float]) -> Callable[[], Choice]:
    """Return a callable that makes the choice of one client after the other.

    :param name: one of :data:`POLICIES`.
    :param seed: the same one, the same choices.
    :param capacity: what each server can do, by id.
    """
    make = POLICIES[name]
    if name in (OURS, LOWEST):
        return make
    random = Random(seed)
    shared: tuple[Any, ...] = (Counter(),) if name == ORACLE else ()
    return lambda: make(random, capacity, *shared)
