"""When the ticks are."""

from __future__ import annotations

from math import isfinite


class Schedule:
    """A fixed schedule that doesn't drift. All times are monotonic seconds.

    :param first: when the first tick is due.
    :param phase: the part of an interval, from 0 to 1, after which the second one is due.
    """

    def __init__(self, first: float, phase: float = 1.0) -> None:
        self._next = first
        self._phase = phase

    def is_due(self, now: float, interval: float) -> bool:
        """Tell whether a tick is due; if so, the next one is an interval after it.

        A tick that comes late keeps its phase, and those that it missed are skipped.
        """
        if now < self._next:
            return False
        self._next -= (1 - self._phase) * interval
        self._phase = 1.0
        missed = (now - self._next) // interval
        following = self._next + (missed + 1) * interval
        # An interval may be so short that no number says how many were missed.
        self._next = following if isfinite(following) else now
        return True

    def seconds_left(self, now: float) -> float:
        """Return how long it is until the next tick; 0 if it's due."""
        return max(0.0, self._next - now)

    def bring_forward(self, to: float) -> None:
        """Make the next tick due at ``to`` if that's earlier; the schedule goes on from there."""
        self._next = min(self._next, to)
