"""The pool's decisions, without a connection: which to keep, and which to lease next."""

from __future__ import annotations

import pytest

from gevent_rover import Server, Slot
from gevent_rover.policy.choice import LeaseOutcome, LowestSlot
from gevent_rover.policy.entry import Entry
from gevent_rover.policy.ranking import Ranking


class Noting(LowestSlot):
    """Notes what it's told, in order; finds out what isn't a change."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.known: set[Entry] = set()
        self.leased: set[Entry] = set()

    def add(self, entry: Entry) -> None:
        assert entry not in self.known
        self.known.add(entry)
        self.told.append(f"add {entry.slot}")
        super().put_back(entry)

    def put_back(self, entry: Entry) -> None:
        assert entry not in self.known
        self.known.add(entry)
        self.told.append(f"put back {entry.slot}")
        super().put_back(entry)

    def take(self, now: float) -> Entry | None:
        entry = super().take(now)
        if entry is not None:
            self.known.remove(entry)
            self.leased.add(entry)
            self.told.append(f"take {entry.slot}")
        return entry

    def finished(self, entry: Entry, now: float, outcome: LeaseOutcome) -> None:
        assert entry.server.leased == 0  # The record knows first.
        self.leased.remove(entry)
        self.told.append(f"finished {entry.slot} at {now:g}: {outcome}")

    def remove(self, entry: Entry) -> None:
        self.known.remove(entry)
        self.told.append(f"remove {entry.slot}")
        super().remove(entry)


def ranking_of(*slots: int, max_slots: int = 100) -> tuple[Ranking[Entry], list[Entry]]:
    """Return a ranking of idle connections, and these in their order of arrival."""
    ranking: Ranking[Entry] = Ranking(max_slots, LowestSlot())
    entries = [Entry(slot) for slot in slots]
    for entry in entries:
        ranking.add(entry)
        ranking.make_idle(entry)
    return ranking, entries


def test_the_lowest_idle_slot_is_leased_first() -> None:
    ranking, _ = ranking_of(3, 1, 2)
    leased = [ranking.lease(0.0) for _ in range(4)]
    assert [connection and connection.slot for connection in leased] == [1, 2, 3, None]
    assert (len(ranking), ranking.idle) == (3, 0)


def test_among_equal_slots_it_is_the_one_idle_longest() -> None:
    ranking, (first, second, third) = ranking_of(5, 5, 5)
    assert ranking.lease(0.0) is first
    ranking.give_back(first, 1.0, "answered")
    assert [ranking.lease(0.0), ranking.lease(0.0), ranking.lease(0.0)] == [second, third, first]


@pytest.mark.parametrize(("slot", "admitted"), [(6, True), (7, False), (8, False)])
def test_a_full_ranking_admits_what_is_strictly_lower(slot: int, admitted: bool) -> None:
    ranking, _ = ranking_of(7, 1, max_slots=2)
    assert ranking.admits(slot) is admitted


def test_the_excess_has_the_highest_slot_and_is_idle_if_it_can_be() -> None:
    ranking, (one, other, low) = ranking_of(7, 7, 1, max_slots=3)
    assert ranking.excess() is None
    assert [ranking.lease(0.0), ranking.lease(0.0)] == [low, one]
    ranking.add(Entry(2))
    assert ranking.excess() is other
    assert ranking.lease(0.0) is other
    assert ranking.excess() is other


def test_a_lower_limit_makes_excess_of_the_highest_slots() -> None:
    ranking, (four, one, three, two) = ranking_of(4, 1, 3, 2)
    ranking.max_slots = 2
    given_up = []
    while (entry := ranking.excess()) is not None:
        assert ranking.give_up(entry)
        given_up.append(entry)
    assert given_up == [four, three]
    assert list(ranking) == [one, two]


def test_a_retired_connection_counts_no_more() -> None:
    ranking, (one, two) = ranking_of(1, 2)
    assert ranking.lease(0.0) is one
    assert not ranking.give_up(one)
    assert (list(ranking), one.state) == ([two], "retired")
    ranking.remove(one)
    ranking.remove(two)
    assert (len(ranking), ranking.idle, one.state, two.state) == (0, 0, "closed", "closed")


def test_a_choice_is_told_of_each_lease_and_its_end_once() -> None:
    choice = Noting()
    ranking: Ranking[Entry] = Ranking(3, choice)
    for slot in (1, 2, 3):
        entry = Entry(slot)
        ranking.add(entry)
        ranking.make_idle(entry)
    one, two, three = list(ranking)
    assert [ranking.lease(0.0) for _ in range(3)] == [one, two, three]
    ranking.give_back(one, 1.0, "answered")
    assert not ranking.give_up(two)
    ranking.remove(two, 2.0, "answered")  # It came back.
    ranking.remove(three, 3.0, "failed")  # Discarded.
    assert ranking.give_up(one)
    assert choice.told == [
        *("add 1", "add 2", "add 3", "take 1", "take 2", "take 3"),
        *("finished 1 at 1: answered", "put back 1"),
        *("finished 2 at 2: answered", "finished 3 at 3: failed", "remove 1"),
    ]
    assert not choice.known
    assert not choice.leased


def test_an_entry_knows_whose_slot_it_is() -> None:
    server: Server = {"host": "192.0.2.1", "port": 1}
    assert Entry(Slot(3, "web1", server)).server_id == "web1"
    assert Entry(3).server_id is None
