"""How the pool's histograms, which have their counts already, become Prometheus' own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from prometheus_client import Histogram

from gevent_rover.policy.histogram import BOUNDS

#: The upper bounds of the exported buckets, in seconds: those that OpenTelemetry recommends
#: for connections (1 and 5, from 1 ms to 10 s), those between, and a decade below, as a lease
#: often takes less than 1 ms. Each is one of :data:`BOUNDS`, so nothing is guessed.
BUCKETS: Final[tuple[float, ...]] = (
    *(float(f"{digit}e{decade}") for decade in range(-4, 1) for digit in (1, 2, 5)),
    10.0,
)

# For each count of a pool's histogram the index of its bucket; the last bucket has no bound.
_BUCKET_OF: Final = [bisect_left(BUCKETS, bound) for bound in BOUNDS] + [len(BUCKETS)]

# Where the middle of each of these counts is, in seconds.
_MIDDLES: Final = [
    (lower + upper) / 2 for lower, upper in zip((0.0, *BOUNDS), (*BOUNDS, BOUNDS[-1]), strict=True)
]


def add_counts(
    histogram: Histogram, counts: Iterable[tuple[int, int]], seconds: float | None = None
) -> None:
    """Add durations that are counted already to a histogram with :data:`BUCKETS`.

    :param counts: pairs: an index as in a histogram of the pool, and how many durations more
        there are.
    :param seconds: their sum; None: nobody knows, so each is taken for the middle of what
        it's counted in, which is off by a third at most, and by little on average.
    """
    # ``observe`` takes one duration a call, and a pool has thousands in a second, of which
    # it knows the counts alone. A test fails if the client library changes these two.
    buckets, sum = histogram._buckets, histogram._sum
    estimated = 0.0
    for index, more in counts:
        buckets[_BUCKET_OF[index]].inc(more)
        estimated += more * _MIDDLES[index]
    sum.inc(estimated if seconds is None else seconds)
