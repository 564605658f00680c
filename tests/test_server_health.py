"""What is known of a server from its leases: slow, fast, failing, and when it's tried again."""

from __future__ import annotations

from math import inf

import pytest

from gevent_rover.policy.health import ABSENCE, Health
from gevent_rover.policy.histogram import bucket
from gevent_rover.policy.server_health import (
    FAST,
    MOST,
    RETRY_SECONDS,
    SET_ASIDE_AFTER,
    SET_ASIDE_AT_MOST,
    SLOW,
    ServerHealth,
)
from gevent_rover.policy.trouble import in_words


def health_of(*ids: str, latency: float = 0.1) -> Health:
    """Return the records of servers that all answer alike."""
    health = Health()
    for _ in range(20):
        for id in ids:
            health.of(id).answered(latency, 0.0)
    return health


def answer(server: ServerHealth, duration: float, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        server.known.leases += 1
        server.answered(duration, now)


def test_an_unknown_server_counts_as_typical() -> None:
    server = Health().of("a")
    assert (server.slowness, server.slow, server.fast) == (1, False, False)
    assert not server.is_set_aside(0.0)
    assert not server.is_due(inf)


def test_the_typical_latency_is_that_of_the_fast_ones_even_if_most_are_slow() -> None:
    health = health_of("a", "b")
    for id in ("c", "d", "e"):
        answer(health.of(id), 0.5, 40)
    health.see()
    assert health.typical == pytest.approx(0.1)
    assert [health.of(id).slow for id in "abcde"] == [False, False, True, True, True]


def test_a_single_fast_one_of_four_is_not_typical() -> None:
    health = health_of("a", "b", "c")
    answer(health.of("d"), 0.001, 100)
    health.see()
    assert health.typical == pytest.approx(0.1)
    assert health.of("d").fast
    assert health.of("d").slowness == 1
    assert not health.of("a").slow


@pytest.mark.parametrize("times", [FAST * 1.1, 1.0, SLOW * 0.95])
def test_within_the_dead_band_all_are_alike(times: float) -> None:
    health = health_of("a", "b", "c")
    answer(health.of("d"), 0.1 * times, 100)
    assert not health.of("d").slow
    assert not health.of("d").fast
    assert health.of("d").slowness == 1


def test_beyond_it_the_slowness_is_how_many_times_longer_it_takes() -> None:
    health = health_of("a", "b", "c")
    answer(health.of("d"), 0.4, 100)
    assert health.of("d").slow
    assert health.of("d").slowness == pytest.approx(4, rel=0.01)


def test_what_differs_by_less_than_a_millisecond_is_neither_slow_nor_fast() -> None:
    health = health_of("a", "b", "c", latency=0.0002)
    answer(health.of("d"), 0.0011, 100)
    answer(health.of("e"), 0.00001, 100)
    assert not health.of("d").slow
    assert not health.of("e").fast
    answer(health.of("d"), 0.0014, 100)
    assert health.of("d").slow


def test_a_slow_server_is_known_where_the_others_answer_in_microseconds() -> None:
    health = health_of("a", "b", "c", latency=0.00004)
    answer(health.of("d"), 0.05, 40)
    assert health.of("d").slow
    assert health.of("d").slowness > 10


def test_one_stall_makes_nobody_slow_where_the_others_answer_in_microseconds() -> None:
    health = health_of("a", "b", "c", latency=0.00004)
    answer(health.of("d"), 0.05, 1)
    assert not health.of("d").slow


def test_one_long_lease_makes_nobody_slow() -> None:
    health = health_of("a", "b", "c", "d")
    answer(health.of("d"), 60, 1)
    assert not health.of("d").slow
    assert health.of("d").latency <= 0.1 * MOST


def test_a_slow_server_is_tried_again_after_some_leases_or_a_minute() -> None:
    health = health_of("a", "b", "c")
    server = health.of("d")
    answer(server, 0.4, 100, now=1000.0)
    assert not server.is_due(1000.0)
    assert not server.is_due(999 + RETRY_SECONDS)
    assert server.is_due(1000 + RETRY_SECONDS)
    health.leases += 25 * 3 * 3 + 1
    assert server.is_due(1000.0)


def test_one_that_answers_a_trial_in_time_counts_as_typical_again() -> None:
    health = health_of("a", "b", "c")
    server = health.of("d")
    answer(server, 0.4, 100)
    answer(server, 0.1, 1)
    assert server.slow  # That was no trial.
    server.probed = True
    answer(server, 0.1, 1)
    assert (server.slow, server.slowness) == (False, 1)
    assert not server.is_due(inf)


def test_one_that_is_still_slow_is_slow_after_few_more_leases() -> None:
    health = health_of("a", "b", "c")
    server = health.of("d")
    answer(server, 0.4, 100)
    server.probed = True
    answer(server, 0.1, 1)
    answer(server, 0.4, 2)
    assert server.slow


def test_a_trial_that_takes_too_long_puts_off_the_next_one() -> None:
    health = health_of("a", "b", "c")
    server = health.of("d")
    answer(server, 0.4, 100)
    server.probed = True
    health.leases += 1000
    answer(server, 0.4, 1)
    assert (server.slow, server.probed) == (True, False)
    assert not server.is_due(0.0)


def test_three_failures_in_a_row_set_a_server_aside_for_longer_each_time() -> None:
    server = Health().of("a")
    for _ in range(SET_ASIDE_AFTER - 1):
        server.failed(100.0)
    assert not server.is_set_aside(100.0)
    longest = 0.0
    for _ in range(20):
        server.failed(100.0)
        assert server.is_set_aside(100.0)
        longest = max(longest, server.set_aside_until - 100)
    assert SET_ASIDE_AT_MOST / 2 <= longest <= SET_ASIDE_AT_MOST
    assert not server.is_set_aside(100 + SET_ASIDE_AT_MOST)


def test_it_gets_one_trial_at_a_time_and_an_answer_ends_it() -> None:
    server = Health().of("a")
    for _ in range(SET_ASIDE_AFTER):
        server.failed(100.0)
    later = server.set_aside_until
    assert not server.is_set_aside(later)
    server.leased = 1
    assert server.is_set_aside(later)
    server.leased = 0
    server.answered(0.1, later)
    assert (server.failures, server.is_set_aside(later)) == (0, False)


def test_an_answer_in_between_starts_the_count_anew() -> None:
    server = Health().of("a")
    for _ in range(10):
        server.failed(1.0)
        server.failed(1.0)
        server.answered(0.1, 1.0)
    assert not server.is_set_aside(1.0)


def test_work_that_says_nothing_of_time_starts_the_count_anew_too() -> None:
    server = ServerHealth()
    for _ in range(3):
        server.failed(0.0)
    assert server.is_set_aside(0.1)
    server.worked()
    assert not server.is_set_aside(0.1)
    assert (server.samples, server.latency, server.unusual) == (0, 0.0, False)
    server.failed(0.0)
    assert not server.is_set_aside(0.1)


def test_a_record_outlives_connections_and_a_short_absence() -> None:
    health = health_of("a", "b")
    known = health.of("a")
    known.suspect = True
    health.tick({"b"}, 1000.0)
    assert health.of("a") is known
    assert not known.suspect  # What attempts showed is forgotten at once.
    health.tick({"a", "b"}, 999 + ABSENCE)
    health.tick({"b"}, 1000 + ABSENCE)
    assert health.of("a") is known  # It was back meanwhile.
    health.tick({"b"}, 1000 + 2 * ABSENCE)
    assert health.of("a") is not known
    assert health.of("a").samples == 0


def test_nobody_forgets_a_server_that_has_connections() -> None:
    health = Health()
    known = health.of("a")
    known.connections = 1
    health.tick({"a"}, 0.0)
    health.tick((), 1.0)
    health.tick((), 1 + 2 * ABSENCE)
    assert health.of("a") is known


def test_records_of_which_nothing_is_known_are_dropped() -> None:
    health = Health()
    for number in range(100):
        health.of(str(number))
    health.tick({str(number) for number in range(100)}, 0.0)
    assert health.records() == []


# What is said of it


def said_of(server: ServerHealth) -> str:
    return server.state


def test_the_worst_is_said_of_a_server() -> None:
    health = health_of("a", "b", "c")
    server = health.of("a")
    assert said_of(server) == "up"
    answer(server, 1.0, 20)
    assert said_of(server) == "slow"
    server.suspect = True
    assert said_of(server) == "suspect"
    for _ in range(SET_ASIDE_AFTER):
        assert said_of(server) == "suspect"
        server.failed(1.0)
    assert said_of(server) == "set aside"
    health.record("a", "error", 2.0, failure="ProtocolError: no slot")
    assert said_of(server) == "error"
    health.record("a", "unreachable", 3.0, failure="ConnectionRefusedError")
    assert said_of(server) == "unreachable"
    health.record("a", "connection", 4.0)
    assert said_of(server) == "set aside"
    server.worked()
    assert said_of(server) == "slow"


def test_a_run_of_failures_has_a_beginning_and_ends_with_a_success_of_its_kind() -> None:
    health = Health()
    for second in (1.0, 2.0):
        health.record("a", "unreachable", second, failure=f"refused at {second:g}")
    server = health.of("a")
    trouble = server.trouble
    assert trouble is not None
    assert (trouble.text, trouble.since, trouble.at, trouble.over) == (
        "refused at 2",
        1.0,
        2.0,
        False,
    )
    server.worked()
    assert not trouble.over  # It was no lease.
    health.record("a", "connection", 3.0)
    assert trouble.over
    assert (server.attempts, server.failed_attempts) == (3, 2)
    health.record("a", "unreachable", 4.0, failure="again")
    assert server.trouble is not None
    assert (server.trouble.since, server.trouble.text) == (4.0, "again")


def test_another_kind_of_failure_begins_a_run_of_its_own() -> None:
    server = Health().of("a")
    server.failed(1.0)
    server.failed(2.0)
    server.went_wrong("lease", "EOFError: it hung up", 2.0)
    assert server.trouble is not None
    assert (server.trouble.since, server.trouble.text) == (1.0, "EOFError: it hung up")
    server.went_wrong("connection", "it hung up on a new connection", 3.0)
    assert server.trouble.since == 3.0


def test_a_server_that_left_and_came_back_has_no_trouble() -> None:
    health = Health()
    health.record("a", "error", 1.0, failure="ProtocolError")
    health.tick((), 2.0)
    health.tick({"a"}, 3.0)
    assert (health.of("a").trouble, health.of("a").state) == (None, "up")
    assert health.of("a").attempts == 1  # which is a counter


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_words_are_short_and_never_fail() -> None:
    assert in_words(ValueError("no")) == "ValueError: no"
    assert in_words(Rude()) == "Rude"
    assert len(in_words(ValueError("x" * 10_000))) == 300


def test_a_forked_child_counts_from_nothing() -> None:
    health = health_of("a")
    health.record("a", "connection", 0.0)
    health.forget_leases()
    server = health.of("a")
    assert (server.attempts, sum(server.lease_times)) == (0, 0)
    server.answered(0.1, 0.0)
    assert sum(server.lease_times) == 1


def test_how_long_leases_took_is_counted_as_it_was() -> None:
    health = health_of("a", "b", latency=0.01)
    health.of("a").answered(50.0, 0.0)  # That counts less for its latency.
    assert health.of("a").lease_times[bucket(50.0)] == 1
    assert health.of("a").lease_times[bucket(0.01)] == 20
