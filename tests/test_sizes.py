"""A pool whose size changes while it works."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from conftest import Listener, entry, wait_until
from gevent import socket
from gevent.event import Event as Flag

from gevent_rover import LowestSlot, PoolClosed, PoolTimeout, Rover, Server, SlotPool, SlotServer

Closing = Callable[[Any], Any]
Servers = Callable[..., Server]
SlotServers = Callable[..., SlotServer]
# Offers a pool new connections with these slots; returns the peers' ends.
Fill = Callable[..., list[Listener]]


@pytest.fixture
def fill(closing: Closing) -> Fill:
    def fill(pool: SlotPool, *slots: int) -> list[Listener]:
        peers = []
        for slot in slots:
            mine, peer = (closing(end) for end in socket.socketpair())
            peer.settimeout(5)
            assert pool.offer(slot, mine)
            peers.append(peer)
        return peers

    return fill


def counted(rover: Rover) -> list[str]:
    """Return a list to which the outcome of each attempt is added."""
    outcomes: list[str] = []
    rover.on("attempt", lambda sender, attempt: outcomes.append(attempt.outcome))
    return outcomes


def counts(pool: SlotPool) -> tuple[int, int, int]:
    """Return how many are idle, leased and retired, and see that none of the rest is off."""
    assert pool.size == pool.idle + pool.leased == len(pool.slots())
    assert pool.deficit == pool.max_slots - pool.size >= 0
    return pool.idle, pool.leased, pool.retired


def has_ended(peer: Listener) -> bool:
    """Wait for the end of a connection; a timeout when it doesn't end."""
    return peer.recv(1) == b""


def is_connected(mine: Listener, peer: Listener) -> bool:
    mine.sendall(b"?")
    return peer.recv(1) == b"?"


# Larger


def test_a_pool_grows_to_a_larger_size_by_one_attempt_for_each_connection(
    closing: Closing, slot_server: SlotServers
) -> None:
    rover = closing(Rover({"a": entry(slot_server())}, roving_interval=3600))
    pool = closing(SlotPool(rover, max_slots=3))
    outcomes = counted(rover)
    rover.start()
    wait_until(lambda: pool.size == 3 and not rover.pending)
    assert outcomes == ["connection"] * 3
    pool.max_slots = 20
    assert (pool.max_slots, pool.deficit) == (20, 17)
    for _ in range(5):
        gevent.sleep(0)
    assert rover.pending  # It was told, and didn't have to look by itself.
    wait_until(lambda: pool.size == 20 and not rover.pending)
    gevent.sleep(0.05)
    assert outcomes == ["connection"] * 20
    assert pool.slots() == [(slot, False) for slot in range(20)]
    assert counts(pool) == (20, 0, 0)


def test_growing_a_thousand_times_makes_no_attempt_more_at_a_server_that_failed(
    closing: Closing, dead_server: Server
) -> None:
    rover = closing(Rover({"a": dead_server}, roving_interval=3600))
    pool = closing(SlotPool(rover, max_slots=1))
    outcomes = counted(rover)
    rover.start()
    wait_until(lambda: outcomes)
    for max_slots in range(2, 1002):
        pool.max_slots = max_slots
        gevent.sleep(0)
    gevent.sleep(0.05)
    assert outcomes == ["unreachable"]


def test_growing_wakes_who_waits(closing: Closing, slot_server: SlotServers) -> None:
    rover = closing(Rover({"a": entry(slot_server())}, roving_interval=3600))
    pool = closing(SlotPool(rover, max_slots=1))
    rover.start()
    held = pool.acquire()
    waiters = [gevent.spawn(pool.acquire, None) for _ in range(2)]
    wait_until(lambda: pool.waiting == 2)
    gevent.sleep(0.05)
    assert (pool.waiting, pool.size) == (2, 1)
    pool.max_slots = 3
    sockets = [held, *(waiter.get(timeout=5) for waiter in waiters)]
    assert len(set(sockets)) == 3
    assert counts(pool) == (0, 3, 0)
    for sock in sockets:
        pool.release(sock)
    assert counts(pool) == (3, 0, 0)


def test_a_pool_without_a_rover_keeps_more_from_then_on(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool(max_slots=1))
    fill(pool, 0)
    mine, peer = (closing(end) for end in socket.socketpair())
    assert not pool.offer(9, mine)
    assert has_ended(peer)
    pool.max_slots = 2
    fill(pool, 9)
    assert pool.slots() == [(0, False), (9, False)]


# Smaller


def test_the_highest_slots_go_first_and_idle_ones_at_once(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool(max_slots=6))
    peers = dict(zip((4, 0, 5, 2, 1, 3), fill(pool, 4, 0, 5, 2, 1, 3), strict=True))
    pool.max_slots = 2
    assert pool.slots() == [(0, False), (1, False)]
    assert counts(pool) == (2, 0, 0)
    for slot in (2, 3, 4, 5):
        assert has_ended(peers[slot])
    for slot in (0, 1):
        assert is_connected(pool.acquire(0), peers[slot])


def test_leased_ones_go_when_they_come_back_and_never_under_their_user(
    closing: Closing, fill: Fill
) -> None:
    pool = closing(SlotPool(max_slots=5))
    peers = fill(pool, 0, 1, 2, 3, 4)
    sockets = [pool.acquire(0) for _ in peers]
    pool.release(sockets[3])
    pool.max_slots = 2
    assert has_ended(peers[3])
    assert counts(pool) == (0, 2, 2)
    assert pool.slots() == [(0, True), (1, True)]
    for mine, peer in zip(sockets, peers, strict=True):
        if peer is not peers[3]:
            assert is_connected(mine, peer)
    pool.release(sockets[4])
    pool.discard(sockets[2])
    for index in (2, 4):
        assert has_ended(peers[index])
    pool.release(sockets[0])
    pool.release(sockets[1])
    assert counts(pool) == (2, 0, 0)


def test_a_block_is_left_as_ever_though_its_connection_was_retired(
    closing: Closing, fill: Fill
) -> None:
    pool = closing(SlotPool(max_slots=2))
    kept, retired = fill(pool, 0, 1)
    with pool.lease(0), pool.lease(0) as mine:
        pool.max_slots = 1
        assert counts(pool) == (0, 1, 1)
        assert is_connected(mine, retired)
    assert has_ended(retired)
    assert counts(pool) == (1, 0, 0)
    assert is_connected(pool.acquire(0), kept)


def test_what_was_retired_stays_so_when_the_pool_grows_again(
    closing: Closing, slot_server: SlotServers
) -> None:
    server = slot_server()
    rover = closing(Rover({"a": entry(server)}, roving_interval=3600))
    pool = closing(SlotPool(rover, max_slots=3))
    outcomes = counted(rover)
    rover.start()
    wait_until(lambda: pool.size == 3 and not rover.pending)
    sockets = [pool.acquire(0) for _ in range(3)]
    pool.max_slots = 1
    pool.max_slots = 3
    assert counts(pool) == (0, 1, 2)
    wait_until(lambda: pool.size == 3 and not rover.pending)
    assert counts(pool) == (2, 1, 2)
    for sock in sockets:
        pool.release(sock)
    assert counts(pool) == (3, 0, 0)
    wait_until(lambda: len(server.slots) == 3)
    assert outcomes == ["connection"] * 5


def test_the_rover_fetches_nothing_in_place_of_what_a_smaller_pool_gave_up(
    closing: Closing, slot_server: SlotServers
) -> None:
    server = slot_server()
    rover = closing(Rover({"a": entry(server)}, roving_interval=3600))
    pool = closing(SlotPool(rover, max_slots=8))
    outcomes = counted(rover)
    rover.start()
    wait_until(lambda: pool.size == 8 and not rover.pending)
    with pool.lease(0):
        pool.max_slots = 2
    wait_until(lambda: len(server.slots) == 2)
    gevent.sleep(0.05)
    assert outcomes == ["connection"] * 8
    assert pool.slots() == [(0, False), (1, False)]


def test_any_series_of_sizes_keeps_the_lowest_slots_and_a_deficit_that_is_never_negative(
    closing: Closing, fill: Fill
) -> None:
    pool = closing(SlotPool(max_slots=4))
    for sizes in itertools.permutations((1, 2, 3, 4)):
        fill(pool, *range(pool.size, pool.max_slots))
        held = [pool.acquire(0) for _ in range(2)] if pool.size >= 2 else []
        for max_slots in sizes:
            before = pool.slots()
            pool.max_slots = max_slots
            counts(pool)
            assert pool.slots() == before[:max_slots]
        for mine in held:
            pool.release(mine)
            counts(pool)
        assert pool.retired == 0
        pool.max_slots = 4


# While attempts are pending, before start(), and after close()


@pytest.mark.parametrize(("max_slots", "slots"), [(2, 2), (12, 12)])
def test_a_size_may_change_while_attempts_are_pending(
    closing: Closing, talker: Servers, max_slots: int, slots: int
) -> None:
    gate = Flag()
    numbers = itertools.count()

    def talk(sock: Listener) -> None:
        number = next(numbers)
        if number:  # The first one opens the window.
            gate.wait()
        sock.sendall(b"%d\r\n" % number)
        sock.recv(1)

    rover = closing(Rover({"a": talker(talk)}, roving_interval=3600))
    pool = closing(SlotPool(rover, max_slots=6))
    outcomes = counted(rover)
    rover.start()
    wait_until(lambda: pool.size == 1 and rover.pending >= 2)
    pool.max_slots = max_slots
    assert counts(pool) == (1, 0, 0)
    gate.set()
    wait_until(lambda: pool.size == slots and not rover.pending)
    gevent.sleep(0.05)
    assert counts(pool) == (slots, 0, 0)
    # Attempts that came to hang made room for others.
    assert slots <= len(outcomes) <= 2 * max(6, max_slots)


def test_a_size_may_be_set_before_the_rover_starts(
    closing: Closing, slot_server: SlotServers
) -> None:
    rover = closing(Rover({"a": entry(slot_server())}, roving_interval=3600))
    pool = closing(SlotPool(rover, max_slots=50))
    outcomes = counted(rover)
    pool.max_slots = 5
    gevent.sleep(0.01)
    assert (outcomes, rover.started) == ([], False)
    rover.start()
    wait_until(lambda: pool.size == 5 and not rover.pending)
    gevent.sleep(0.05)
    assert outcomes == ["connection"] * 5


def test_a_closed_pool_takes_a_size_and_wants_nothing(
    closing: Closing, slot_server: SlotServers
) -> None:
    rover = closing(Rover({"a": entry(slot_server())}, roving_interval=3600))
    pool = SlotPool(rover, max_slots=2)
    outcomes = counted(rover)
    rover.start()
    wait_until(lambda: pool.size == 2 and not rover.pending)
    held = pool.acquire(0)
    pool.close()
    for max_slots in (1, 9):
        pool.max_slots = max_slots
        assert pool.max_slots == max_slots
        assert counts(pool) == (0, 0, 1)
    gevent.sleep(0.05)
    assert outcomes == ["connection"] * 2
    pool.release(held)
    with pytest.raises(PoolClosed):
        pool.acquire(0)


@pytest.mark.parametrize("bad", [0, -1, 1.0, float("nan"), True, "10", None])
def test_a_bad_size_is_refused_and_changes_nothing(closing: Closing, fill: Fill, bad: Any) -> None:
    pool = closing(SlotPool(max_slots=3, choice=LowestSlot()))
    peers = fill(pool, 0, 1, 2)
    held = pool.acquire(0)
    with pytest.raises(ValueError, match="max_slots must be an int of at least 1"):
        pool.max_slots = bad
    assert pool.max_slots == 3
    assert pool.slots() == [(0, True), (1, False), (2, False)]
    assert counts(pool) == (2, 1, 0)
    assert is_connected(held, peers[0])
    pool.release(held)
    for peer in peers:
        assert is_connected(pool.acquire(0), peer)
    with pytest.raises(PoolTimeout):
        pool.acquire(0)
