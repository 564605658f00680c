"""The pool's decisions, without a connection: which to keep, and which to lease next."""

from __future__ import annotations

import pytest

from gevent_rover.ranking import Ranked, Ranking


def ranking_of(*slots: int, max_slots: int = 100) -> tuple[Ranking[Ranked], list[Ranked]]:
    """Return a ranking of idle connections, and these in their order of arrival."""
    ranking: Ranking[Ranked] = Ranking(max_slots)
    ranked = [Ranked(slot) for slot in slots]
    for connection in ranked:
        ranking.add(connection)
        ranking.rest(connection)
    return ranking, ranked


def test_the_lowest_idle_slot_is_leased_first() -> None:
    ranking, _ = ranking_of(3, 1, 2)
    leased = [ranking.lease() for _ in range(4)]
    assert [connection and connection.slot for connection in leased] == [1, 2, 3, None]
    assert (len(ranking), ranking.idle) == (3, 0)


def test_among_equal_slots_it_is_the_one_idle_longest() -> None:
    ranking, (first, second, third) = ranking_of(5, 5, 5)
    assert ranking.lease() is first
    ranking.rest(first)
    assert [ranking.lease(), ranking.lease(), ranking.lease()] == [second, third, first]


@pytest.mark.parametrize(("slot", "admitted"), [(6, True), (7, False), (8, False)])
def test_a_full_ranking_admits_what_is_strictly_lower(slot: int, admitted: bool) -> None:
    ranking, _ = ranking_of(7, 1, max_slots=2)
    assert ranking.admits(slot) is admitted


def test_the_surplus_has_the_highest_slot_and_is_idle_if_it_can_be() -> None:
    ranking, (one, other, low) = ranking_of(7, 7, 1, max_slots=3)
    assert ranking.surplus() is None
    assert [ranking.lease(), ranking.lease()] == [low, one]
    ranking.add(Ranked(2))
    assert ranking.surplus() is other
    assert ranking.lease() is other
    assert ranking.surplus() is other


def test_a_retired_connection_counts_no_more() -> None:
    ranking, (one, two) = ranking_of(1, 2)
    assert ranking.lease() is one
    ranking.retire(one)
    assert (list(ranking), one.state) == ([two], "retired")
    ranking.remove(one)
    ranking.remove(two)
    assert (len(ranking), ranking.idle, one.state, two.state) == (0, 0, "closed", "closed")
