"""Ways to choose among a pool's idle connections. All else is the pool's own ``Ranking``.

They keep, give up and retire the same connections, so that what differs between
two of them is nothing but the choice. The first is the library's, untouched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from gevent_rover import Choice, Entry, LowestSlot


def server_of(entry: Entry) -> str:
    """Return the id of a connection's server."""
    assert entry.server_id is not None
    return entry.server_id


def scatter(slot: int) -> float:
    """Return the place of a slot from 0 to 1, such that any run of slots is spread evenly.

    The multiples of the golden ratio leave the smallest gaps.
    """
    return slot * 0.6180339887498949 % 1


class Choosing:
    """A :class:`Choice` that leases what :meth:`choose` picks.

    :param random: for the policies that leave something to chance.
    :param capacity: what each server can do, for the oracle alone; any unit.
    :param outstanding: how many requests each server has to answer. Default: a
        count of this client's own. The oracle's is shared by all clients.
    """

    def __init__(
        self,
        random: Random,
        capacity: Mapping[str, float],
        outstanding: Counter[str] | None = None,
    ) -> None:
        self.random = random
        self.capacity = capacity
        self.outstanding: Counter[str] = Counter() if outstanding is None else outstanding
        self._idle: list[Entry] = []  # the one idle longest comes first

    def choose(self, idle: list[Entry]) -> Entry:
        """Return one of the connections that are idle; there is at least one."""
        raise NotImplementedError

    def add(self, entry: Entry) -> None:
        self._idle.append(entry)

    put_back = add

    def take(self) -> Entry | None:
        if not self._idle:
            return None
        entry = self.choose(self._idle)
        self._idle.remove(entry)
        self.outstanding[server_of(entry)] += 1
        return entry

    def finished(self, entry: Entry) -> None:
        self.outstanding[server_of(entry)] -= 1

    def remove(self, entry: Entry) -> None:
        self._idle.remove(entry)

    def __len__(self) -> int:
        return len(self._idle)

    def clear(self) -> None:
        self._idle.clear()
        self.outstanding.clear()

    def _least(self, idle: list[Entry], key: Callable[[Entry], float]) -> Entry:
        """Return the one with the least ``key``; among several, any of them by chance."""
        keys = {entry: key(entry) for entry in idle}
        least = min(keys.values())
        return self.random.choice([entry for entry in idle if keys[entry] == least])


class RandomChoice(Choosing):
    """Any of them."""

    def choose(self, idle: list[Entry]) -> Entry:
        return self.random.choice(idle)


class RoundRobin(Choosing):
    """One of the next server that has any, in an order of each client's own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # In one order they would all move on to the same server at the same time.
        ids = self.random.sample(sorted(self.capacity), len(self.capacity))
        self._turn = {id: number for number, id in enumerate(ids)}
        self._next = 0

    def choose(self, idle: list[Entry]) -> Entry:
        count = len(self._turn)
        entry = min(idle, key=lambda each: (self._turn[server_of(each)] - self._next) % count)
        self._next = self._turn[server_of(entry)] + 1
        return entry


class LeastUsed(Choosing):
    """One of the server at which this client has the fewest requests."""

    def choose(self, idle: list[Entry]) -> Entry:
        return self._least(idle, lambda entry: self.outstanding[server_of(entry)])


class TwoChoices(Choosing):
    """Of two servers picked at random, the one at which this client has fewer requests."""

    def choose(self, idle: list[Entry]) -> Entry:
        servers = list(dict.fromkeys(map(server_of, idle)))
        two = self.random.sample(servers, min(2, len(servers)))
        best = min(two, key=self.outstanding.__getitem__)
        return next(entry for entry in idle if entry.server_id == best)


class Scattered(Choosing):
    """The lowest slot, in another order of the slots, the same for all clients.

    A pool that filled after others has slots close together, and its lowest ones
    are those of the server that was behind then: the same one for all that
    filled at that time. In this order neighbours are far apart.
    """

    def choose(self, idle: list[Entry]) -> Entry:
        return min(idle, key=lambda entry: scatter(entry.slot))


class LeastUsedScattered(Choosing):
    """As :class:`LeastUsed`, and among several such servers as :class:`Scattered`."""

    def choose(self, idle: list[Entry]) -> Entry:
        return min(
            idle, key=lambda entry: (self.outstanding[server_of(entry)], scatter(entry.slot))
        )


class Oracle(Choosing):
    """One of the server that would be through first, as far as its queue and its speed tell.

    Nobody has this knowledge; it shows what there is to win.
    """

    def choose(self, idle: list[Entry]) -> Entry:
        def until_through(entry: Entry) -> float:
            id = server_of(entry)
            return (self.outstanding[id] + 1) / self.capacity[id]

        return self._least(idle, until_through)


LOWEST = "lowest slot"
ORACLE = "oracle"

#: The policies by name; None: the library's.
POLICIES: dict[str, type[Choosing] | None] = {
    LOWEST: None,
    "random": RandomChoice,
    "round robin": RoundRobin,
    "least used": LeastUsed,
    "two choices": TwoChoices,
    ORACLE: Oracle,
    "scattered slot": Scattered,
    "least used, scattered": LeastUsedScattered,
}

#: Changes of ours that might be worth it.
CANDIDATES = ("scattered slot", "least used, scattered")


def maker(name: str, seed: int, capacity: Mapping[str, float]) -> Callable[[], Choice]:
    """Return a callable that makes the choice of one client after the other.

    :param name: one of :data:`POLICIES`.
    :param seed: the same one, the same choices.
    :param capacity: what each server can do, by id.
    """
    choosing = POLICIES[name]
    if choosing is None:
        return LowestSlot
    random = Random(seed)
    shared: Counter[str] | None = Counter() if name == ORACLE else None
    return lambda: choosing(random, capacity, shared)
