"""How many connections of a pool nobody needed for a while."""

from __future__ import annotations

from collections import deque

from gevent_rover.policy.choice import Choice, LeaseOutcome
from gevent_rover.policy.entry import Entry


class Unused:
    """A choice that also watches how few connections were ever idle at the same time.

    Where servers take turns, none of a pool's connections is idle for long, however
    many there are. So what counts is how many were idle all the time, whichever.

    :param choice: the one that chooses.
    :param period: for how many seconds they must have been idle.
    :param now: a monotonic time, in seconds; as in all its methods.
    """

    def __init__(self, choice: Choice, period: float, now: float) -> None:
        self._choice = choice
        self._period = period
        # The fewest until each time, from the time before on: lows that a later and lower
        # one has made pointless aren't kept, so they ascend.
        self._lows: deque[tuple[float, int]] = deque([(now, 0)])
        self._low = 0  # since the latest of them
        self.add, self.put_back, self.clear = choice.add, choice.put_back, choice.clear

    def __len__(self) -> int:
        return len(self._choice)

    def take(self, now: float) -> Entry | None:
        entry = self._choice.take(now)
        self._low = min(self._low, len(self._choice))
        return entry

    def finished(self, entry: Entry, now: float, outcome: LeaseOutcome) -> None:
        self._choice.finished(entry, now, outcome)

    def remove(self, entry: Entry) -> None:
        self._choice.remove(entry)
        # One fewer is idle now, and was needed by nobody.
        self._lows = deque((until, max(0, low - 1)) for until, low in self._lows)
        self._low = max(0, self._low - 1)

    def tick(self, now: float) -> int:
        """Return how many were idle all through the latest period, and look again from now on."""
        lows = self._lows
        while lows and lows[-1][1] >= self._low:
            lows.pop()
        lows.append((now, self._low))
        while lows[0][0] <= now - self._period:
            lows.popleft()
        self._low = len(self._choice)
        return lows[0][1]
