"""The lowest free number, against the simplest model of it."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevent_rover import Slots


@given(
    st.integers(1, 5),
    st.integers(0, 7),
    st.none() | st.integers(1, 6),
    st.lists(st.none() | st.integers(0, 20), max_size=60),
)
def test_slots_behave_like_a_search_for_the_lowest_free_number(
    stride: int, offset: int, limit: int | None, steps: list[int | None]
) -> None:
    slots = Slots(stride=stride, offset=offset, limit=limit)
    taken: list[int] = []
    for step in steps:
        if step is None or not taken:
            expected = next(slot for slot in count(offset, stride) if slot not in taken)
            if limit is not None and len(taken) == limit:
                assert slots.take() is None
            else:
                assert slots.take() == expected
                taken.append(expected)
        else:
            slot = taken.pop(step % len(taken))
            slots.free(slot)
            with pytest.raises(ValueError, match=f"slot {slot} isn't taken"):
                slots.free(slot)
        assert len(slots) == len(taken)


def test_slots_begin_at_zero_without_gaps() -> None:
    slots = Slots()
    assert [slots.take() for _ in range(4)] == [0, 1, 2, 3]


def test_the_lowest_of_several_freed_slots_comes_first() -> None:
    slots = Slots()
    for _ in range(10):
        slots.take()
    for slot in (7, 2, 9, 4):
        slots.free(slot)
    assert [slots.take() for _ in range(5)] == [2, 4, 7, 9, 10]


def test_strided_slots_with_different_offsets_share_the_numbers() -> None:
    share = [Slots(stride=3, offset=offset) for offset in range(3)]
    assert sorted(slots.take() or 0 for _ in range(5) for slots in share) == list(range(15))


def test_beyond_the_limit_there_is_none_until_one_is_freed() -> None:
    slots = Slots(limit=2)
    assert [slots.take(), slots.take(), slots.take(), slots.take()] == [0, 1, None, None]
    slots.free(0)
    assert [slots.take(), slots.take()] == [0, None]


@pytest.mark.parametrize("slot", [0, 1, 4, -1, 10**20])
def test_freeing_what_is_not_taken_changes_nothing(slot: int) -> None:
    slots = Slots(stride=2, offset=2)
    assert slots.take() == 2
    with pytest.raises(ValueError, match=f"slot {slot} isn't taken"):
        slots.free(slot)
    assert len(slots) == 1
    assert [slots.take(), slots.take()] == [4, 6]


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"stride": 0}, "stride .* got 0"),
        ({"stride": -1}, "stride .* got -1"),
        ({"offset": -1}, "offset .* got -1"),
        ({"limit": 0}, "limit .* got 0"),
        ({"limit": -5}, "limit .* got -5"),
    ],
)
def test_an_argument_out_of_range_is_refused(options: dict[str, int], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        Slots(**options)


def test_repr_tells_the_state() -> None:
    slots = Slots(stride=2, offset=1)
    slots.take()
    assert repr(slots) == "<Slots stride=2 offset=1 taken=1>"
    assert repr(Slots(limit=8)) == "<Slots stride=1 offset=0 taken=0/8>"
