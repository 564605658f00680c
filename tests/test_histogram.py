"""Histograms of durations: into which bucket, and what they tell of quantiles."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevent_rover.policy.histogram import BOUNDS, bucket, no_counts, quantile

DURATIONS = st.floats(min_value=1e-5, max_value=100.0)


def histogram_of(durations: list[float]) -> list[int]:
    counts = no_counts()
    for duration in durations:
        counts[bucket(duration)] += 1
    return counts


def test_bounds_ascend_by_half_at_most_once_and_have_the_usual_ones() -> None:
    ratios = [after / before for before, after in pairwise(BOUNDS)]
    assert min(ratios) > 1.3
    assert max(ratios) < 1.7
    assert {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0} <= set(BOUNDS)
    assert (BOUNDS[0], BOUNDS[-1]) == (1e-5, 100.0)


@pytest.mark.parametrize(
    ("duration", "index"),
    [(0.0, 0), (1e-5, 0), (1.01e-5, 1), (100.0, len(BOUNDS) - 1), (101.0, len(BOUNDS))],
)
def test_a_bound_belongs_to_the_bucket_below(duration: float, index: int) -> None:
    assert bucket(duration) == index


def test_of_nothing_there_is_no_quantile() -> None:
    assert quantile(no_counts(), 0.5) is None


def test_beyond_the_last_bound_it_is_that_bound() -> None:
    assert quantile(histogram_of([500.0]), 0.99) == BOUNDS[-1]


@given(st.lists(DURATIONS, min_size=1), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_in_the_bucket_of_the_true_one(durations: list[float], share: float) -> None:
    durations.sort()
    # The first of them that at least this share of all don't exceed.
    true = next(d for n, d in enumerate(durations, 1) if n >= share * len(durations))
    found = quantile(histogram_of(durations), share)
    assert found is not None
    index = bucket(true)
    assert (BOUNDS[index - 1] if index else 0.0) <= found <= BOUNDS[index]
