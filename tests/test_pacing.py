"""Quick roving's decisions, without a clock: every moment is an argument."""

from __future__ import annotations

import pytest

from gevent_rover.pacing import MAX_FAILURES, MAX_PROBES, MOMENT, Pacing


def test_it_begins_with_one_attempt() -> None:
    assert Pacing(64).room(100, now=0.0) == 1


def test_attempts_on_their_way_take_the_room() -> None:
    pacing = Pacing(64)
    pacing.begin("first", "a", 0.0)
    assert pacing.room(100, now=0.0) == 0
    pacing.begin("tick", "b", 0.0)
    assert pacing.room(100, now=0.0) == -1
    pacing.finish("first")
    pacing.finish("tick")
    assert pacing.room(100, now=0.0) == 1


def test_finishing_twice_counts_once() -> None:
    pacing = Pacing(64)
    pacing.begin("first", "a", 0.0)
    pacing.begin("second", "b", 0.0)
    pacing.finish("first")
    pacing.finish("first")
    pacing.finish("never begun")
    assert pacing.room(100, now=0.0) == 0


def test_a_success_allows_one_more_up_to_the_limit() -> None:
    pacing = Pacing(4)
    rooms = []
    for _ in range(6):
        pacing.succeed()
        rooms.append(pacing.room(100, now=0.0))
    assert rooms == [2, 3, 4, 4, 4, 4]


def test_a_failure_halves_the_window_but_leaves_one() -> None:
    pacing = Pacing(64)
    for _ in range(8):
        pacing.succeed()
    windows = [pacing.window]
    for _ in range(5):
        pacing.fail("a")
        windows.append(pacing.window)
    assert windows == [9, 4, 2, 1, 1, 1]
    assert pacing.room(100, now=0.0) == 1


def test_a_window_of_one_stays_one() -> None:
    pacing = Pacing(1)
    pacing.succeed()
    assert pacing.room(100, now=0.0) == 1


@pytest.mark.parametrize("wanted", [0, 1, 3])
def test_no_more_attempts_than_connections_are_wanted(wanted: int) -> None:
    pacing = Pacing(64)
    for _ in range(10):
        pacing.succeed()
    assert pacing.room(wanted, now=0.0) == wanted


def test_many_failures_in_a_row_end_it_until_a_success() -> None:
    pacing = Pacing(64)
    for number in range(MAX_FAILURES - 1):
        pacing.fail(f"s{number}")
    assert not pacing.ended
    pacing.fail("b")
    assert pacing.ended
    assert pacing.room(100, now=0.0) == 0
    # The tick's own attempt isn't asked for here: a dead fleet gets that one only.
    pacing.tick(())
    assert pacing.room(100, now=0.0) == 0
    pacing.succeed()
    assert pacing.room(100, now=0.0) == 2


def test_a_success_among_failures_begins_the_count_anew() -> None:
    pacing = Pacing(64)
    for _ in range(3):
        pacing.tick(())
        for number in range(MAX_FAILURES - 1):
            pacing.fail(f"s{number}")
        pacing.succeed()
    assert not pacing.ended


def test_many_failures_of_one_server_count_once_an_interval() -> None:
    pacing = Pacing(64)
    for interval in range(MAX_FAILURES):
        assert pacing.failures == interval
        assert not pacing.ended
        for _ in range(2 * MAX_FAILURES):
            pacing.fail("a")
        pacing.tick("ab")
    assert pacing.ended


def test_end_lasts_until_the_next_tick_whatever_succeeds() -> None:
    pacing = Pacing(64)
    pacing.end()
    pacing.succeed()
    assert pacing.ended
    assert pacing.room(100, now=0.0) == 0
    pacing.tick(())
    assert not pacing.ended
    assert pacing.room(100, now=0.0) == 2


def test_a_server_that_failed_is_left_out_until_the_next_tick() -> None:
    pacing = Pacing(64)
    pacing.fail("a")
    pacing.fail("b")
    pacing.fail(None)  # the registry was empty
    assert pacing.left_out == {"a", "b"}
    pacing.tick(())
    assert pacing.left_out == set()


def test_an_attempt_that_hangs_makes_room_and_leaves_its_server_out() -> None:
    pacing = Pacing(64)
    pacing.begin("first", "a", 10.0)
    assert pacing.room(100, now=10.0 + MOMENT / 2) == 0
    assert pacing.left_out == set()
    assert pacing.room(100, now=10.0 + MOMENT) == 1
    assert pacing.left_out == {"a"}
    pacing.finish("first")
    assert pacing.room(100, now=10.0 + MOMENT) == 1


def test_an_attempt_that_hangs_before_it_picked_leaves_nobody_out() -> None:
    pacing = Pacing(64)
    pacing.begin("first", None, 10.0)
    assert pacing.room(100, now=11.0) == 1
    assert pacing.left_out == set()


def test_only_those_that_hang_make_room() -> None:
    pacing = Pacing(64)
    for _ in range(9):
        pacing.succeed()
    for number in range(5):
        pacing.begin(number, f"s{number}", number * MOMENT)
    assert pacing.room(100, now=3 * MOMENT) == 10 - 2
    assert pacing.left_out == {"s0", "s1", "s2"}


def test_an_attempt_that_begins_again_does_not_hide_an_older_one() -> None:
    pacing = Pacing(2)
    pacing.succeed()
    pacing.begin("first", None, 0.0)
    pacing.begin("second", "b", 0.0)
    pacing.begin("first", "a", MOMENT)
    assert pacing.room(100, now=MOMENT) == 1
    assert pacing.left_out == {"b"}


def test_a_connection_of_nobodys_that_died_young_ends_it_until_the_next_tick() -> None:
    pacing = Pacing(64)
    pacing.doubt(None)
    assert pacing.ended
    assert pacing.left_out == set()
    pacing.tick("ab")
    assert not pacing.ended


def test_a_server_whose_connections_died_young_is_left_out() -> None:
    pacing = Pacing(64)
    for _ in range(2 * MAX_PROBES):
        pacing.doubt("a")
    assert not pacing.ended
    assert pacing.left_out == {"a"}


def test_several_servers_whose_connections_died_young_end_it_until_the_next_tick() -> None:
    pacing = Pacing(64)
    ids = {str(number) for number in range(MAX_PROBES)}
    for id in ids:
        assert not pacing.ended
        pacing.doubt(id)
    assert pacing.ended
    pacing.tick(ids)
    for id in ids:
        pacing.doubt(id)
    assert not pacing.ended  # Nothing new.


def test_a_doubted_server_gets_one_attempt_an_interval() -> None:
    pacing = Pacing(64)
    pacing.doubt("a")
    for _ in range(3):
        pacing.tick("ab")
        assert pacing.left_out == set()
        pacing.pick("b")
        assert pacing.left_out == set()
        pacing.pick("a")
        assert pacing.left_out == {"a"}
    pacing.doubted.discard("a")  # as a pool does
    pacing.tick("ab")
    pacing.pick("a")
    assert pacing.left_out == set()


def test_doubted_servers_get_few_attempts_together() -> None:
    ids = {str(number) for number in range(2 * MAX_PROBES)}
    pacing = Pacing(64)
    for id in ids:
        pacing.doubt(id)
    pacing.tick(ids | {"good"})
    for id in sorted(ids)[:MAX_PROBES]:
        assert id not in pacing.left_out
        pacing.pick(id)
    assert pacing.left_out == ids


def test_a_doubted_server_that_leaves_the_registry_is_forgotten() -> None:
    pacing = Pacing(64)
    pacing.doubt("a")
    pacing.doubt("b")
    pacing.tick(["b"])
    assert pacing.doubted == {"b"}


def test_repr_tells_the_state() -> None:
    pacing = Pacing(8)
    pacing.succeed()
    pacing.fail("a")
    pacing.end()
    assert repr(pacing) == "<Pacing window=1 failures=1 ended=True>"
