"""What is known of each server, and what follows from it, without a clock."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from gevent_rover.models import Outcome
from gevent_rover.policy.health import MAX_PROBES, Health

IDS = tuple("abcdefgh")


def avoided(health: Health, ids: Iterable[str] = IDS) -> set[str]:
    return {id for id in ids if health.avoid(id)}


def test_of_an_unknown_server_nothing_bad_is_known() -> None:
    health = Health()
    assert not health.avoid("a")
    assert not health.has_failed("a")
    assert not health.is_unreachable("a")


@pytest.mark.parametrize("outcome", ["unreachable", "error"])
def test_a_server_that_failed_is_avoided_until_the_next_tick(outcome: Outcome) -> None:
    health = Health()
    health.record("a", outcome, 0.0)
    assert avoided(health) == {"a"}
    assert health.has_failed("a")
    health.tick(IDS, 0.0)
    assert avoided(health) == set()
    assert not health.has_failed("a")


def test_a_failure_that_a_caller_asked_for_is_no_reason_to_avoid_the_server() -> None:
    health = Health()
    health.record("a", "unreachable", 0.0, called=True)
    assert avoided(health) == set()
    assert not health.has_failed("a")
    assert health.is_unreachable("a")


@pytest.mark.parametrize("outcome", ["connection", "discarded"])
def test_other_outcomes_are_no_reason_to_avoid_it(outcome: Outcome) -> None:
    health = Health()
    health.record("a", outcome, 0.0)
    assert avoided(health) == set()
    assert not health.has_failed("a")


def test_a_server_that_hangs_is_avoided_until_the_next_tick_but_has_not_failed() -> None:
    health = Health()
    health.hangs("a")
    assert avoided(health) == {"a"}
    assert not health.has_failed("a")
    health.tick(IDS, 0.0)
    assert avoided(health) == set()


def test_a_server_that_hung_and_gives_a_slot_is_not_avoided_any_more() -> None:
    health = Health()
    health.hangs("a")
    health.came_late("a")
    assert avoided(health) == set()
    health.came_late("unknown")


def test_one_that_failed_or_is_suspected_is_avoided_however_late_another_slot_comes() -> None:
    health = Health()
    health.record("a", "unreachable", 0.0)
    health.suspect("b", 0.0)
    for id in ("a", "b"):
        health.hangs(id)
        health.came_late(id)
    assert avoided(health) == {"a", "b"}


def test_a_server_that_did_what_was_asked_is_not_suspected_any_more() -> None:
    health = Health()
    health.suspect("a", 0.0)
    health.of("a").worked()
    assert health.suspects == set()
    health.tick(IDS, 0.0)
    health.picked("a")
    assert avoided(health) == set()


def test_a_server_is_unreachable_from_the_first_such_outcome_until_a_connection() -> None:
    health = Health()
    health.record("a", "unreachable", 1.0)
    health.tick(IDS, 0.0)
    health.record("a", "unreachable", 2.0)
    health.record("a", "error", 3.0)
    health.record("a", "discarded", 4.0)
    assert health.unreachable_since("a") == 1.0
    health.record("a", "connection", 5.0)
    assert health.unreachable_since("a") is None
    health.record("a", "error", 6.0)
    assert not health.is_unreachable("a")


def test_a_server_that_left_the_registry_is_forgotten() -> None:
    health = Health()
    for id in ("a", "b"):
        health.suspect(id, 0.0)
        health.record(id, "unreachable", 0.0)
    health.tick(["b"], 0.0)
    assert health.suspects == {"b"}
    assert [health.is_unreachable(id) for id in ("a", "b")] == [False, True]


def test_a_server_that_is_suspected_again_and_again_is_avoided_and_ends_nothing() -> None:
    health = Health()
    assert not any(health.suspect("a", 0.0) for _ in range(2 * MAX_PROBES))
    assert avoided(health) == {"a"}


def test_several_servers_that_come_to_be_suspected_are_too_many_once() -> None:
    health = Health()
    ids = IDS[:MAX_PROBES]
    assert [health.suspect(id, 0.0) for id in ids] == [False] * (MAX_PROBES - 1) + [True]
    health.tick(ids, 0.0)
    assert not any(health.suspect(id, 0.0) for id in ids)  # Nothing new.


def test_a_suspected_server_gets_one_attempt_an_interval_until_a_connection_lasts() -> None:
    health = Health()
    health.suspect("a", 0.0)
    for _ in range(3):
        health.tick(IDS, 0.0)
        assert avoided(health) == set()
        health.picked("b")
        assert avoided(health) == set()
        health.picked("a")
        assert avoided(health) == {"a"}
    health.lasted("a")
    health.tick(IDS, 0.0)
    health.picked("a")
    assert avoided(health) == set()


def test_suspected_servers_get_few_attempts_together() -> None:
    health = Health()
    for id in IDS:
        health.suspect(id, 0.0)
    health.tick((*IDS, "good"), 0.0)
    for id in IDS[:MAX_PROBES]:
        assert not health.avoid(id)
        health.picked(id)
    assert avoided(health, (*IDS, "good")) == set(IDS)


def test_repr_tells_of_whom_something_bad_is_known() -> None:
    health = Health()
    health.suspect("b", 0.0)
    health.record("a", "unreachable", 0.0)
    assert repr(health) == "<Health suspects=['b'] unreachable=['a']>"
