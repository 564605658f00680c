"""How many connections a pool keeps, for how long, and what it counts."""

from __future__ import annotations

import random
import socket as stdlib_socket
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import pytest
from conftest import OFFERED, entry, wait_until
from gevent import socket

from gevent_rover import (
    LowestSlot,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    Rover,
    Slot,
    SlotPool,
    SlotServer,
)
from gevent_rover.policy.histogram import bucket

Socket = socket.socket
Closing = Callable[[Any], Any]
SlotServers = Callable[..., SlotServer]


def echo(slot: int, sock: Socket, address: Any) -> None:
    while data := sock.recv(100):
        sock.sendall(data)


@pytest.fixture
def roving(closing: Closing, slot_server: SlotServers) -> Callable[..., tuple[Rover, SlotPool]]:
    """Give a function that starts a rover with a server, and a pool on it.

    With a single one, no lower slot ever replaces a higher one.
    """

    def roving(interval: float, **options: Any) -> tuple[Rover, SlotPool]:
        servers = {"web": entry(slot_server(echo))}
        rover = closing(Rover(servers, roving_interval=interval))
        pool = closing(SlotPool(rover, **options))
        rover.start()
        return rover, pool

    return roving


def closed_for(pool: SlotPool, reason: str) -> int:
    return pool.stats().closed[reason]  # type: ignore[index]


# Max idle


def test_without_max_idle_a_pool_is_full_and_min_slots_means_nothing(roving: Any) -> None:
    _, pool = roving(0.02, max_slots=5, min_slots=2)
    pool.wait_ready()
    assert (pool.size, pool.max_slots, pool.min_slots) == (5, 5, 2)


def test_with_max_idle_a_pool_begins_with_min_slots_and_grows_as_they_are_needed(
    roving: Any,
) -> None:
    _, pool = roving(0.02, max_slots=5, min_slots=2, max_idle=60)
    pool.wait_ready()
    gevent.sleep(0.1)  # 5 intervals
    assert (pool.size, pool.deficit) == (2, 0)
    leased = [pool.acquire() for _ in range(4)]
    assert pool.size == 4
    leased.append(pool.acquire())
    with pytest.raises(PoolTimeout):
        pool.acquire(0.05)
    assert pool.size == 5
    for sock in leased:
        pool.release(sock)
    assert (pool.size, pool.idle) == (5, 5)


def test_a_pool_without_min_slots_leases_all_the_same(roving: Any) -> None:
    _, pool = roving(60, max_slots=5, max_idle=60)
    pool.wait_ready()
    assert pool.size == 0
    with pool.lease() as sock:
        sock.sendall(b"?")
        assert sock.recv(1) == b"?"
    assert pool.size == 1
    pool.wait_ready(3)
    assert pool.size == 3


def tick(rover: Rover) -> None:
    """Have a rover tick once, and give up what it began."""
    rover.start()
    gevent.sleep(0)
    rover.stop()


def test_what_is_not_needed_is_closed_a_tenth_at_a_time_the_highest_slots_first(
    closing: Closing, offer: Any
) -> None:
    # The tick after the first one is at random within an interval: not one of these.
    rover = Rover({"web": OFFERED}, roving_interval=100_000)
    pool = closing(SlotPool(rover, max_slots=20, min_slots=3, max_idle=0.02, choice=LowestSlot()))
    with pytest.raises(PoolTimeout):
        pool.wait_ready(20, 0)  # It's to keep so many.
    for slot in range(20):
        offer(pool, slot)
    leased = [pool.acquire(), pool.acquire()]
    tick(rover)
    gevent.sleep(0.03)
    sizes: list[int] = []
    while not sizes or sizes[-1] > 3:
        tick(rover)
        sizes.append(pool.size)
    assert sizes == [18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3]
    assert pool.slots() == [(0, True), (1, True), (2, False)]
    tick(rover)
    assert (pool.size, pool.deficit) == (3, 0)
    assert closed_for(pool, "idle") == 17
    for sock in leased:
        pool.release(sock)


def test_connections_that_take_turns_are_not_all_needed(roving: Any) -> None:
    _, pool = roving(0.02, max_slots=6, min_slots=1, max_idle=0.1)
    pool.wait_ready(6)
    with gevent.Timeout(5):
        while pool.size > 1:
            with pool.lease() as sock:
                sock.sendall(b"?")
                assert sock.recv(1) == b"?"


def test_what_is_needed_now_and_then_stays(roving: Any) -> None:
    _, pool = roving(0.01, max_slots=6, max_idle=0.5)
    for _ in range(10):
        leased = [pool.acquire() for _ in range(4)]
        for sock in leased:
            pool.release(sock)
        gevent.sleep(0.05)
    assert pool.size == 4
    assert closed_for(pool, "idle") == 0


def test_sizes_may_be_set_at_any_time(roving: Any) -> None:
    _, pool = roving(0.02, max_slots=4, min_slots=1, max_idle=60)
    pool.wait_ready()
    assert pool.size == 1
    pool.min_slots = 3
    pool.wait_ready()
    assert pool.size == 3
    pool.min_slots = 0
    pool.max_slots = 2
    assert (pool.size, pool.deficit) == (2, 0)
    assert closed_for(pool, "resized") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_slots": -1}, "min_slots must be an int of at least 0, got -1"),
        ({"max_slots": 3, "min_slots": 4}, "min_slots is 4, more than max_slots, 3"),
        ({"max_idle": 0}, "max_idle must be a positive number of seconds, got 0"),
        ({"keepalive": float("nan")}, "keepalive must be a positive number of seconds, got nan"),
        ({"keepalive": 40000}, "keepalive must be 32767 s at most, got 40000"),
        ({"max_waiting": -1}, "max_waiting must be an int of at least 0, got -1"),
        ({"check_after": -1}, "check_after must be a positive number of seconds, got -1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    rover = Rover()
    with pytest.raises(ValueError, match=message):
        SlotPool(rover, **options)
    SlotPool(rover)  # It was attached to nothing.


def test_a_bad_size_changes_nothing(closing: Closing) -> None:
    pool = closing(SlotPool(max_slots=3, min_slots=2))
    for name, bad in (("max_slots", 1), ("max_slots", 0), ("min_slots", 4), ("min_slots", None)):
        with pytest.raises(ValueError, match=name):
            setattr(pool, name, bad)
    assert (pool.max_slots, pool.min_slots) == (3, 2)


# Max lifetime


@pytest.mark.integration
def test_nine_old_connections_are_renewed_in_twelve_ticks_under_load(
    closing: Closing, slot_server: SlotServers
) -> None:
    interval = 0.1
    servers = {id: entry(slot_server(echo)) for id in "abc"}
    rover = closing(Rover(servers, roving_interval=interval))
    pool = closing(SlotPool(rover, max_slots=9, max_lifetime=0.5))
    opened: dict[Any, float] = {}
    waits: list[float] = []
    failed: list[BaseException] = []
    until = 0.0

    def use() -> None:
        while monotonic() < until:
            began = monotonic()
            try:
                with pool.lease() as sock:
                    waits.append(monotonic() - began)
                    opened.setdefault(sock, began)
                    request = b"%d" % random.getrandbits(60)
                    sock.sendall(request)
                    assert sock.recv(100) == request
            except BaseException as exc:
                failed.append(exc)
                raise
            gevent.sleep(0.001)

    rover.start()
    pool.wait_ready()
    first = set(pool._stock.by_socket)
    # Until they are all old; then twelve ticks more.
    until = monotonic() + 0.5 + 12 * interval
    users = [gevent.spawn(use) for _ in range(6)]
    gevent.joinall(users, timeout=10)
    assert failed == []
    assert all(sock.fileno() < 0 for sock in first)
    assert closed_for(pool, "lifetime") >= 9
    assert pool.stats().failures == 0
    assert max(waits) < 0.05
    assert len(waits) > 500


# Max waiting, and waiting until it's ready


def test_one_too_many_waiters_is_refused_at_once(closing: Closing, offer: Any) -> None:
    pool = closing(SlotPool(max_slots=1, max_waiting=2))
    users = [gevent.spawn(pool.acquire) for _ in range(2)]
    gevent.sleep(0)
    with pytest.raises(PoolFull, match="2 wait for a connection, and no more may: <SlotPool"):
        pool.acquire()
    with pytest.raises(PoolTimeout):
        pool.acquire(0)
    users[0].kill()
    third = gevent.spawn(pool.acquire)
    gevent.sleep(0)
    offer(pool)
    first = users[1].get(timeout=5)
    pool.release(first)
    assert third.get(timeout=5) is first
    assert pool.stats().rejected == 1


def test_with_a_max_waiting_of_0_nobody_waits(closing: Closing, offer: Any) -> None:
    pool = closing(SlotPool(max_slots=1, max_waiting=0))
    with pytest.raises(PoolFull):
        pool.acquire()
    offer(pool)
    with pool.lease():
        pass


def test_ready_is_when_so_many_are_kept(closing: Closing, offer: Any) -> None:
    pool = closing(SlotPool(max_slots=3))
    waiters = {count: gevent.spawn(pool.wait_ready, count, None) for count in (None, 0, 1, 2, 3)}
    gevent.sleep(0)
    assert [count for count, waiter in waiters.items() if waiter.dead] == [0]
    offer(pool)
    gevent.sleep(0)
    assert [count for count, waiter in waiters.items() if waiter.dead] == [0, 1]
    leased = pool.acquire(0)
    offer(pool)
    gevent.sleep(0)
    assert [count for count, waiter in waiters.items() if waiter.dead] == [0, 1, 2]
    pool.max_slots = 2
    gevent.sleep(0)
    assert [count for count, waiter in waiters.items() if waiter.dead] == [None, 0, 1, 2]
    pool.release(leased)
    pool.close()
    with pytest.raises(PoolClosed):
        waiters[3].get(timeout=5)
    with pytest.raises(PoolClosed):
        pool.wait_ready(0)


def test_what_is_not_ready_in_time_is_said(closing: Closing, offer: Any) -> None:
    pool = closing(SlotPool(max_slots=3))
    offer(pool)
    for timeout in (0, -1, 0.01):
        with pytest.raises(PoolTimeout, match=r"1 of 3 connections ready within .* <SlotPool size"):
            pool.wait_ready(timeout=timeout)
    for bad in (4, -1, "3"):
        with pytest.raises(ValueError, match="count must be an int from 0 to 3"):
            pool.wait_ready(bad)
    with pytest.raises(ValueError, match="timeout must be a number"):
        pool.wait_ready(1, "2")


def test_what_is_being_set_up_is_not_ready(closing: Closing, offer: Any) -> None:
    def setup(sock: Socket, slot: Slot) -> None:
        sock.recv(1)

    pool = closing(SlotPool(max_slots=1, setup=setup))
    peer = offer(pool)
    waiter = gevent.spawn(pool.wait_ready)
    gevent.sleep(0.01)
    assert (pool.size, waiter.dead) == (1, False)
    peer.sendall(b"!")
    waiter.get(timeout=5)
    assert pool.idle == 1


# Keepalive


@pytest.mark.parametrize(
    ("keepalive", "expected"),
    [(60.0, (1, 60, 10, 3)), (1, (1, 1, 1, 3)), (12.1, (1, 13, 3, 3)), (None, (0,))],
)
def test_the_kernel_probes_silent_connections(
    keepalive: float | None, expected: tuple[int, ...], roving: Any
) -> None:
    _, pool = roving(60, max_slots=1, keepalive=keepalive)
    with pool.lease() as sock:
        found = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"):
            if found[0]:
                option = getattr(stdlib_socket, name)
                found.append(sock.getsockopt(socket.IPPROTO_TCP, option))
    assert tuple(found) == expected


# Statistics


def test_stats_count_what_happened_since_the_pool_was_made(closing: Closing, offer: Any) -> None:
    pool = closing(SlotPool(max_slots=3, choice=LowestSlot()))
    peers = [offer(pool, slot, id) for slot, id in enumerate("aab")]
    with pool.lease():
        gevent.sleep(0.01)
    with pytest.raises(ConnectionError), pool.lease():
        raise ConnectionError
    leased = [pool.acquire(0), pool.acquire(0)]
    with pytest.raises(PoolTimeout):
        pool.acquire(0.01)
    user = gevent.spawn(pool.acquire)
    gevent.sleep(0.01)
    stats = pool.stats()
    assert (stats.size, stats.idle, stats.leased, stats.waiting) == (2, 0, 2, 1)
    assert (stats.max_slots, stats.min_slots, stats.preparing, stats.retired) == (3, 0, 0, 0)
    pool.release(leased[0])
    assert user.get(timeout=5) is leased[0]
    pool.release(leased[0])
    pool.discard(leased[1])
    peers[1].close()
    wait_until(lambda: pool.size == 0)

    stats = pool.stats()
    assert (stats.leases, stats.waits, stats.timeouts, stats.rejected) == (5, 2, 1, 0)
    assert stats.failures == 1
    assert 0.01 <= stats.lease_seconds < 5
    assert 0.02 <= stats.wait_seconds < 5
    assert stats.opened == 3
    assert {reason: n for reason, n in stats.closed.items() if n} == {
        "failed": 1,
        "discarded": 1,
        "ended": 1,
    }
    a, b = stats.servers["a"], stats.servers["b"]
    assert (a.id, a.leases, a.opened, a.failures) == ("a", 4, 2, 1)
    assert (b.leases, b.opened, b.size) == (1, 1, 0)
    assert a.lease_seconds + b.lease_seconds == pytest.approx(stats.lease_seconds)
    # The one that failed isn't among them, nor is the one that was discarded.
    assert sum(a.lease_times) + sum(b.lease_times) == 3
    assert sum(a.lease_times[bucket(0.01) :]) >= 1
    assert sum(stats.wait_times) == sum(stats.wait_times[bucket(0.01) :]) == 2

    assert 0.0 < a.latency < 5
    assert (a.slowness, a.set_aside, a.suspect) == (1, False, False)
    with pytest.raises(AttributeError):
        stats.size = 7


def test_stats_say_what_becomes_of_each_slot_held(closing: Closing, offer: Any) -> None:
    pool = closing(SlotPool(max_slots=3, choice=LowestSlot()))
    assert pool.stats().servers == {}
    peers = [offer(pool, slot, "a") for slot in (7, 5, 9)]
    leased = [pool.acquire(), pool.acquire()]
    pool.max_slots = 1
    assert pool.stats().servers["a"].slots == ((5, "leased"), (7, "retired"))
    for each in leased:
        pool.release(each)
    assert pool.stats().servers["a"].slots == ((5, "idle"),)
    assert len(peers) == 3


def test_counters_stay_when_a_server_goes(closing: Closing, slot_server: SlotServers) -> None:
    rover = closing(Rover({"web": entry(slot_server())}, roving_interval=0.01))
    pool = closing(SlotPool(rover, max_slots=1))
    rover.start()
    with pool.lease():
        pass
    rover.drop_server("web")
    wait_until(lambda: pool.size == 0)
    rover.wake()
    stats = pool.stats()
    assert (stats.leases, stats.opened, stats.closed["server gone"]) == (1, 1, 1)


def test_servers_that_are_long_gone_are_forgotten(
    closing: Closing, slot_server: SlotServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gevent_rover.policy import health

    monkeypatch.setattr(health, "ABSENCE", 0.0)
    rover = closing(Rover({}, roving_interval=0.005))
    rover.on("error", lambda rover, error: None)
    pool = closing(SlotPool(rover, max_slots=1))
    rover.start()
    for number in range(5):
        rover.add_server(f"web{number}", entry(slot_server()))
        rover.wake()
        with pool.lease():
            pass
        rover.drop_server(f"web{number}")
        wait_until(lambda: pool.size == 0)
    wait_until(lambda: not pool.stats().servers)
    assert pool.stats().leases == 5
