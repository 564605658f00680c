"""How many connections nobody needed for a while, without a connection."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gevent_rover.policy.choice import LowestSlot
from gevent_rover.policy.entry import Entry
from gevent_rover.policy.unused import Unused

PERIOD = 10.0


class Pool:
    """Some connections, and a clock."""

    def __init__(self, idle: int) -> None:
        self.now = 0.0
        self.unused = Unused(LowestSlot(), PERIOD, self.now)
        self.leased: list[Entry] = []
        self.entries = [Entry(slot) for slot in range(idle)]
        for entry in self.entries:
            self.unused.add(entry)

    def lease(self, times: int = 1) -> None:
        for _ in range(times):
            entry = self.unused.take(self.now)
            assert entry is not None
            self.leased.append(entry)

    def give_back(self, times: int = 1) -> None:
        for _ in range(times):
            entry = self.leased.pop()
            self.unused.finished(entry, self.now, "answered")
            self.unused.put_back(entry)

    def after(self, seconds: float) -> int:
        """Let time pass, with a tick in each second; return what the last one said."""
        said = 0
        for _ in range(int(seconds)):
            self.now += 1
            said = self.unused.tick(self.now)
        return said


def test_all_are_unused_if_nobody_leases_for_the_whole_period() -> None:
    pool = Pool(5)
    assert pool.after(10) == 0  # At first there was none.
    assert pool.after(1) == 5


def test_those_that_were_leased_at_the_same_time_are_used() -> None:
    pool = Pool(5)
    pool.after(20)
    pool.lease(2)
    pool.give_back(2)
    pool.lease(2)
    pool.give_back(2)
    assert pool.after(1) == 3
    assert pool.after(9) == 3
    assert pool.after(1) == 5


def test_turns_make_no_difference() -> None:
    pool = Pool(5)
    for _ in range(30):
        pool.lease()
        pool.give_back()
        said = pool.after(1)
    assert said == 4


def test_one_that_is_closed_is_unused_no_more() -> None:
    pool = Pool(3)
    assert pool.after(11) == 3
    for left in (2, 1, 0):
        pool.unused.remove(pool.entries[left])
        assert pool.after(1) == left
        assert len(pool.unused) == left


def test_a_new_one_was_not_idle_all_the_time() -> None:
    pool = Pool(1)
    assert pool.after(11) == 1
    pool.unused.add(Entry(7))
    assert pool.after(5) == 1
    assert pool.after(6) == 2


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_it_is_the_least_of_the_latest_period(most_leased: list[int]) -> None:
    pool = Pool(5)
    pool.after(30)
    lows = [5] * 10
    for most in most_leased:
        pool.lease(most)
        pool.give_back(most)
        lows = [*lows[1:], 5 - most]
        assert pool.after(1) == min(lows)
