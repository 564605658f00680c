"""Which servers have just joined, and are to get their share of the connections soon.

A random pick finds a server that joined as seldom as any other: a pool of P connections
would have its share of it after some P intervals. So it is sought until it has that: when
what it says is no lower than what the pool has already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import cycle, islice
from typing import Final

#: Intervals for which a server counts as new at most: one that can't be reached, say.
PATIENCE: Final = 20

#: The same once a slot of it was too high.
DOUBT: Final = 3

#: Of how many connections one may be an attempt at a newcomer in an interval; one in any
#: pool. So a newcomer isn't run down, and has its share after ten intervals or so.
SHARE: Final = 10


class Newcomers:
    """The servers of a registry that joined, or that can be reached again."""

    def __init__(self) -> None:
        self._known: set[str] | None = None
        self._down: set[str] = set()
        # How many more intervals each is new for.
        self._left: dict[str, int] = {}

    def tick(self, servers: Iterable[str], down: set[str]) -> None:
        """Begin an interval. Those of the first one aren't new.

        :param servers: the ids of the registry.
        :param down: those that are unreachable.
        """
        known, self._known = self._known, set(servers)
        back, self._down = self._down - down, down
        left = {id: intervals - 1 for id, intervals in self._left.items()}
        if known is not None:
            left |= dict.fromkeys((self._known - known) | back, PATIENCE)
        self._left = {
            id: intervals for id, intervals in left.items() if intervals > 0 and id in self._known
        }

    def has_enough(self, id: str) -> None:
        """Take note that a pool seems to have its share of a server.

        It is sought for a little longer: others look at the same time, and each of their
        attempts has a slot for a moment.
        """
        if self._left.get(id, 0) > DOUBT:
            self._left[id] = DOUBT

    def to_seek(self, max_slots: int, avoided: Collection[str] = ()) -> list[str]:
        """Return the ids to make attempts at now, one for each attempt.

        :param max_slots: how many connections the pool keeps.
        :param avoided: ids that are left out for now.
        """
        ids = [id for id in self._left if id not in avoided]
        return list(islice(cycle(ids), max(1, max_slots // SHARE)))
