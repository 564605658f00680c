"""When slow servers are tried again."""

from __future__ import annotations

from math import inf
from typing import Final

from gevent_rover.policy.idle_group import IdleGroup

#: Leases from one trial of a slow server to the next, whichever it is: so they are no
#: more than one of so many requests, however many servers are slow.
BETWEEN_TRIALS: Final = 150

#: Leases after which to look again for one that is due, and was in use.
_LOOK_AGAIN: Final = 16


class Trials:
    """The slow servers of a client, which get a lease now and then: they may have recovered."""

    def __init__(self) -> None:
        self._slow: dict[IdleGroup, None] = {}
        self._not_before = 0

    def __bool__(self) -> bool:
        return bool(self._slow)

    def add(self, group: IdleGroup) -> float:
        """Take in a slow server; return from which of the client's leases on it is due."""
        self._slow[group] = None
        return max(group.server.retry_after, self._not_before)

    def remove(self, group: IdleGroup) -> None:
        """Forget a server; one that isn't here is no error."""
        self._slow.pop(group, None)

    def clear(self) -> None:
        """Forget all of them."""
        self._slow.clear()

    def choose(self, leases: int, now: float) -> IdleGroup | None:
        """Return the server that is due for longest, and begin its trial; None: none is due."""
        for group in [group for group in self._slow if not group.server.slow]:
            del self._slow[group]
        if leases < self._not_before:
            return None
        due = [
            group
            for group in self._slow
            if group.idle and not group.server.leased and group.server.is_due(now)
        ]
        if not due:
            return None
        found = min(due, key=lambda group: group.server.retry_after)
        found.server.probed = True
        self._not_before = leases + BETWEEN_TRIALS
        return found

    def next_after(self, leases: int) -> float:
        """Return from which lease on to ask again."""
        after = min((group.server.retry_after for group in self._slow), default=inf)
        return max(after, self._not_before, leases + _LOOK_AGAIN)
