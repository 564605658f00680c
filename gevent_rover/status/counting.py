"""Counters of many workers as one: totals that never fall, and what came lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from gevent_rover.policy.histogram import no_counts, quantile
from gevent_rover.status.reading import Times

#: Seconds that count as now: rates and quantiles are of what came in them.
WINDOW: Final = 10.0

# The most moments in that time that are kept, for readers who ask very often.
_MOMENTS: Final = 20

# A sum of seconds may fall by so much of it: its parts are added up in another order when a
# connection is closed.
_ROUNDING: Final = 1e-6


class Latest:
    """What one worker counted when it was last asked: of its pool, or of one server."""

    __slots__ = ("listed_at", "numbers", "times")

    def __init__(self, now: float) -> None:
        #: When the worker last listed it.
        self.listed_at = now
        self.numbers: dict[str, float] = {}
        self.times: Times = {}

    def grown(
        self, numbers: Mapping[str, float], times: Times, *, late: bool
    ) -> tuple[dict[str, float], Times]:
        """Take over what it counts now, and return what has been added since.

        A counter that fell began anew: all that it says was added. So does a histogram in
        which any count fell.

        :param late: these are older than the ones before: then what fell says nothing.
        """
        added: dict[str, float] = {}
        mine = self.numbers
        for name, now in numbers.items():
            before = mine.get(name, 0)
            if now > before:
                added[name] = now - before
                mine[name] = now
            elif now < before and not late and now < before * (1 - _ROUNDING):
                added[name] = now
                mine[name] = now
        if times == self.times:
            return added, {}
        before_times = self.times
        if any(times.get(index, 0) < count for index, count in before_times.items()):
            if late:
                return added, {}
            self.times = times
            return added, times
        self.times = times
        return added, {
            index: count - before_times.get(index, 0)
            for index, count in times.items()
            if count > before_times.get(index, 0)
        }


class Total:
    """A row's counters over all workers, those that are gone too."""

    __slots__ = ("_moments", "_recent", "listed_at", "numbers", "times", "wait_times")

    def __init__(self, now: float) -> None:
        #: All that was counted, by name; and the times of leases, and of waits.
        self.numbers: dict[str, float] = {}
        self.times = no_counts()
        self.wait_times = no_counts()
        #: When any worker last listed it.
        self.listed_at = now
        # What came since it's watched; and at moments of the last while.
        self._recent = _Moment(now)
        self._moments = deque([_Moment(now)])

    def add(self, numbers: Mapping[str, float], *, new: bool) -> None:
        """Add to the numbers.

        :param new: it came since its worker is watched, not at an unknown time before.
        """
        for name, number in numbers.items():
            self.numbers[name] = self.numbers.get(name, 0) + number
        if new:
            self._recent.leases += numbers.get("leases", 0)
            self._recent.failures += numbers.get("failures", 0)

    def add_times(self, times: Times, *, new: bool) -> None:
        """Add to the times of leases."""
        for index, count in times.items():
            self.times[index] += count
            if new:
                self._recent.times[index] += count

    def add_wait_times(self, times: Times, *, new: bool) -> None:
        """Add to the times of waits."""
        for index, count in times.items():
            self.wait_times[index] += count
            if new:
                self._recent.wait_times[index] += count

    def tick(self, now: float) -> None:
        """Take note of the moment, after all was added."""
        moments = self._moments
        if now - moments[-1].time >= WINDOW / _MOMENTS:
            moments.append(self._recent.at(now, moments[-1]))
        # One that is older than the window stays: what came since then is the window's.
        while len(moments) > 1 and now - moments[1].time >= WINDOW:
            moments.popleft()

    def rates(self, now: float) -> tuple[float | None, float | None]:
        """Return leases and failures in a second; None: nobody knows yet."""
        then = self._moments[0]
        seconds = now - then.time
        if seconds <= 0:
            return None, None
        leases = (self._recent.leases - then.leases) / seconds
        return leases, (self._recent.failures - then.failures) / seconds

    def quantiles(self) -> tuple[float | None, float | None, bool]:
        """Return the median and the 99th percentile of leases' times, and whether they're of now.

        If there were no leases lately, they are of all there were.
        """
        return _quantiles(self.times, self._recent.times, self._moments[0].times)

    def wait_quantiles(self) -> tuple[float | None, float | None, bool]:
        """Return the same of waits."""
        return _quantiles(self.wait_times, self._recent.wait_times, self._moments[0].wait_times)


class _Moment:
    """What had come until a moment."""

    __slots__ = ("failures", "leases", "time", "times", "wait_times")

    def __init__(self, time: float) -> None:
        self.time = time
        self.leases = self.failures = 0.0
        self.times = no_counts()
        self.wait_times = no_counts()

    def at(self, time: float, last: _Moment) -> _Moment:
        """Return a copy, which shares with the one before what is the same: most rows are idle."""
        copy = _Moment(time)
        copy.leases, copy.failures = self.leases, self.failures
        copy.times = last.times if self.times == last.times else list(self.times)
        same_waits = self.wait_times == last.wait_times
        copy.wait_times = last.wait_times if same_waits else list(self.wait_times)
        return copy


def _quantiles(
    all: list[int], now: list[int], then: list[int]
) -> tuple[float | None, float | None, bool]:
    lately = [count - before for count, before in zip(now, then, strict=True)]
    recent = any(lately)
    counts = lately if recent else all
    return quantile(counts, 0.5), quantile(counts, 0.99), recent
