"""What leases tell a pool of its servers, and connections that live for a limited time."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from conftest import Listener, entry, wait_until
from gevent import socket

from gevent_rover import (
    Entry,
    LowestSlot,
    PoolError,
    PoolTimeout,
    Rover,
    Server,
    ServerHealth,
    Slot,
    SlotPool,
    SlotServer,
)
from gevent_rover.policy import server_health

Closing = Callable[[Any], Any]
SlotServers = Callable[..., SlotServer]
#: Makes a pool with connections of these servers ("aab": two of a, one of b).
PoolOf = Callable[..., SlotPool]

SERVER: Server = {"host": "192.0.2.1", "port": 1}


@pytest.fixture
def pool_of(closing: Closing) -> PoolOf:
    def pool_of(servers: str, **options: Any) -> SlotPool:
        pool: SlotPool = closing(SlotPool(**options))
        for slot, id in enumerate(servers):
            mine, _ = (closing(end) for end in socket.socketpair())
            assert pool.offer(Slot(slot, id, SERVER), mine)
            peers[mine] = id
        return pool

    peers: dict[Listener, str] = {}
    pool_of.server_of = peers  # type: ignore[attr-defined]
    return pool_of


@pytest.fixture(autouse=True)
def _set_aside_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no trial come in between, however slow the machine is."""
    monkeypatch.setattr(server_health, "SET_ASIDE_FOR", 600.0)
    monkeypatch.setattr(server_health, "SET_ASIDE_AT_MOST", 600.0)


#: Pools of which one has even leases at least: where the machine stalls, a server looks slow.
TRIES = 3


def shares(pool: SlotPool, pool_of: Any, times: int) -> Counter[str]:
    """Make leases that tell nothing, and count them by server."""
    found: Counter[str] = Counter()
    for _ in range(times):
        sock = pool.acquire(0)
        found[pool_of.server_of[sock]] += 1
        pool.release(sock)
    return found


def fail_all_of(pool: SlotPool, pool_of: Any, bad: str, how: Callable[[Any, Any], None]) -> int:
    """Fail each lease of a server, until it gets none of 20; return how many failed."""
    failed = without = 0
    while without < 20:
        lease = pool.lease(0)
        sock = lease.__enter__()
        without += 1
        if pool_of.server_of[sock] != bad:
            gevent.sleep(0.0002)
            lease.__exit__(None, None, None)
            continue
        failed, without = failed + 1, 0
        how(lease, sock)
        assert failed < 20
    return failed


def end(lease: Any, exception: BaseException | None) -> None:
    kind = None if exception is None else type(exception)
    lease.__exit__(kind, exception, None)


def by_lease_fail(lease: Any, sock: Any) -> None:
    lease.fail()
    end(lease, None)


@pytest.mark.parametrize(
    "exception", [ConnectionResetError(), EOFError(), gevent.Timeout(1), TimeoutError(), OSError()]
)
def test_three_leases_that_fail_set_their_server_aside(
    pool_of: PoolOf, exception: BaseException
) -> None:
    pool = pool_of("a" * 10 + "b" * 10)
    assert fail_all_of(pool, pool_of, "a", lambda lease, sock: end(lease, exception)) == 3
    assert pool.size == 17  # Each was closed.


def test_the_word_of_the_app_does_and_the_connection_goes_back(pool_of: PoolOf) -> None:
    pool = pool_of("ab")
    assert fail_all_of(pool, pool_of, "a", by_lease_fail) == 3
    assert (pool.size, pool.idle) == (2, 2)


def test_the_word_of_the_app_is_told_in_pieces_too(pool_of: PoolOf, closing: Closing) -> None:
    for give_back, kept in ((SlotPool.release, 20), (SlotPool.discard, 17)):
        pool = pool_of("a" * 10 + "b" * 10)
        tell: Any = give_back
        failed = without = 0
        while without < 20:
            sock = pool.acquire(0)
            bad = pool_of.server_of[sock] == "a"  # type: ignore[attr-defined]
            failed, without = (failed + 1, 0) if bad else (failed, without + 1)
            if bad:
                tell(pool, sock, failed=True)
            else:
                pool.release(sock)
        assert (failed, pool.size) == (3, kept)


@pytest.mark.parametrize(
    "exception", [ValueError(), KeyboardInterrupt(), gevent.GreenletExit(), PoolTimeout()]
)
def test_what_is_no_failure_says_nothing_about_the_server(
    pool_of: PoolOf, exception: BaseException
) -> None:
    def least() -> int:
        pool = pool_of("ab" * 10)
        for _ in range(16):
            lease = pool.lease(0)
            lease.__enter__()
            end(lease, exception)
        assert pool.size == 4
        servers = pool.stats().servers.values()
        assert [(each.failures, each.set_aside) for each in servers] == [(0, False)] * 2
        found = shares(pool, pool_of, 8)
        return min(found["a"], found["b"])

    assert any(least() >= 2 for _ in range(TRIES))


def test_which_exceptions_are_failures_may_be_said(pool_of: PoolOf) -> None:
    class Overloaded(Exception):
        pass

    pool = pool_of("a" * 10 + "b" * 10, failures=(Overloaded,))
    assert fail_all_of(pool, pool_of, "a", lambda lease, sock: end(lease, Overloaded())) == 3
    pool = pool_of("ab" * 10, failures=Overloaded)
    for _ in range(10):
        lease = pool.lease(0)
        lease.__enter__()
        end(lease, OSError())
    assert {pool_of.server_of[pool.acquire(0)] for _ in range(10)} == {"a", "b"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", [("OSError",), (OSError, 1), (int,), int, [Exception()]])
def test_failures_that_are_no_exceptions_are_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="failures must be exceptions, got"):
        SlotPool(failures=bad)


def test_a_refused_argument_leaves_the_rover_free(closing: Closing) -> None:
    rover = closing(Rover())
    for options in ({"failures": (1,)}, {"max_lifetime": 0}, {"max_slots": 0}):
        with pytest.raises((TypeError, ValueError)):
            SlotPool(rover, **options)
    closing(SlotPool(rover))


def test_fail_belongs_into_the_block(pool_of: PoolOf) -> None:
    pool = pool_of("a")
    lease = pool.lease(0)
    for _ in range(2):
        with pytest.raises(PoolError, match="isn't entered"):
            lease.fail()
        with lease:
            lease.fail()
            lease.fail()  # Once or twice is the same.


def test_a_lease_begins_without_the_failure_of_the_one_before(pool_of: PoolOf) -> None:
    def found() -> Counter[str]:
        pool = pool_of("ab")
        lease = pool.lease(0)
        with lease:
            lease.fail()
        for _ in range(10):
            with lease:
                pass
        assert (pool.stats().leases, pool.stats().failures) == (11, 1)
        return shares(pool, pool_of, 10)

    assert any(found() == {"a": 5, "b": 5} for _ in range(TRIES))


def test_what_is_known_of_a_server_outlives_its_connections(
    closing: Closing, slot_server: SlotServers
) -> None:
    def hang_up(slot: int, sock: Any, address: Any) -> None:
        sock.recv(1)

    def answer(slot: int, sock: Any, address: Any) -> None:
        while sock.recv(1):
            sock.sendall(b"!")

    rover = closing(
        Rover(
            {"bad": entry(slot_server(hang_up)), "good": entry(slot_server(answer))},
            roving_interval=0.05,
        )
    )
    pool = closing(SlotPool(rover, max_slots=6))
    rover.start()
    wait_until(lambda: pool.deficit == 0)
    failed = 0
    for _ in range(300):
        with gevent.Timeout(5), pool.lease() as sock:
            sock.sendall(b"?")
            if sock.recv(1) != b"!":
                failed += 1
                pool.discard(sock, failed=True)
        gevent.sleep(0.001)
    assert failed == 3


def test_leases_of_a_pool_that_was_collected_are_not_counted_any_more(
    closing: Closing, slot_server: SlotServers
) -> None:
    rover = closing(Rover({"a": entry(slot_server())}, roving_interval=3600))
    pool = SlotPool(rover, max_slots=3)
    rover.start()
    sock = closing(pool.acquire())
    seen_from_afar = weakref.proxy(pool)
    wait_until(lambda: seen_from_afar.deficit == 0 and not rover.pending)
    del pool
    gc.collect()

    class Seeing(LowestSlot):
        def add(self, entry: Entry) -> None:
            seen.append(entry.server)
            super().add(entry)

    seen: list[ServerHealth] = []
    other = closing(SlotPool(rover, max_slots=2, choice=Seeing()))
    rover.wake()
    wait_until(lambda: other.deficit == 0 and not rover.pending)
    assert (seen[0].leased, seen[0].connections) == (0, 2)
    assert not sock.closed  # It's its user's.


# Connections that live for a limited time


@pytest.mark.parametrize("bad", [0, -1, float("nan"), "3600", True])
def test_a_lifetime_that_is_no_time_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="max_lifetime must be a positive number of seconds"):
        SlotPool(max_lifetime=bad)


def test_old_connections_are_renewed_one_at_a_time_also_idle_ones(
    closing: Closing, slot_server: SlotServers
) -> None:
    rover = closing(Rover({"a": entry(slot_server())}, roving_interval=3600))
    pool = closing(SlotPool(rover, max_slots=9, max_lifetime=0.05))
    connected: list[Any] = []
    rover.on("connection", lambda sender, slot, socket: connected.append(socket))
    rover.start()
    wait_until(lambda: pool.deficit == 0 and not rover.pending)
    gevent.sleep(0.06)  # All of them are old now.
    first = list(connected)
    for number in range(1, 10):
        rover.wake()
        wait_until(lambda number=number: sum(sock.closed for sock in first) >= number)  # type: ignore[misc]
        assert sum(sock.closed for sock in first) == number
        wait_until(lambda: pool.deficit == 0 and not rover.pending)
    assert all(sock.closed for sock in first)


def test_a_tenth_of_a_large_pool_is_renewed_in_an_interval(
    closing: Closing, slot_server: SlotServers
) -> None:
    rover = closing(Rover({"a": entry(slot_server())}, roving_interval=3600))
    pool = closing(SlotPool(rover, max_slots=40, max_lifetime=0.3))
    closed: list[Any] = []
    rover.on("connection", lambda sender, slot, socket: closed.append(socket))
    rover.start()
    wait_until(lambda: pool.deficit == 0 and not rover.pending)
    first = list(closed)
    gevent.sleep(0.35)
    rover.wake()
    wait_until(lambda: sum(sock.closed for sock in first) > 0)
    assert sum(sock.closed for sock in first) == 4


def test_a_leased_one_that_is_old_is_retired(closing: Closing, slot_server: SlotServers) -> None:
    rover = closing(Rover({"a": entry(slot_server())}, roving_interval=3600))
    pool = closing(SlotPool(rover, max_slots=1, max_lifetime=0.02))
    rover.start()
    with pool.lease() as sock:
        gevent.sleep(0.03)
        rover.wake()
        wait_until(lambda: pool.retired == 1)
        assert not sock.closed
        wait_until(lambda: pool.idle == 1)
    assert sock.closed
    assert (pool.size, pool.retired) == (1, 0)


def test_without_a_limit_they_stay(closing: Closing, slot_server: SlotServers) -> None:
    rover = closing(Rover({"a": entry(slot_server())}, roving_interval=0.01))
    pool = closing(SlotPool(rover, max_slots=2, max_lifetime=None, choice=LowestSlot()))
    rover.start()
    wait_until(lambda: pool.deficit == 0)
    sock = pool.acquire(0)
    pool.release(sock)
    gevent.sleep(0.1)
    with pool.lease(0) as again:
        assert again is sock
