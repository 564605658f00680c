"""Prometheus instruments: what is exported is what rover and pool did, and keeps neither alive."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import gevent
import pytest
from conftest import (
    OFFERED,
    ROOT,
    entry,
    living_greenlets,
    open_descriptors,
    wait_until,
)
from gevent import socket
from gevent.subprocess import PIPE, STDOUT, Popen
from gevent.threadpool import ThreadPool
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fork import FORKS, in_child

from gevent_rover import PoolFull, PoolTimeout, Rover, Slot, SlotPool, SlotServer
from gevent_rover.models import Outcome
from gevent_rover.policy.histogram import BOUNDS, bucket
from gevent_rover.policy.server_health import SET_ASIDE_AFTER, ServerState

if os.environ.get("CI") != "true":
    pytest.importorskip("prometheus_client", reason="it's in the extra metrics")

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gevent_rover.metrics import Instruments, instrument, metrics_app
from gevent_rover.metrics.histograms import BUCKETS, add_counts
from gevent_rover.metrics.instruments import pause_after

Offer = Callable[..., socket.socket]
Closing = Callable[[Any], Any]

PREFIX = "gevent_rover_"


class Scrapes:
    """A registry, and what it exports."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def samples(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Return the samples with this name, and all these labels, of a scrape."""
        text = generate_latest(self.registry).decode()
        return [
            (dict(sample.labels), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == PREFIX + name and labels.items() <= sample.labels.items()
        ]

    def of(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with this name and these labels."""
        return sum(value for _, value in self.samples(name, **labels))

    def now(self, name: str, **labels: str) -> float | None:
        """Return what a scrape would find that brings nothing up to date."""
        labels = {"pool": "pool", **labels}
        for family in self.registry.restricted_registry([PREFIX + name]).collect():
            for sample in family.samples:
                if sample.labels == labels:
                    return sample.value
        return None


@pytest.fixture
def scrapes() -> Scrapes:
    return Scrapes()


@pytest.fixture
def fed(closing: Closing) -> Callable[..., tuple[Rover, SlotPool]]:
    """Give a function that makes a rover which doesn't rove, and a pool to offer connections to."""

    def fed(*ids: str, **options: Any) -> tuple[Rover, SlotPool]:
        rover = closing(Rover(dict.fromkeys(ids or ("web",), OFFERED)))
        return rover, closing(SlotPool(rover, **options))

    return fed


def use(pool: SlotPool, count: int = 1) -> None:
    for _ in range(count):
        with pool.lease(0):
            pass


def fail(pool: SlotPool) -> None:
    with pytest.raises(OSError, match="no more"), pool.lease(0):
        raise OSError("no more")


# What is exported


def test_connections_are_counted_by_server_and_state(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    rover, pool = fed("a", "b", max_slots=5, min_slots=1)
    instrument(rover, pool, registry=scrapes.registry)
    _peers = [offer(pool, slot, id) for slot, id in ((0, "a"), (1, "a"), (0, "b"))]

    def states(server: str) -> dict[str, float]:
        found = scrapes.samples("connection_count", server=server)
        return {labels["state"]: value for labels, value in found}

    assert states("a") == {"idle": 2, "used": 0}
    assert states("b") == {"idle": 1, "used": 0}
    leased = [pool.acquire(0) for _ in range(3)]
    assert states("a") == {"idle": 0, "used": 2}
    pool.max_slots = 2  # The highest slot is retired.
    assert states("a") == {"idle": 0, "used": 1, "retired": 1}
    assert scrapes.of("connection_max") == 2
    assert scrapes.of("connection_idle_min") == 1
    for sock in leased:
        pool.release(sock)
    assert states("a") == {"idle": 1, "used": 0, "retired": 0}
    assert states("b") == {"idle": 1, "used": 0}


def test_a_connection_that_is_set_up_is_preparing(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    rover, pool = fed(setup=lambda sock, slot: sock.recv(1) and None)
    instrument(rover, pool, registry=scrapes.registry)
    peer = offer(pool)
    assert scrapes.of("connection_count", state="preparing") == 1
    assert scrapes.of("connection_count", state="idle") == 0
    peer.sendall(b"!")
    wait_until(lambda: pool.idle)
    assert scrapes.of("connection_count", state="preparing") == 0
    assert scrapes.of("connection_count", state="idle") == 1


def test_leases_are_counted_with_how_they_went(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    rover, pool = fed("a", "b")
    instrument(rover, pool, registry=scrapes.registry)
    for name in ("leases_total", "lease_failures_total", "connection_use_time_seconds_count"):
        assert [value for _, value in scrapes.samples(name)] == [0, 0]  # from the start
    _peer = offer(pool, 0, "a")
    use(pool, 3)
    with pool.lease(0):
        # It hasn't ended.
        assert scrapes.of("leases_total", server="a") == 4
        assert scrapes.of("connection_use_time_seconds_count", server="a") == 3
        gevent.sleep(0.03)
    assert scrapes.of("connection_use_time_seconds_count", server="a") == 4
    spent = pool.stats().lease_seconds
    assert scrapes.of("connection_use_time_seconds_sum", server="a") == pytest.approx(spent)
    assert scrapes.of("connection_use_time_seconds_bucket", server="a", le="0.02") == 3
    assert scrapes.of("connection_use_time_seconds_bucket", server="a", le="5.0") == 4
    fail(pool)
    assert scrapes.of("lease_failures_total", server="a") == 1
    assert scrapes.of("leases_total", server="a") == 5
    assert scrapes.of("connection_use_time_seconds_count", server="a") == 4  # wasn't answered
    assert scrapes.of("leases_total", server="b") == 0


def test_where_some_leases_were_not_answered_the_sum_is_that_of_the_others_nearly(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    rover, pool = fed()
    instrument(rover, pool, registry=scrapes.registry)
    _peers = [offer(pool, slot) for slot in range(2)]
    scrapes.of("leases_total")
    for failed in (False, True):
        sock = pool.acquire(0)
        gevent.sleep(0.02 if not failed else 0.2)
        pool.release(sock, failed=failed)
    answered = scrapes.of("connection_use_time_seconds_sum")
    assert 0.015 < answered < 0.1 < pool.stats().lease_seconds


def test_waits_timeouts_and_refusals_are_counted(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    rover, pool = fed(max_waiting=1)
    instrument(rover, pool, registry=scrapes.registry)
    assert scrapes.of("connection_timeouts_total") == 0
    with pytest.raises(PoolTimeout):
        pool.acquire(0)  # Nobody waited.
    assert scrapes.of("connection_timeouts_total") == 1
    assert scrapes.of("connection_wait_time_seconds_count") == 0
    waiting = gevent.spawn(pool.acquire, 5)
    wait_until(lambda: pool.waiting)
    assert scrapes.of("connection_pending_requests") == 1
    with pytest.raises(PoolFull):
        pool.acquire(5)
    assert scrapes.of("connection_rejected_requests_total") == 1
    gevent.sleep(0.02)
    _peer = offer(pool)
    pool.release(waiting.get(timeout=5))
    assert scrapes.of("connection_pending_requests") == 0
    assert scrapes.of("connection_wait_time_seconds_count") == 1
    assert scrapes.of("connection_wait_time_seconds_bucket", le="0.01") == 0
    waited = pool.stats().wait_seconds
    assert scrapes.of("connection_wait_time_seconds_sum") == pytest.approx(waited)


def test_connections_are_counted_as_they_come_and_go_with_the_reason(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    rover, pool = fed(max_slots=2)
    instrument(rover, pool, registry=scrapes.registry)
    peers = [offer(pool, slot) for slot in (3, 2, 1)]
    peers[1].close()
    wait_until(lambda: pool.size == 1)
    fail(pool)
    assert scrapes.of("connection_opened_total") == 3
    closed = {
        labels["reason"]: value for labels, value in scrapes.samples("connection_closed_total")
    }
    assert closed == {"replaced": 1, "ended": 1, "failed": 1}


def test_attempts_are_counted_by_outcome_and_those_that_connect_are_timed(
    says: Callable[[bytes], Any], dead_server: Any, closing: Closing, scrapes: Scrapes
) -> None:
    rover = closing(Rover({"up": says(b"0\r\n")}))
    rover.on("connection", lambda rover, slot, socket: closing(socket))
    rover.on("error", lambda rover, error: None)
    instrument(rover, registry=scrapes.registry)
    rover.connect()
    rover.servers = {"down": dead_server}
    rover.connect()
    rover.connect()
    rover.servers = {"odd": says(b"220 ready\r\n")}
    rover.connect()
    rover.servers = {}
    rover.connect()
    found = {
        (labels["server"], labels["outcome"]): value
        for labels, value in scrapes.samples("attempts_total")
    }
    assert found == {
        ("up", "connection"): 1,
        ("down", "unreachable"): 2,
        ("odd", "error"): 1,
        ("", "error"): 1,  # no servers at all
    }
    assert scrapes.of("connection_create_time_seconds_count") == 1
    assert 0 < scrapes.of("connection_create_time_seconds_sum") < 1


def test_a_servers_state_is_the_one_that_the_client_sees(
    fed: Callable[..., tuple[Rover, SlotPool]],
    dead_server: Any,
    offer: Offer,
    scrapes: Scrapes,
) -> None:
    rover, pool = fed("web", "other web")
    instrument(rover, pool, registry=scrapes.registry)

    def states(id: str) -> dict[str, float]:
        found = scrapes.samples("server_state", server=id)
        return {labels["state"]: value for labels, value in found}

    assert states("web") == states("other web") == {"up": 1}
    _peers = [offer(pool, slot) for slot in range(SET_ASIDE_AFTER + 1)]
    for _ in range(SET_ASIDE_AFTER):
        fail(pool)
    assert states("web") == {"up": 0, "set aside": 1}
    with pool.lease(0):
        rover.drop_server("web")
        assert states("web") == {"up": 0, "set aside": 0, "draining": 1}
    assert states("web") == {"up": 0, "set aside": 0, "draining": 0}
    assert states("other web") == {"up": 1}
    rover.servers = {"down": dead_server}
    rover.connect()
    assert states("down")["unreachable"] == 1


def test_connections_of_nobody_knows_whose_server_have_no_label(
    closing: Closing, scrapes: Scrapes
) -> None:
    rover = closing(Rover())
    pool = closing(SlotPool(rover))
    instrument(rover, pool, registry=scrapes.registry)
    mine, _peer = (closing(end) for end in socket.socketpair())
    assert pool.offer(0, mine)
    use(pool)
    assert scrapes.samples("leases_total") == [({"pool": "pool", "server": ""}, 1)]
    assert scrapes.samples("server_state") == []


def test_a_check_that_fails_takes_its_lease_back_and_no_counter_falls(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    during = []

    def check(sock: socket.socket) -> bool:
        during.append(scrapes.of("leases_total"))
        return len(during) > 2

    rover, pool = fed(check=check)
    instrument(rover, pool, registry=scrapes.registry)
    _peers = [offer(pool, slot) for slot in range(3)]
    use(pool)
    assert during == sorted(during)
    assert scrapes.of("leases_total") == max(during) == pool.stats().leases == 1
    use(pool, 2)
    assert scrapes.of("leases_total") == 3


_OPERATIONS = (
    *("offer a", "offer b", "offer c", "drop", "forget", "shrink", "grow", "close"),
    *("lease", "release", "fail", "discard", "time out", "look"),
)


@pytest.mark.integration
@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(_OPERATIONS), max_size=40), st.booleans(), st.integers(1, 3))
def test_whatever_happens_the_sums_are_the_pools_and_no_counter_falls(
    operations: list[str], per_server: bool, max_servers: int
) -> None:
    scrapes = Scrapes()
    rover = Rover(dict.fromkeys("abc", OFFERED))
    pool = SlotPool(rover, max_slots=3)
    instruments = instrument(
        rover, pool, registry=scrapes.registry, per_server=per_server, max_servers=max_servers
    )
    peers, leased, seen = [], [], [0.0]
    for number, operation in enumerate(operations):
        if operation.startswith("offer"):
            mine, peer = socket.socketpair()
            pool.offer(Slot(number % 3, operation[-1], OFFERED), mine)
            peers.append(peer)
        elif operation == "lease" and pool.idle:
            with suppress(PoolTimeout):  # "a" may have left.
                leased.append(pool.acquire(0))
        elif operation in ("release", "fail") and leased:
            pool.release(leased.pop(), failed=operation == "fail")
        elif operation == "discard" and leased:
            pool.discard(leased.pop())
        elif operation == "drop":
            rover.servers.pop("a", None)
        elif operation == "time out" and not pool.closed:
            with pytest.raises(PoolTimeout):
                while True:
                    leased.append(pool.acquire(0))
        elif operation in ("shrink", "grow"):
            pool.max_slots = 1 if operation == "shrink" else 3
        elif operation == "forget":  # as a tick does
            pool.health.tick(rover.servers, 0.0)
        elif operation == "look":
            instruments.carry_over()
            seen.append(scrapes.of("leases_total"))
        elif operation == "close":
            pool.close()
    instruments.carry_over()
    stats = pool.stats()
    assert seen == sorted(seen)
    assert scrapes.of("leases_total") == stats.leases >= seen[-1]
    assert scrapes.of("lease_failures_total") == stats.failures
    assert scrapes.of("connection_timeouts_total") == stats.timeouts
    assert scrapes.of("connection_opened_total") == stats.opened
    for reason, count in stats.closed.items():
        assert scrapes.of("connection_closed_total", reason=reason) == count
    assert scrapes.of("connection_count") == pool.size + pool.retired
    assert scrapes.of("connection_count", state="used") == pool.leased
    labels = {labels["server"] for labels, _ in scrapes.samples("connection_count")}
    assert len(labels - {"other", ""}) <= (max_servers if per_server else 0)
    instruments.close()
    for thing in (*peers, *leased):
        thing.close()
    pool.close()


# Labels


def test_without_a_label_for_each_server_they_are_summed_up(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    rover, pool = fed("a", "b", "c")
    instrument(rover, pool, registry=scrapes.registry, per_server=False)
    _peers = [offer(pool, 0, id) for id in "ab"]
    use(pool, 4)
    nobody = {"pool": "pool", "server": ""}
    assert scrapes.samples("leases_total") == [(nobody, 4)]
    assert scrapes.samples("server_state") == [({**nobody, "state": "up"}, 3)]
    assert scrapes.of("connection_count", server="", state="idle") == 2


def test_servers_beyond_the_limit_share_a_label(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    rover, pool = fed("a", "b", "c", "d")
    instrument(rover, pool, registry=scrapes.registry, max_servers=2)
    _peers = [offer(pool, 0, id) for id in "abcd"]
    leased = [pool.acquire(0) for _ in range(4)]
    found = {labels["server"]: value for labels, value in scrapes.samples("leases_total")}
    assert found == {"a": 1, "b": 1, "other": 2}
    states = scrapes.samples("server_state")
    assert {labels["server"]: value for labels, value in states} == {"a": 1, "b": 1, "other": 2}
    for sock in leased:
        pool.release(sock)
    assert scrapes.of("connection_use_time_seconds_count", server="other") == 2


@pytest.mark.parametrize("max_servers", [0, -1, True, 1.5, None])
def test_a_limit_that_is_no_count_is_refused(max_servers: Any, scrapes: Scrapes) -> None:
    with pytest.raises(ValueError, match="max_servers"):
        instrument(Rover(), registry=scrapes.registry, max_servers=max_servers)


def test_ids_are_any_text(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    ids = ['a"b', "a\\b", "a\nb", "", "other", "ü–☃", "<script>", "10.0.0.1:7000", "\udc80"]
    rover, pool = fed(*ids)
    instrument(rover, pool, registry=scrapes.registry, max_servers=len(ids))
    _peers = [offer(pool, 0, id) for id in ids]
    leased = [pool.acquire(0) for _ in ids]
    found = {labels["server"]: value for labels, value in scrapes.samples("leases_total")}
    assert found == dict.fromkeys([*ids[:-1], "\\udc80"], 1)
    for sock in leased:
        pool.release(sock)


def test_a_server_that_nobody_knows_any_more_is_exported_no_more_and_frees_its_label(
    roving: Callable[..., tuple[Rover, SlotPool]],
    slot_server: Callable[..., SlotServer],
    scrapes: Scrapes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gevent_rover.policy.health.ABSENCE", 0.3)
    rover, pool = roving()
    instrument(rover, pool, registry=scrapes.registry, max_servers=1)
    rover.start()
    pool.wait_ready()
    use(pool, 5)
    assert scrapes.of("leases_total", server="web") == 5
    rover.servers = {"newcomer": entry(slot_server())}
    wait_until(lambda: scrapes.of("connection_count", server="other") == 2)
    assert scrapes.of("leases_total", server="web") == 5  # It may come back.
    wait_until(lambda: not scrapes.samples("leases_total", server="web"))
    for name in ("server_state", "connection_count", "attempts_total"):
        assert scrapes.samples(name, server="web") == []
    use(pool, 3)
    assert scrapes.of("leases_total", server="newcomer") == scrapes.of("leases_total") == 3


def test_what_a_server_did_that_was_forgotten_before_a_look_is_in_the_sums(
    slot_server: Callable[..., SlotServer],
    closing: Closing,
    scrapes: Scrapes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gevent_rover.policy.health.ABSENCE", 0.0)
    servers = {"web": entry(slot_server())}
    rover = closing(Rover(dict(servers), roving_interval=0.01))
    pool = closing(SlotPool(rover, max_slots=2))
    instrument(rover, pool, registry=scrapes.registry)
    rover.on("error", lambda rover, error: None)
    rover.start()
    answered = 0
    for count in (5, 3, 1):
        pool.wait_ready()
        use(pool, count)
        answered += count
        assert scrapes.of("connection_use_time_seconds_count") == answered
        fail(pool)
        rover.servers.clear()  # It's forgotten before the next look, as a rule.
        wait_until(lambda: pool.size == 0 and "web" not in pool.health.ids())
        rover.servers |= servers
    rover.stop()
    assert scrapes.of("leases_total") == pool.stats().leases == answered + 3
    assert scrapes.of("lease_failures_total") == 3
    assert scrapes.of("connection_use_time_seconds_count") == answered


# How it is carried over


@pytest.fixture
def roving(
    slot_server: Callable[..., SlotServer], closing: Closing
) -> Callable[..., tuple[Rover, SlotPool]]:
    """Give a function that makes a rover, with a server, and a pool; nothing is started."""

    def roving(**options: Any) -> tuple[Rover, SlotPool]:
        rover = closing(Rover({"web": entry(slot_server())}, roving_interval=0.05))
        return rover, closing(SlotPool(rover, max_slots=2, **options))

    return roving


def test_instrumenting_starts_nothing(
    roving: Callable[..., tuple[Rover, SlotPool]], scrapes: Scrapes
) -> None:
    rover, pool = roving()
    greenlets, descriptors = living_greenlets(), open_descriptors()
    instrument(rover, pool, registry=scrapes.registry)
    assert generate_latest(scrapes.registry)
    assert living_greenlets() == greenlets
    assert open_descriptors() == descriptors
    assert not rover.started


def test_what_changed_is_carried_over_without_a_scrape(
    roving: Callable[..., tuple[Rover, SlotPool]], scrapes: Scrapes
) -> None:
    rover, pool = roving()
    instrument(rover, pool, registry=scrapes.registry)
    rover.start()
    pool.wait_ready()
    use(pool, 5)
    wait_until(lambda: scrapes.now("leases_total", server="web") == 5, 2)
    assert scrapes.now("connection_count", server="web", state="idle") == 2
    with pool.lease():
        wait_until(lambda: scrapes.now("connection_count", server="web", state="used") == 1, 2)


def test_the_greenlet_ends_with_rover_and_pool_after_a_last_look(
    roving: Callable[..., tuple[Rover, SlotPool]], scrapes: Scrapes
) -> None:
    rover, pool = roving()
    instruments = instrument(rover, pool, registry=scrapes.registry)
    rover.start()
    pool.wait_ready()
    assert len(greenlets_of(instruments)) == 1
    sock = pool.acquire()
    rover.stop()
    use(pool, 3)
    pool.close()
    wait_until(lambda: scrapes.now("leases_total", server="web") == 4, 2)
    assert scrapes.now("connection_count", server="web", state="retired") == 1
    pool.release(sock)
    wait_until(lambda: scrapes.now("connection_use_time_seconds_count", server="web") == 4, 2)
    assert scrapes.now("connection_count", server="web", state="retired") == 0
    assert scrapes.now("connection_max") == 0
    assert scrapes.now("server_state", server="web", state="up") == 0
    wait_until(lambda: not greenlets_of(instruments))


def greenlets_of(instruments: Instruments) -> list[Any]:
    """Return the greenlets that look at the pool."""
    return [
        greenlet
        for greenlet in living_greenlets()
        if getattr(getattr(greenlet, "_run", None), "__self__", None) is instruments
    ]


def test_a_rover_that_is_started_again_is_watched_again(
    roving: Callable[..., tuple[Rover, SlotPool]], scrapes: Scrapes
) -> None:
    rover, _ = roving()
    instruments = instrument(rover, registry=scrapes.registry)
    for _ in range(2):
        rover.start()
        wait_until(lambda: scrapes.now("server_state", server="web", state="up") == 1)
        rover.stop()
        wait_until(lambda: scrapes.now("server_state", server="web", state="up") == 0)
        wait_until(lambda: not greenlets_of(instruments))


def test_another_threads_scrape_leaves_the_pool_alone(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    rover, pool = fed()
    instrument(rover, pool, registry=scrapes.registry)
    _peer = offer(pool)
    use(pool)
    texts: list[str] = []

    def scrape() -> None:
        texts.append(generate_latest(scrapes.registry).decode())

    gevent.get_hub().threadpool.apply(scrape)
    assert 'gevent_rover_leases_total{pool="pool",server="web"}' not in texts[0]
    scrape()
    assert 'gevent_rover_leases_total{pool="pool",server="web"} 1.0' in texts[1]


def test_a_rover_in_another_thread_is_watched_there(
    slot_server: Callable[..., SlotServer], scrapes: Scrapes
) -> None:
    servers = {"web": entry(slot_server())}
    rover = Rover(servers, roving_interval=0.05)
    instrument(rover, registry=scrapes.registry)
    seen_up = []

    def rove() -> None:
        with rover:
            wait_until(lambda: scrapes.now("server_state", server="web", state="up") == 1)
        seen_up.append(True)

    for starts in (1, 2):
        threads = ThreadPool(1)
        threads.apply(rove)
        assert len(seen_up) == starts
        threads.kill()
        # The thread ends soon, and then the pool is anybody's.
        wait_until(lambda: scrapes.of("server_state", server="web", state="up") == 0)


def test_looks_take_a_hundredth_of_the_time_at_most_and_come_once_a_second_at_least() -> None:
    assert pause_after(0.0001) == 0.25
    assert pause_after(0.005) == pytest.approx(0.5)
    assert pause_after(0.1) == 1.0


# Its life


def test_instruments_keep_neither_rover_nor_pool_alive(scrapes: Scrapes) -> None:
    rover = Rover({"web": OFFERED})
    pool = SlotPool(rover)
    instruments = instrument(rover, pool, registry=scrapes.registry)
    assert scrapes.of("connection_max") == 100
    gone: list[weakref.ref[Any]] = [weakref.ref(rover), weakref.ref(pool)]
    del rover, pool
    gc.collect()
    assert [each() for each in gone] == [None, None]
    assert scrapes.of("connection_max") == 0
    assert instruments.closed


def test_rover_and_pool_keep_instruments_alive(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    rover, pool = fed()
    instrument(rover, pool, registry=scrapes.registry)
    gc.collect()
    _peer = offer(pool)
    assert scrapes.of("connection_count", state="idle") == 1


def test_closing_carries_over_what_is_left_and_ends_it(
    roving: Callable[..., tuple[Rover, SlotPool]], scrapes: Scrapes
) -> None:
    rover, pool = roving()
    with instrument(rover, pool, registry=scrapes.registry) as instruments:
        rover.start()
        pool.wait_ready()
        assert greenlets_of(instruments)
        use(pool, 5)
    assert instruments.closed
    assert repr(instruments) == "<Instruments closed 'pool' servers=1>"
    assert scrapes.now("leases_total", server="web") == 5
    attempts = scrapes.of("attempts_total")
    assert attempts >= 2
    assert scrapes.of("connection_count") == scrapes.of("server_state") == 0
    wait_until(lambda: not greenlets_of(instruments))
    instruments.close()
    rover.connect()
    use(pool, 5)
    gevent.sleep(0.1)  # Two more ticks.
    assert scrapes.of("leases_total") == 5
    assert scrapes.of("attempts_total") == attempts


def test_instrumented_again_it_counts_on(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> None:
    rover, pool = fed()
    _peer = offer(pool)
    use(pool, 7)  # Nobody counts these.
    for leases in (3, 6):
        with instrument(rover, pool, registry=scrapes.registry):
            assert scrapes.of("connection_count", state="idle") == 1
            use(pool, 3)
            assert scrapes.of("leases_total") == leases
            assert scrapes.of("connection_use_time_seconds_count") == leases
        use(pool, 2)


def test_each_pool_of_a_registry_has_a_name_of_its_own(scrapes: Scrapes) -> None:
    pools = {}
    for name in ("users", "orders"):
        rover = Rover()
        pools[name] = SlotPool(rover, max_slots=len(name))
        instrument(rover, pools[name], name=name, registry=scrapes.registry)
    for name in pools:
        assert scrapes.of("connection_max", pool=name) == len(name)
    with pytest.raises(ValueError, match="another pool is instrumented as 'users'"):
        instrument(Rover(), name="users", registry=scrapes.registry)
    elsewhere = Scrapes()
    instrument(Rover(), name="users", registry=elsewhere.registry).close()
    pools["users"].close()
    del pools["users"], rover
    gc.collect()
    instrument(Rover(), name="users", registry=scrapes.registry)  # Nobody has it any more.


def test_what_is_instrumented_already_is_refused(scrapes: Scrapes) -> None:
    rover = Rover()
    pool = SlotPool(rover)
    first = instrument(rover, pool, name="users", registry=scrapes.registry)
    for again in ((rover, pool), (rover, None), (Rover(), pool)):
        with pytest.raises(ValueError, match="already, as 'users'"):
            instrument(*again, name="others", registry=scrapes.registry)
    first.close()
    instrument(rover, pool, name="others", registry=scrapes.registry)


def test_a_registry_in_which_a_name_is_taken_is_refused(scrapes: Scrapes) -> None:
    Histogram("gevent_rover_connection_use_time_seconds", "Mine.", registry=scrapes.registry)
    with pytest.raises(ValueError, match="gevent_rover_connection_use_time_seconds"):
        instrument(Rover(), registry=scrapes.registry)


def test_a_folder_for_several_processes_that_is_not_there_is_refused(
    scrapes: Scrapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"PROMETHEUS_MULTIPROC_DIR.*nowhere"):
        instrument(Rover(), registry=scrapes.registry)


def test_without_a_registry_it_is_the_client_librarys_own() -> None:
    from prometheus_client import REGISTRY

    rover = Rover({"a": OFFERED})
    pool = SlotPool(rover, max_slots=7)
    with instrument(rover, pool, name="the library's"):
        found = REGISTRY.get_sample_value(PREFIX + "connection_max", {"pool": "the library's"})
        assert found == 7


# Forks


@pytest.mark.parametrize("fork", FORKS.values(), ids=list(FORKS))
def test_a_forked_child_counts_for_itself(
    fork: Callable[[], int],
    fed: Callable[..., tuple[Rover, SlotPool]],
    offer: Offer,
    scrapes: Scrapes,
) -> None:
    rover, pool = fed()
    rover.on("error", lambda rover, error: None)
    instruments = instrument(rover, pool, registry=scrapes.registry)

    def attempt() -> None:
        rover.servers, servers = {}, rover.servers
        rover.connect()  # There are no servers: it's over at once.
        rover.servers = servers

    _peers = [offer(pool, slot) for slot in range(3)]
    attempt()
    with pool.lease(0):
        use(pool, 5)
        wait_until(lambda: scrapes.now("connection_count", server="web", state="used") == 1)

        def child() -> Any:
            before = [scrapes.of("connection_count", state=state) for state in ("idle", "used")]
            _peers = [offer(pool, slot) for slot in range(2)]
            use(pool, 2)
            attempt()
            with gevent.Timeout(5):
                while scrapes.now("leases_total", server="web") != 6 + 2:
                    gevent.sleep(0.01)
            wait_until(lambda: len(greenlets_of(instruments)) == 1)  # its own
            return before, scrapes.of("connection_count", state="idle")

        assert in_child(fork, child) == [[0, 0], 2]
        use(pool, 1)
    assert scrapes.of("leases_total") == 7
    assert scrapes.of("connection_count", state="idle") == 3


_PROCESSES = """
import json, os, sys
import gevent
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from gevent_rover import Rover, Slot, SlotPool
from gevent_rover.metrics import instrument
from gevent import socket

server = {"host": "192.0.2.1", "port": 1}
rover = Rover({"web": server})
pool = SlotPool(rover)
instruments = instrument(rover, pool)
peers = []  # They stay open.

def offer(count):
    for slot in range(count):
        mine, peer = socket.socketpair()
        pool.offer(Slot(slot, "web", server), mine)
        peers.append(peer)

def use(count):
    for _ in range(count):
        with pool.lease(0):
            pass

def exported(name, **labels):
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    labels = {"pool": "pool", "server": "web", **labels}
    return registry.get_sample_value("gevent_rover_" + name, labels)

offer(3)
use(5)
instruments.carry_over()
pid = os.fork()
if not pid:
    # Neither what the parent counted nor what it has is the child's.
    found = [exported("leases_total")]
    instruments.carry_over()
    found.append(exported("leases_total"))
    found.append(exported("connection_count", state="idle"))
    offer(3)
    use(2)
    instruments.carry_over()
    print(json.dumps([
        *found,
        exported("leases_total"),
        exported("connection_use_time_seconds_count"),
        exported("connection_count", state="idle"),
        exported("server_state", state="up"),
    ]), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
multiprocess.mark_process_dead(pid)
use(1)
instruments.carry_over()
print(json.dumps([
    exported("leases_total"),
    exported("connection_count", state="idle"),
    exported("server_state", state="up"),
]), flush=True)
pool.close()
for peer in peers:
    peer.close()
"""


def test_among_processes_each_adds_its_own(tmp_path: Path) -> None:
    child, parent = map(json.loads, run(_PROCESSES, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)))
    assert child == [5, 5, 3, 7, 7, 6, 2]
    assert parent == [8, 3, 1]


def run(code: str, **environ: str) -> list[str]:
    """Run a script in a process of its own; return its lines."""
    process = Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
        env={**os.environ, **environ},
    )
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    lines = output.splitlines()
    assert isinstance(lines, list)
    return lines


# The client library


def test_counts_that_are_added_are_as_if_each_had_been_observed() -> None:
    durations = [0.0, 0.00001, 0.00099, 0.001, 0.0010001, 0.7, 5, 10, 10.1, 99, 1000]
    registry = CollectorRegistry()
    observed, added = (
        Histogram(name, "Durations.", ["of"], registry=registry, buckets=BUCKETS).labels("all")
        for name in ("observed", "added")
    )
    for duration in durations:
        observed.observe(duration)
    add_counts(added, [(bucket(duration), 1) for duration in durations], sum(durations))

    def samples(name: str) -> list[Any]:
        [family] = registry.restricted_registry([name]).collect()
        return [
            (sample.name.removeprefix(name), sample.labels, sample.value)
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]

    assert samples("added_count")[0][2] == len(durations)
    assert samples("added_bucket") == samples("observed_bucket")
    assert samples("added_sum") == samples("observed_sum")


@pytest.mark.parametrize("duration", [0.0000123, 0.00042, 0.0031, 0.0049, 0.6, 77.0])
def test_an_unknown_sum_is_off_by_a_third_at_most(duration: float) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("durations", "Durations.", registry=registry, buckets=BUCKETS)
    add_counts(histogram, [(bucket(duration), 100)])
    found = registry.get_sample_value("durations_sum")
    assert found is not None
    assert found == pytest.approx(100 * duration, rel=1 / 3)


def test_each_bucket_is_one_of_the_pools_and_those_of_opentelemetry_are_among_them() -> None:
    assert set(BUCKETS) <= set(BOUNDS)
    assert {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10} <= set(BUCKETS)
    assert list(BUCKETS) == sorted(BUCKETS)


def test_without_the_client_library_the_error_names_the_extra() -> None:
    code = """
import sys
sys.modules["prometheus_client"] = None
import gevent_rover
try:
    import gevent_rover.metrics
except ImportError as exc:
    print(exc)
"""
    [message] = run(code)
    assert message == (
        "gevent_rover.metrics needs prometheus_client: pip install 'gevent_rover[metrics]'"
    )


# The app


def get(app: Any, **environ: str) -> tuple[str, dict[str, str], str]:
    """Ask a WSGI app; return the status, the headers and the body."""
    said: list[Any] = []
    whole = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": "", **environ}
    body = b"".join(app(whole, lambda *args: said.append(args)))
    [(status, headers)] = said
    return status, dict(headers), body.decode()


def test_the_app_answers_with_what_this_process_exports(
    fed: Callable[..., tuple[Rover, SlotPool]],
    offer: Offer,
    scrapes: Scrapes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    rover, pool = fed()
    instrument(rover, pool, registry=scrapes.registry)
    _peer = offer(pool)
    app = metrics_app(scrapes.registry)
    for leases in (1, 2):
        use(pool)
        status, headers, text = get(app)
        assert status == "200 OK"
        assert headers["Content-Type"].startswith("text/plain")
        assert f'leases_total{{pool="pool",server="web"}} {leases}.0\n' in text


_WORKERS = """
import os, signal, sys
from gevent import socket
from gevent_rover import Rover, Slot, SlotPool
from gevent_rover.metrics import Instruments, instrument, metrics_app

if sys.argv[1:] == ["patched"]:
    from gevent import monkey
    monkey.patch_all()
server = {"host": "192.0.2.1", "port": 1}
rover = Rover({"web": server})
pool = SlotPool(rover)
instruments = instrument(rover, pool)
app = metrics_app()
reader, writer = os.pipe()
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        mine, peer = socket.socketpair()
        pool.offer(Slot(0, "web", server), mine)
        with pool.lease(0):
            pass
        instruments.carry_over()
        os.write(writer, b"1")
        signal.pause()
    children.append(pid)
for _ in children:
    os.read(reader, 1)

# As of a process that is making its files, and of one whose file has just gone.
folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
open(folder + "/counter_1.db", "w").close()
os.symlink("/nowhere", folder + "/counter_2.db")

def exported():
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": ""}
    text = b"".join(app(environ, lambda status, headers: None)).decode()
    def of(name):
        [value] = [line.split()[-1] for line in text.splitlines() if line.startswith(name)]
        return int(float(value))
    print(
        of('gevent_rover_leases_total{pool="pool",server="web"}'),
        of('gevent_rover_connection_count{pool="pool",server="web",state="idle"}'),
        of('gevent_rover_connection_max{pool="pool"}'),
    )

exported()
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    exported()
"""


def test_the_app_leaves_out_the_gauges_of_processes_that_ended(tmp_path: Path) -> None:
    lines = run(_WORKERS, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    assert lines == ["3 3 400", "3 2 300", "3 1 200", "3 0 100"]


# What is written down


@pytest.fixture
def families(
    fed: Callable[..., tuple[Rover, SlotPool]], offer: Offer, scrapes: Scrapes
) -> dict[str, tuple[str, set[str]]]:
    """Give all that is exported: by name its kind and labels; and by each sample's name, too."""
    rover, pool = fed()
    rover.on("error", lambda rover, error: None)
    instrument(rover, pool, registry=scrapes.registry)
    _peer = offer(pool)
    fail(pool)
    rover.servers.clear()
    rover.connect()
    rover.servers["web"] = OFFERED
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(generate_latest(scrapes.registry).decode()):
        if not family.name.endswith("_created"):
            assert family.samples, family.name
            name = family.name + ("_total" if family.type == "counter" else "")
            found[name] = family.type, set().union(*(each.labels for each in family.samples))
            for sample in family.samples:
                found[sample.name] = family.type, set(sample.labels)
    return found


def test_the_docs_have_a_line_for_each_instrument(
    families: dict[str, tuple[str, set[str]]],
) -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(gevent_rover_\w+)` \| (\w+) \| (\w+) \| (.*?) \| (.+?) \|$", text, re.MULTILINE
    )
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, _, labels, _ in rows}
    parts = ("_bucket", "_sum", "_count")
    whole = {
        name: (kind, labels - {"le"})
        for name, (kind, labels) in families.items()
        if kind != "histogram" or not name.endswith(parts)
    }
    assert told == whole
    for name, kind, unit, _, _ in rows:
        assert (unit == "seconds") == name.endswith("_seconds") == (kind == "histogram")


DASHBOARD = ROOT / "examples" / "grafana" / "gevent_rover.json"


def queries(dashboard: Any) -> dict[str, list[str]]:
    """Return the expressions of a dashboard's panels, by title; and those of its variables."""
    found = {
        panel["title"]: [target["expr"] for target in panel["targets"]]
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    }
    found["variables"] = [
        variable["definition"]
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]
    return found


def test_the_dashboard_asks_for_what_is_exported_and_for_all_of_it(
    families: dict[str, tuple[str, set[str]]],
) -> None:
    asked: set[str] = set()
    for title, expressions in queries(json.loads(DASHBOARD.read_text(encoding="utf-8"))).items():
        for expression in expressions:
            names = set(re.findall(r"\bgevent_rover_\w+", expression))
            assert names, (title, expression)
            assert names <= families.keys(), (title, expression)
            asked |= names
            labels = set().union(*(families[name][1] for name in names)) | {"job"}
            for name, selector in re.findall(r"\b(gevent_rover_\w+)\{(.*?)\}", expression):
                wanted = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", selector))
                assert wanted <= families[name][1] | {"job"}, (title, expression)
            for group in re.findall(r"\bby \((.*?)\)", expression):
                assert set(group.split(", ")) <= labels, (title, expression)
            assert expression.count("(") == expression.count(")")
            assert expression.count("{") == expression.count("}")
            for counter in re.findall(r"\bgevent_rover_\w+_(?:total|bucket|sum)\b", expression):
                assert f"rate({counter}" in expression, (title, expression)
    parts = ("_bucket", "_sum", "_count")
    for name, (kind, _) in families.items():
        if kind == "histogram":
            if not name.endswith(parts):
                assert name + "_bucket" in asked
        else:
            assert name in asked


def test_the_dashboard_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert dashboard["schemaVersion"] >= 36  # data sources by uid
    assert dashboard["uid"] and "id" not in dashboard  # Grafana gives one
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            for part in (panel, *panel["targets"]):
                assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    text = DASHBOARD.read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert used == variables.keys()


def test_the_dashboards_colours_are_those_of_states_and_outcomes_that_there_are() -> None:
    coloured: dict[str, set[str]] = {
        panel["title"]: {
            override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]
        }
        for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
        if panel["type"] != "row"
    }
    assert coloured["Servers by state"] == set(get_args(ServerState))
    assert coloured["Attempts by outcome"] == set(get_args(Outcome))
