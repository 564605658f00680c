"""Ways to choose among a pool's idle connections. All else is the pool's own ``Ranking``.

They keep, give up and retire the same connections, so that what differs between
two of them is nothing but the choice. The first is the library's, untouched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, TypeVar

from gevent_rover.ranking import Ranked, Ranking
from gevent_rover.signals import Slot

_Ranked = TypeVar("_Ranked", bound=Ranked)


def server_of(ranked: Ranked) -> str:
    """Return the id of a connection's server."""
    assert isinstance(ranked.slot, Slot)
    return ranked.slot.server_id


def scatter(slot: int) -> float:
    """Return the place of a slot from 0 to 1, such that any run of slots is spread evenly.

    The multiples of the golden ratio leave the smallest gaps.
    """
    return slot * 0.6180339887498949 % 1


class Choosing(Ranking[_Ranked]):
    """A ranking that leases what :meth:`choose` picks.

    :param random: for the policies that leave something to chance.
    :param capacity: what each server can do, for the oracle alone; any unit.
    :param outstanding: how many requests each server has to answer. Default: a
        count of this client's own. The oracle's is shared by all clients.
    """

    def __init__(
        self,
        max_slots: int,
        random: Random,
        capacity: Mapping[str, float],
        outstanding: Counter[str] | None = None,
    ) -> None:
        super().__init__(max_slots)
        self.random = random
        self.capacity = capacity
        self.outstanding: Counter[str] = Counter() if outstanding is None else outstanding
        self._resting: list[_Ranked] = []  # the one idle longest comes first

    def choose(self, idle: list[_Ranked]) -> _Ranked:
        """Return one of the connections that are idle; there is at least one."""
        raise NotImplementedError

    @property
    def idle(self) -> int:
        return len(self._resting)

    def add(self, ranked: _Ranked) -> None:
        super().add(ranked)
        self.outstanding[server_of(ranked)] += 1

    def lease(self) -> _Ranked | None:
        if not self._resting:
            return None
        ranked = self.choose(self._resting)
        self._resting.remove(ranked)
        ranked.state = "leased"
        self.outstanding[server_of(ranked)] += 1
        return ranked

    def rest(self, ranked: _Ranked) -> None:
        ranked.state = "idle"
        self._resting.append(ranked)
        self.outstanding[server_of(ranked)] -= 1

    def remove(self, ranked: _Ranked) -> None:
        if ranked.state == "idle":
            self._resting.remove(ranked)
            ranked.state = "leased"  # The base class has no idle ones to take it from.
        else:
            self.outstanding[server_of(ranked)] -= 1
        super().remove(ranked)

    def clear(self) -> None:
        super().clear()
        self._resting.clear()

    def _least(self, idle: list[_Ranked], key: Callable[[_Ranked], object]) -> _Ranked:
        """Return the one with the least ``key``; among several, any of them by chance."""
        keys = {ranked: key(ranked) for ranked in idle}
        least = min(keys.values())  # type: ignore[type-var]
        return self.random.choice([ranked for ranked in idle if keys[ranked] == least])


class RandomChoice(Choosing[_Ranked]):
    """Any of them."""

    def choose(self, idle: list[_Ranked]) -> _Ranked:
        return self.random.choice(idle)


class RoundRobin(Choosing[_Ranked]):
    """One of the next server that has any, in an order of each client's own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # In one order they would all move on to the same server at the same time.
        ids = self.random.sample(sorted(self.capacity), len(self.capacity))
        self._turn = {id: number for number, id in enumerate(ids)}
        self._next = 0

    def choose(self, idle: list[_Ranked]) -> _Ranked:
        count = len(self._turn)
        ranked = min(idle, key=lambda r: (self._turn[server_of(r)] - self._next) % count)
        self._next = self._turn[server_of(ranked)] + 1
        return ranked


class LeastUsed(Choosing[_Ranked]):
    """One of the server at which this client has the fewest requests."""

    def choose(self, idle: list[_Ranked]) -> _Ranked:
        return self._least(idle, lambda ranked: self.outstanding[server_of(ranked)])


class TwoChoices(Choosing[_Ranked]):
    """Of two servers picked at random, the one at which this client has fewer requests."""

    def choose(self, idle: list[_Ranked]) -> _Ranked:
        servers = list(dict.fromkeys(map(server_of, idle)))
        two = self.random.sample(servers, min(2, len(servers)))
        best = min(two, key=self.outstanding.__getitem__)
        return next(ranked for ranked in idle if server_of(ranked) == best)


class Scattered(Choosing[_Ranked]):
    """The lowest slot, in another order of the slots, the same for all clients.

    A pool that filled after others has slots close together, and its lowest ones
    are those of the server that was behind then: the same one for all that
    filled at that time. In this order neighbours are far apart.
    """

    def choose(self, idle: list[_Ranked]) -> _Ranked:
        return min(idle, key=lambda ranked: scatter(ranked.slot))


class LeastUsedScattered(Choosing[_Ranked]):
    """As :class:`LeastUsed`, and among several such servers as :class:`Scattered`."""

    def choose(self, idle: list[_Ranked]) -> _Ranked:
        return min(
            idle, key=lambda ranked: (self.outstanding[server_of(ranked)], scatter(ranked.slot))
        )


class Oracle(Choosing[_Ranked]):
    """One of the server that would be through first, as far as its queue and its speed tell.

    Nobody has this knowledge; it shows what there is to win.
    """

    def choose(self, idle: list[_Ranked]) -> _Ranked:
        def until_through(ranked: _Ranked) -> float:
            id = server_of(ranked)
            return (self.outstanding[id] + 1) / self.capacity[id]

        return self._least(idle, until_through)


LOWEST = "lowest slot"
ORACLE = "oracle"

#: The policies by name.
POLICIES: dict[str, type[Choosing[Ranked]] | None] = {
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


def maker(name: str, seed: int, capacity: Mapping[str, float]) -> Callable[[int], Ranking[Ranked]]:
    """Return a callable that makes the ranking of one client after the other.

    :param name: one of :data:`POLICIES`.
    :param seed: the same one, the same choices.
    :param capacity: what each server can do, by id.
    """
    choosing = POLICIES[name]
    random = Random(seed)
    shared: Counter[str] | None = Counter() if name == ORACLE else None

    def make(max_slots: int) -> Ranking[Ranked]:
        if choosing is None:
            return Ranking(max_slots)
        return choosing(max_slots, random, capacity, shared)

    return make
