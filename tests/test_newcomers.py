"""Which servers a full pool seeks, since they have just joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import entry, wait_until

from gevent_rover import Rover, SlotPool, SlotServer
from gevent_rover.policy.newcomers import DOUBT, PATIENCE, Newcomers


@pytest.fixture
def newcomers() -> Newcomers:
    newcomers = Newcomers()
    newcomers.tick("ab", set())
    return newcomers


def test_those_of_the_first_interval_are_not_new(newcomers: Newcomers) -> None:
    assert newcomers.to_seek(100) == []
    newcomers.tick("ab", set())
    assert newcomers.to_seek(100) == []


@pytest.mark.parametrize(("max_slots", "times"), [(1, 1), (10, 1), (29, 2), (100, 10)])
def test_one_that_joins_is_sought_a_tenth_of_the_pool_at_a_time(
    newcomers: Newcomers, max_slots: int, times: int
) -> None:
    newcomers.tick("abc", set())
    assert newcomers.to_seek(max_slots) == ["c"] * times


def test_several_take_turns(newcomers: Newcomers) -> None:
    newcomers.tick("abcd", set())
    assert sorted(newcomers.to_seek(40)) == ["c", "c", "d", "d"]
    assert newcomers.to_seek(40, {"c"}) == ["d"] * 4


def test_it_ends_a_few_intervals_after_the_pool_had_enough(newcomers: Newcomers) -> None:
    newcomers.tick("abc", set())
    newcomers.has_enough("c")
    newcomers.has_enough("a")  # It isn't new.
    for _ in range(DOUBT - 1):
        newcomers.tick("abc", set())
        assert newcomers.to_seek(1) == ["c"]
    newcomers.tick("abc", set())
    assert newcomers.to_seek(1) == []


def test_it_ends_at_last_and_when_the_server_leaves(newcomers: Newcomers) -> None:
    newcomers.tick("abcd", set())
    newcomers.tick("abd", set())
    assert newcomers.to_seek(1) == ["d"]
    for _ in range(PATIENCE - 2):
        newcomers.tick("abd", set())
    assert newcomers.to_seek(1) == ["d"]
    newcomers.tick("abd", set())
    assert newcomers.to_seek(1) == []


def test_one_that_can_be_reached_again_is_new(newcomers: Newcomers) -> None:
    newcomers.tick("ab", {"a"})
    assert newcomers.to_seek(1) == []
    newcomers.tick("ab", set())
    assert newcomers.to_seek(1) == ["a"]


def test_a_full_pool_finds_a_server_that_joins_among_many_others(
    closing: Callable[[Any], Any], slot_server: Callable[..., SlotServer]
) -> None:
    # By chance it would be found once in 51 intervals, and then once more.
    known = entry(slot_server())
    rover = closing(Rover({f"a{number}": known for number in range(50)}, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=10))
    rover.start()
    pool.wait_ready()
    rover.add_server("b", entry(slot_server()))
    wait_until(lambda: "b" in pool.stats().servers and pool.stats().servers["b"].size == 5)
    assert [slot for slot, _ in pool.slots()] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
