"""How many of many durations took how long: counts that can be added up, over workers too."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

#: The upper bounds of the buckets, in seconds: six in a decade, from 10 µs to 100 s. A
#: quantile is off by a quarter at most then, and those that are usual elsewhere (1, 5, 10,
#: 50 ms, …) are among them.
BOUNDS: Final[tuple[float, ...]] = (
    *(float(f"{digits}e{decade}") for decade in range(-5, 2) for digits in (1, 1.5, 2, 3, 5, 7)),
    100.0,
)


def no_counts() -> list[int]:
    """Return a histogram of nothing.

    A *histogram* has a count for each of :data:`BOUNDS`, of the durations that it's the
    first bound of that isn't exceeded, and one more, of those beyond the last.
    """
    return [0] * (len(BOUNDS) + 1)


def bucket(duration: float) -> int:
    """Return the index of the count that a duration belongs to.

    :param duration: seconds.
    """
    return bisect_left(BOUNDS, duration)


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Return the duration, in seconds, that this share of the durations didn't exceed.

    It's interpolated within its bucket; beyond the last bound it's that bound.

    :param counts: a histogram.
    :param share: from 0 to 1: 0.5 is the median.
    :returns: None: there are no durations.
    """
    total = sum(counts)
    if not total:
        return None
    wanted = share * total
    seen = 0
    for index, count in enumerate(counts[:-1]):
        if count and seen + count >= wanted:
            lower = BOUNDS[index - 1] if index else 0.0
            return lower + (BOUNDS[index] - lower) * max(0.0, wanted - seen) / count
        seen += count
    return BOUNDS[-1]
