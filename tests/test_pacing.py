"""Quick roving's window, without a clock: every moment is an argument."""

from __future__ import annotations

import pytest

from gevent_rover.policy.pacing import HANGS_AFTER, MAX_FAILURES, Pacing


def test_it_begins_with_one_attempt() -> None:
    assert Pacing(64).room(100) == 1


def test_attempts_on_their_way_take_the_room() -> None:
    pacing = Pacing(64)
    pacing.begin("first", "a", 0.0)
    assert pacing.room(100) == 0
    pacing.begin("tick", "b", 0.0)
    assert pacing.room(100) == -1
    pacing.finish("first")
    pacing.finish("tick")
    assert pacing.room(100) == 1


def test_finishing_twice_counts_once() -> None:
    pacing = Pacing(64)
    pacing.begin("first", "a", 0.0)
    pacing.begin("second", "b", 0.0)
    pacing.finish("first")
    pacing.finish("first")
    pacing.finish("never begun")
    assert pacing.room(100) == 0


def test_a_success_allows_one_more_up_to_the_limit() -> None:
    pacing = Pacing(4)
    rooms = []
    for _ in range(6):
        pacing.succeed()
        rooms.append(pacing.room(100))
    assert rooms == [2, 3, 4, 4, 4, 4]


def test_a_failure_halves_the_window_but_leaves_one() -> None:
    pacing = Pacing(64)
    for _ in range(8):
        pacing.succeed()
    windows = [pacing.window]
    for _ in range(5):
        pacing.fail()
        windows.append(pacing.window)
    assert windows == [9, 4, 2, 1, 1, 1]
    assert pacing.room(100) == 1


def test_a_window_of_one_stays_one() -> None:
    pacing = Pacing(1)
    pacing.succeed()
    assert pacing.room(100) == 1


@pytest.mark.parametrize("wanted", [0, 1, 3])
def test_no_more_attempts_than_connections_are_wanted(wanted: int) -> None:
    pacing = Pacing(64)
    for _ in range(10):
        pacing.succeed()
    assert pacing.room(wanted) == wanted


def test_many_failures_in_a_row_end_it_until_a_success() -> None:
    pacing = Pacing(64)
    for _ in range(MAX_FAILURES - 1):
        pacing.fail()
    assert not pacing.ended
    pacing.fail()
    assert pacing.ended
    assert pacing.room(100) == 0
    # The tick's own attempt isn't asked for here: a dead fleet gets that one only.
    pacing.tick()
    assert pacing.room(100) == 0
    pacing.succeed()
    assert pacing.room(100) == 2


def test_a_success_among_failures_begins_the_count_anew() -> None:
    pacing = Pacing(64)
    for _ in range(3):
        pacing.tick()
        for _ in range(MAX_FAILURES - 1):
            pacing.fail()
        pacing.succeed()
    assert not pacing.ended


def test_failures_that_do_not_count_halve_the_window_alone() -> None:
    pacing = Pacing(64)
    pacing.succeed()
    for _ in range(2 * MAX_FAILURES):
        pacing.fail(counts=False)
    assert not pacing.ended
    assert (pacing.window, pacing.failures) == (1, 0)


def test_end_lasts_until_the_next_tick_whatever_succeeds() -> None:
    pacing = Pacing(64)
    pacing.end()
    pacing.succeed()
    assert pacing.ended
    assert pacing.room(100) == 0
    pacing.tick()
    assert not pacing.ended
    assert pacing.room(100) == 2


def test_a_lower_limit_holds_at_once_and_a_higher_one_lets_it_grow() -> None:
    pacing = Pacing(8)
    for _ in range(9):
        pacing.succeed()
    pacing.max_window = 3
    assert pacing.room(100) == 3
    pacing.max_window = 5
    assert pacing.room(100) == 3
    for _ in range(9):
        pacing.succeed()
    assert pacing.room(100) == 5


def test_an_attempt_that_hangs_makes_room_once() -> None:
    pacing = Pacing(64)
    pacing.begin("first", "a", 10.0)
    assert list(pacing.hanging(10.0 + HANGS_AFTER / 2)) == []
    assert pacing.room(100) == 0
    assert list(pacing.hanging(10.0 + HANGS_AFTER)) == ["a"]
    assert pacing.room(100) == 1
    pacing.finish("first")
    assert list(pacing.hanging(10.0 + HANGS_AFTER)) == []
    assert pacing.room(100) == 1


def test_an_attempt_that_hangs_before_it_picked_is_nobodys() -> None:
    pacing = Pacing(64)
    pacing.begin("first", None, 10.0)
    assert list(pacing.hanging(11.0)) == [None]
    assert pacing.room(100) == 1


def test_only_those_that_hang_make_room() -> None:
    pacing = Pacing(64)
    for _ in range(9):
        pacing.succeed()
    for number in range(5):
        pacing.begin(number, f"s{number}", number * HANGS_AFTER)
    assert list(pacing.hanging(3 * HANGS_AFTER)) == ["s0", "s1", "s2"]
    assert pacing.room(100) == 10 - 2


def test_an_attempt_that_begins_again_does_not_hide_an_older_one() -> None:
    pacing = Pacing(2)
    pacing.succeed()
    pacing.begin("first", None, 0.0)
    pacing.begin("second", "b", 0.0)
    pacing.begin("first", "a", HANGS_AFTER)
    assert list(pacing.hanging(HANGS_AFTER)) == ["b"]
    assert pacing.room(100) == 1


def test_it_is_known_which_attempt_hung_until_it_is_over() -> None:
    pacing = Pacing(2)
    pacing.begin("early", "a", 0.0)
    pacing.begin("late", "b", 1.0)
    assert list(pacing.hanging(1.0)) == ["a"]
    assert pacing.hung("early")
    assert not pacing.hung("late")


def test_it_resumes_in_the_same_interval_only_if_all_servers_were_avoided() -> None:
    pacing = Pacing(8)
    pacing.end(all_avoided=True)
    assert pacing.room(100) == 0
    pacing.resume()
    assert pacing.room(100) == 1
    pacing.end(all_avoided=True)
    pacing.end()
    pacing.end(all_avoided=True)
    pacing.resume()
    assert pacing.room(100) == 0  # There was another reason, too.
    pacing.tick()
    assert pacing.room(100) == 1


def test_repr_tells_the_state() -> None:
    pacing = Pacing(8)
    pacing.succeed()
    pacing.fail()
    pacing.end()
    assert repr(pacing) == "<Pacing window=1 failures=1 ended=True>"
