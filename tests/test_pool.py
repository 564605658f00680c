"""What a pool does with the connections it is offered, and for those who lease them."""

from __future__ import annotations

import gc
import logging
import re
import struct
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
from conftest import entry, wait_until
from gevent import GreenletExit, socket
from gevent.event import AsyncResult
from test_fork import FORKS, in_child
from test_rover_loop import in_a_thread_that_ends

from gevent_rover import (
    LowestSlot,
    PoolClosed,
    PoolError,
    PoolTimeout,
    Rover,
    Server,
    Slot,
    SlotPool,
    SlotServer,
)
from gevent_rover.pooling.connection import PooledConnection

Socket = socket.socket
Closing = Callable[[Any], Any]
# A connection: the end that a pool gets, and the peer's.
Pair = Callable[[], tuple[Socket, Socket]]
# Offers a pool new connections with these slots; returns the peers' ends.
Fill = Callable[..., list[Socket]]

WEB1: Server = {"host": "127.0.0.1", "port": 1}
WEB2: Server = {"host": "127.0.0.1", "port": 2}


@pytest.fixture
def pair(closing: Closing) -> Pair:
    """Give a function that makes a connection over TCP."""
    listener = closing(Socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def pair() -> tuple[Socket, Socket]:
        mine = closing(socket.create_connection(listener.getsockname()))
        peer = closing(listener.accept()[0])
        return mine, peer

    return pair


@pytest.fixture
def fill(pair: Pair) -> Fill:
    def fill(pool: SlotPool, *slots: int) -> list[Socket]:
        peers = []
        for slot in slots:
            mine, peer = pair()
            assert pool.offer(slot, mine)
            peers.append(peer)
        return peers

    return fill


@pytest.fixture
def roving(closing: Closing) -> tuple[Rover, SlotPool]:
    """Give a rover that is stopped, knows two servers, and has a pool of three."""
    rover = closing(Rover({"web1": WEB1, "web2": WEB2}))
    return rover, closing(SlotPool(rover, max_slots=3))


def wait_for_end(peer: Socket) -> bytes:
    """Read until the connection ends, and return what came before; fail when it doesn't end."""
    peer.settimeout(5)
    received = b""
    try:
        while chunk := peer.recv(1024):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def is_connected(mine: Socket, peer: Socket) -> bool:
    mine.sendall(b"?")
    peer.settimeout(5)
    return peer.recv(1) == b"?"


def counts(pool: SlotPool) -> tuple[int, int, int, int, int]:
    """Return how many are idle, leased and retired, how many wait, and the deficit."""
    assert pool.size == pool.idle + pool.leased == len(pool.slots())
    assert pool.deficit == pool.max_slots - pool.size
    return pool.idle, pool.leased, pool.retired, pool.waiting, pool.deficit


def wanted_by(rover: Rover) -> int | None:
    return None if rover.wanted is None else rover.wanted()


def spawn_waiters(pool: SlotPool, number: int, **options: Any) -> list[gevent.Greenlet[..., Any]]:
    """Have greenlets wait for a connection, in this order."""
    waiters = []
    for _ in range(number):
        waiters.append(gevent.spawn(pool.acquire, options.get("timeout")))
        gevent.sleep(0)
    return waiters


# The order


def test_the_lowest_slot_is_leased_first(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    peers = fill(pool, 5, 0, 12, 3)
    assert [slot for slot, _ in pool.slots()] == [0, 3, 5, 12]
    for slot in (0, 3, 5, 12):
        pool.acquire(0).sendall(b"%d" % slot)
    assert [peers[i].recv(9) for i in (1, 3, 0, 2)] == [b"0", b"3", b"5", b"12"]


def test_among_equal_slots_the_one_idle_longest_is_leased(closing: Closing, pair: Pair) -> None:
    pool = closing(SlotPool())
    first, second, third = (pair()[0] for _ in range(3))
    for mine in (first, second, third):
        pool.offer(4, mine)
    assert pool.acquire(0) is first
    pool.release(first)
    assert pool.acquire(0) is second
    assert pool.acquire(0) is third
    pool.release(third)
    pool.release(second)
    assert [pool.acquire(0) for _ in range(3)] == [first, third, second]


def test_slots_tells_which_are_leased_and_is_a_snapshot(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    fill(pool, 7, 2)
    before = pool.slots()
    pool.acquire(0)
    assert before == [(2, False), (7, False)]
    assert pool.slots() == [(2, True), (7, False)]


# Offers


def test_below_max_slots_every_offer_is_kept(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool(max_slots=3))
    fill(pool, 9, 9, 1000)
    assert counts(pool) == (3, 0, 0, 0, 0)


@pytest.mark.parametrize("slot", [5, 6, 10**18])
def test_a_full_pool_closes_what_is_not_strictly_lower(
    closing: Closing, pair: Pair, fill: Fill, slot: int
) -> None:
    pool = closing(SlotPool(max_slots=2))
    fill(pool, 1, 5)
    mine, peer = pair()
    assert not pool.offer(slot, mine)
    assert wait_for_end(peer) == b""
    assert pool.slots() == [(1, False), (5, False)]


def test_a_full_pool_swaps_its_highest_slot_for_a_strictly_lower_one(
    closing: Closing, fill: Fill
) -> None:
    pool = closing(SlotPool(max_slots=2))
    _, highest = fill(pool, 1, 5)
    fill(pool, 4)
    assert wait_for_end(highest) == b""
    assert pool.slots() == [(1, False), (4, False)]


def test_a_leased_connection_is_retired_and_closed_when_it_comes_back(
    closing: Closing, pair: Pair, fill: Fill
) -> None:
    pool = closing(SlotPool(max_slots=1))
    mine, peer = pair()
    pool.offer(5, mine)
    with pool.lease(0) as leased:
        assert leased is mine
        fill(pool, 4)
        assert counts(pool) == (1, 0, 1, 0, 0)
        assert pool.slots() == [(4, False)]
        assert is_connected(mine, peer)
    assert wait_for_end(peer) == b""
    assert counts(pool) == (1, 0, 0, 0, 0)


def test_a_retired_connection_may_be_discarded(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool(max_slots=1))
    (peer,) = fill(pool, 5)
    mine = pool.acquire(0)
    fill(pool, 4)
    pool.discard(mine)
    assert wait_for_end(peer) == b""
    assert counts(pool) == (1, 0, 0, 0, 0)


def test_among_equal_highest_slots_an_idle_one_is_given_up(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool(max_slots=3))
    _, idle, leased = fill(pool, 5, 5, 5)
    _, second, third = (pool.acquire(0) for _ in range(3))
    pool.release(second)
    fill(pool, 4)
    assert wait_for_end(idle) == b""
    assert counts(pool) == (1, 2, 0, 0, 0)
    assert is_connected(third, leased)


def test_a_swap_wakes_the_waiter_although_all_are_leased(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool(max_slots=1))
    fill(pool, 5)
    pool.acquire(0)
    (waiter,) = spawn_waiters(pool, 1)
    (peer,) = fill(pool, 0)
    assert counts(pool) == (0, 1, 1, 0, 0)
    assert is_connected(waiter.get(), peer)


def test_a_connection_that_has_ended_or_talks_is_not_kept(
    closing: Closing, pair: Pair, fill: Fill
) -> None:
    """Else a server that says a low slot and hangs up would cost a good one on every tick."""
    pool = closing(SlotPool(max_slots=1))
    fill(pool, 5)
    for talk in (b"", b"220 mail.example ESMTP\r\n"):
        mine, peer = pair()
        peer.sendall(talk)
        peer.shutdown(socket.SHUT_WR)
        gevent.sleep(0.01)
        assert not pool.offer(0, mine)
        assert wait_for_end(peer) == b""
    assert pool.slots() == [(5, False)]


def test_a_connection_that_has_ended_is_not_handed_to_a_waiter(
    closing: Closing, pair: Pair
) -> None:
    pool = closing(SlotPool())
    spawn_waiters(pool, 1)
    mine, peer = pair()
    peer.close()
    gevent.sleep(0.01)
    assert not pool.offer(0, mine)
    assert pool.waiting == 1


def test_a_closed_socket_is_not_kept(closing: Closing, pair: Pair) -> None:
    pool = closing(SlotPool())
    mine, _ = pair()
    mine.close()
    assert not pool.offer(0, mine)
    assert pool.size == 0


def test_an_offer_made_twice_is_refused(closing: Closing, pair: Pair) -> None:
    pool = closing(SlotPool())
    mine, peer = pair()
    pool.offer(0, mine)
    with pytest.raises(PoolError, match="offered twice"):
        pool.offer(0, mine)
    assert pool.acquire(0) is mine
    with pytest.raises(PoolError, match="offered twice"):
        pool.offer(0, mine)
    assert is_connected(mine, peer)
    assert counts(pool) == (0, 1, 0, 0, 99)


@pytest.mark.parametrize("slot", [-1, 1.0, "1", None])
def test_a_slot_that_is_none_is_refused(closing: Closing, pair: Pair, slot: Any) -> None:
    pool = closing(SlotPool())
    with pytest.raises(ValueError, match="slot must be an int of at least 0"):
        pool.offer(slot, pair()[0])
    assert pool.size == 0


@pytest.mark.parametrize("slot", [True, False])
def test_a_bool_is_no_slot_and_the_socket_stays_the_callers(
    closing: Closing, pair: Pair, slot: bool
) -> None:
    pool = closing(SlotPool())
    mine, peer = pair()
    with pytest.raises(ValueError, match=f"slot must be an int of at least 0, got {slot}"):
        pool.offer(slot, mine)
    assert pool.size == 0
    assert is_connected(mine, peer)


def refuse_full(rover: Rover, pool: SlotPool, mine: Socket, peer: Socket) -> str:
    pool.max_slots = 1
    return "the pool is full, and none of its 1 slots is higher"


def refuse_gone(rover: Rover, pool: SlotPool, mine: Socket, peer: Socket) -> str:
    rover.drop_server("web2")
    return "its server left the registry, or changed in it"


def refuse_closed(rover: Rover, pool: SlotPool, mine: Socket, peer: Socket) -> str:
    mine.close()
    return "its socket is closed"


def refuse_ended(rover: Rover, pool: SlotPool, mine: Socket, peer: Socket) -> str:
    peer.shutdown(socket.SHUT_WR)
    return "it ended"


def refuse_talking(rover: Rover, pool: SlotPool, mine: Socket, peer: Socket) -> str:
    peer.sendall(b"220 mail.example ESMTP\r\n")
    return "bytes arrived that nobody asked for"


REFUSALS = [refuse_full, refuse_gone, refuse_closed, refuse_ended, refuse_talking]


@pytest.mark.parametrize("refuse", REFUSALS, ids=lambda refuse: refuse.__name__)
def test_why_an_offer_is_refused_is_said_in_the_log_and_by_the_next_timeout(
    roving: tuple[Rover, SlotPool],
    pair: Pair,
    caplog: pytest.LogCaptureFixture,
    refuse: Callable[[Rover, SlotPool, Socket, Socket], str],
) -> None:
    caplog.set_level(logging.DEBUG, "gevent_rover.pool")
    rover, pool = roving
    first, _ = pair()
    assert pool.offer(Slot(0, "web1", WEB1), first)
    pool.acquire(0)
    mine, peer = pair()
    why = f"slot 7 of 'web2': {refuse(rover, pool, mine, peer)}"
    gevent.sleep(0.01)
    assert not pool.offer(Slot(7, "web2", WEB2), mine)
    assert wait_for_end(peer) == b""
    [refused] = caplog.records
    assert (refused.name, refused.levelname) == ("gevent_rover.pool", "DEBUG")
    assert refused.getMessage() == f"refused {why}"
    with pytest.raises(PoolTimeout, match=f"; latest offer refused: {re.escape(why)}$"):
        pool.acquire(0)
    pool.max_slots = 9
    kept, _ = pair()
    assert pool.offer(8, kept)
    pool.acquire(0)
    with pytest.raises(PoolTimeout) as caught:
        pool.acquire(0)
    assert "refused" not in str(caught.value)


def test_why_an_idle_connection_is_closed_is_said_in_the_log(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gevent_rover.pool")
    with SlotPool(max_slots=2) as pool:
        mine, peer = pair()
        pool.offer(Slot(3, "web1", WEB1), mine)
        peer.sendall(b"?")
        wait_until(lambda: not pool.size)
        mine, peer = pair()
        pool.offer(4, mine)
        peer.close()
        wait_until(lambda: not pool.size)
    said = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        (
            "gevent_rover.pool",
            "DEBUG",
            "closed slot 3 of 'web1': bytes arrived that nobody asked for",
        ),
        ("gevent_rover.pool", "DEBUG", "closed slot 4: it ended"),
    ]


def test_an_offer_to_a_closed_pool_is_refused_in_the_log(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gevent_rover.pool")
    pool = SlotPool()
    pool.close()
    assert not pool.offer(3, pair()[0])
    assert [record.getMessage() for record in caplog.records] == [
        "refused slot 3: the pool is closed"
    ]


def test_a_server_that_speaks_behind_its_slot_line_is_never_pooled_and_the_pool_says_why(
    closing: Closing, says: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gevent_rover.pool")
    attempts: list[Any] = []
    server = says(b"0\r\n220 mail.example ESMTP\r\n")
    rover = closing(Rover({"mail": server}, roving_interval=3600))
    pool = closing(SlotPool(rover))
    rover.on("attempt", lambda sender, attempt: attempts.append(attempt.outcome))
    rover.start()
    why = "slot 0 of 'mail': bytes arrived that nobody asked for"
    with pytest.raises(PoolTimeout, match=f"; latest offer refused: {why}$"):
        pool.acquire(0.1)
    for _ in range(3):
        before = len(attempts)
        rover.wake()
        wait_until(lambda before=before: len(attempts) > before)  # type: ignore[misc]
    assert pool.size == 0
    assert set(attempts) == {"connection"}
    told = {(record.name, record.levelname, record.getMessage()) for record in caplog.records}
    assert told == {("gevent_rover.pool", "DEBUG", f"refused {why}")}
    assert len(caplog.records) == len(attempts)


@pytest.mark.parametrize("max_slots", [0, -1, 1.5, True, "10"])
def test_a_bad_max_slots_is_refused(max_slots: Any) -> None:
    with pytest.raises(ValueError, match="max_slots must be an int of at least 1"):
        SlotPool(max_slots=max_slots)


# Idle ones are watched


def reset(peer: Socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@pytest.mark.parametrize(
    "happens",
    [
        lambda peer: peer.close(),
        lambda peer: peer.shutdown(socket.SHUT_WR),
        reset,
        lambda peer: peer.sendall(b"!"),
    ],
    ids=["end", "half end", "reset", "stray bytes"],
)
def test_an_idle_connection_on_which_anything_arrives_is_forgotten(
    closing: Closing, pair: Pair, fill: Fill, happens: Callable[[Socket], object]
) -> None:
    pool = closing(SlotPool())
    mine, peer = pair()
    pool.offer(0, mine)
    fill(pool, 1)
    happens(peer)
    wait_until(lambda: pool.size == 1)
    assert mine.fileno() == -1
    assert pool.slots() == [(1, False)]


def test_a_released_connection_is_watched_again(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    (peer,) = fill(pool, 0)
    with pool.lease(0):
        pass
    peer.close()
    wait_until(lambda: pool.size == 0)


def test_a_leased_connection_is_not_watched(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    (peer,) = fill(pool, 0)
    with pool.lease(0) as mine:
        peer.sendall(b"answer")
        gevent.sleep(0.01)
        assert mine.recv(10) == b"answer"
    assert counts(pool) == (1, 0, 0, 0, 99)


def test_what_ended_before_the_hub_could_notice_is_not_leased(closing: Closing) -> None:
    pool = closing(SlotPool())
    (mine, peer), (other, _other_peer) = (
        [closing(end) for end in socket.socketpair()] for _ in range(2)
    )
    pool.offer(0, mine)
    pool.offer(1, other)
    peer.close()  # seen at once on a socketpair, and there's no switch until acquire
    assert pool.size == 2
    assert pool.acquire(0) is other
    assert mine.fileno() == -1
    assert counts(pool) == (0, 1, 0, 0, 99)


def test_an_idle_socket_that_somebody_closed_is_not_leased(closing: Closing, pair: Pair) -> None:
    pool = closing(SlotPool())
    mine, _ = pair()
    pool.offer(0, mine)
    mine.close()
    with pytest.raises(PoolTimeout):
        pool.acquire(0)
    assert pool.size == 0


def test_an_idle_connection_from_which_nothing_can_be_read_any_more_is_kept(
    closing: Closing, pair: Pair
) -> None:
    """As after a TLS session ticket: the hub saw something, but it was nobody's."""
    pool = closing(SlotPool())
    mine, peer = pair()
    pool.offer(0, mine)
    taken = []
    first = closing(gevent.get_hub().loop.io(mine.fileno(), 1, True, 2))
    first.start(lambda: taken.append(mine.recv(1)))
    peer.sendall(b"!")
    wait_until(lambda: taken)
    first.stop()
    gevent.sleep(0.01)
    assert counts(pool) == (1, 0, 0, 0, 99)
    assert is_connected(pool.acquire(0), peer)


# Leases


def test_a_lease_gives_the_connection_back(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    (peer,) = fill(pool, 0)
    lease = pool.lease(0)
    assert counts(pool) == (1, 0, 0, 0, 99)
    for _ in range(2):
        with lease as mine:
            assert is_connected(mine, peer)
            assert counts(pool) == (0, 1, 0, 0, 99)
        assert counts(pool) == (1, 0, 0, 0, 99)


@pytest.mark.parametrize(
    "exception", [ValueError, gevent.Timeout, GreenletExit, KeyboardInterrupt, SystemExit]
)
def test_any_exception_closes_the_connection(
    closing: Closing, fill: Fill, exception: type[BaseException]
) -> None:
    pool = closing(SlotPool())
    (peer,) = fill(pool, 0)
    raised = exception()
    with pytest.raises(exception) as caught, pool.lease(0):
        raise raised
    assert caught.value is raised
    assert wait_for_end(peer) == b""
    assert counts(pool) == (0, 0, 0, 0, 100)


def test_a_kill_in_the_block_closes_the_connection(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    (peer,) = fill(pool, 0)

    def use() -> None:
        with pool.lease() as mine:
            mine.recv(1)

    user = gevent.spawn(use)
    wait_until(lambda: pool.leased)
    user.kill()
    assert counts(pool) == (0, 0, 0, 0, 100)
    assert wait_for_end(peer) == b""


def test_a_connection_may_be_released_or_discarded_by_hand_in_the_block(
    closing: Closing, fill: Fill
) -> None:
    pool = closing(SlotPool())
    fill(pool, 0)
    with pool.lease(0) as mine:
        pool.release(mine)
    assert counts(pool) == (1, 0, 0, 0, 99)
    with pytest.raises(ValueError, match="mine"), pool.lease(0) as mine:
        pool.release(mine)
        raise ValueError("mine")
    assert counts(pool) == (1, 0, 0, 0, 99)
    with pool.lease(0) as mine:
        pool.discard(mine)
    assert counts(pool) == (0, 0, 0, 0, 100)


@pytest.mark.parametrize("exception", [None, ValueError])
def test_a_block_leaves_alone_what_was_leased_again_since(
    closing: Closing, fill: Fill, exception: type[Exception] | None
) -> None:
    pool = closing(SlotPool())
    (peer,) = fill(pool, 0)
    try:
        with pool.lease(0) as mine:
            pool.release(mine)
            assert pool.acquire(0) is mine
            if exception is not None:
                raise exception
    except ValueError:
        pass
    assert counts(pool) == (0, 1, 0, 0, 99)
    assert is_connected(mine, peer)


def test_a_block_leaves_alone_what_was_handed_to_a_waiter_since(
    closing: Closing, fill: Fill
) -> None:
    pool = closing(SlotPool())
    fill(pool, 0)
    with pool.lease(0) as mine:
        (waiter,) = spawn_waiters(pool, 1)
        pool.release(mine)
    assert waiter.get() is mine
    assert counts(pool) == (0, 1, 0, 0, 99)


def test_a_lease_is_not_entered_twice_at_a_time(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    fill(pool, 0, 1)
    lease = pool.lease(0)
    with lease:
        with pytest.raises(PoolError, match="entered already"):
            lease.__enter__()
        assert counts(pool) == (1, 1, 0, 0, 98)
    assert counts(pool) == (2, 0, 0, 0, 98)


def test_a_lease_that_timed_out_can_be_entered_again(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    lease = pool.lease(0)
    with pytest.raises(PoolTimeout):
        lease.__enter__()
    fill(pool, 0)
    with lease:
        assert pool.leased == 1


# Giving back


def test_what_is_not_leased_can_not_be_given_back(closing: Closing, pair: Pair) -> None:
    pool, other_pool = closing(SlotPool()), closing(SlotPool())
    stranger, _ = pair()
    idle, _ = pair()
    elsewhere, _ = pair()
    discarded, _ = pair()
    pool.offer(0, discarded)
    pool.discard(pool.acquire(0))
    pool.offer(0, idle)
    pool.release(pool.acquire(0))
    other_pool.offer(0, elsewhere)
    other_pool.acquire(0)
    for socket_ in (stranger, idle, elsewhere, discarded):
        for give_back in (pool.release, pool.discard):
            with pytest.raises(PoolError, match="not leased from this pool"):
                give_back(socket_)
    assert counts(pool) == (1, 0, 0, 0, 99)
    assert counts(other_pool) == (0, 1, 0, 0, 99)


def test_unread_bytes_do_not_reach_the_next_user(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    (peer,) = fill(pool, 0)
    with pool.lease(0) as mine:
        peer.sendall(b"12")
        assert mine.recv(1) == b"1"
    assert counts(pool) == (0, 0, 0, 0, 100)
    wait_for_end(peer)


def test_a_connection_that_ended_while_leased_is_not_kept(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    (peer,) = fill(pool, 0)
    with pool.lease(0) as mine:
        peer.close()
        assert mine.recv(1) == b""
    assert counts(pool) == (0, 0, 0, 0, 100)
    assert mine.fileno() == -1


@pytest.mark.parametrize("timeout", [0.0, 0.001, 30.0])
@pytest.mark.parametrize("default", [None, 7.0])
def test_a_timeout_does_not_reach_the_next_user(
    closing: Closing, fill: Fill, timeout: float, default: float | None
) -> None:
    pool = closing(SlotPool())
    fill(pool, 0)
    mine = pool.acquire(0)
    socket.setdefaulttimeout(default)
    try:
        for left in (timeout, None, default):
            mine.settimeout(left)
            pool.release(mine)
            assert pool.acquire(0) is mine
            assert mine.gettimeout() == default
    finally:
        socket.setdefaulttimeout(None)


def close_under_a_file(mine: Socket) -> Any:
    file = mine.makefile("rb")
    mine.close()
    return file


@pytest.mark.parametrize(
    "close",
    [Socket.close, lambda mine: socket.socket(fileno=mine.detach()), close_under_a_file],
    ids=["close", "detach", "close under a file"],
)
def test_a_socket_that_its_user_closed_is_not_kept(
    closing: Closing, fill: Fill, close: Callable[[Socket], Any]
) -> None:
    pool = closing(SlotPool())
    fill(pool, 0)
    with pool.lease(0) as mine:
        left = close(mine)
    assert counts(pool) == (0, 0, 0, 0, 100)
    if left is not None:
        left.close()


def test_a_file_of_the_user_does_not_hold_the_connection_open(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    (peer,) = fill(pool, 0)
    mine = pool.acquire(0)
    with mine.makefile("rb"):
        pool.discard(mine)
        assert wait_for_end(peer) == b""


def test_a_file_of_the_user_does_not_spoil_the_connection(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    (peer,) = fill(pool, 0)
    with pool.lease(0) as mine, mine.makefile("rwb") as lines:
        peer.sendall(b"hello\r\n")
        assert lines.readline() == b"hello\r\n"
    with pool.lease(0) as mine:
        assert is_connected(mine, peer)


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS.keys())
def test_giving_back_in_a_child_what_its_parent_leased_does_nothing(
    closing: Closing, pair: Pair, fork: Callable[[], int]
) -> None:
    pool = closing(SlotPool(choice=LowestSlot()))
    connections = [pair() for _ in range(3)]
    for slot, (mine, _) in enumerate(connections):
        pool.offer(slot, mine)
    for give_back in (pool.release, pool.discard):
        mine, peer = connections[0]
        assert pool.acquire(0) is mine

        def tell(give_back: Any = give_back, mine: Socket = mine) -> Any:
            for _ in range(2):
                give_back(mine)
            stranger = Socket()
            try:
                give_back(stranger)
            except PoolError as exc:
                return [*counts(pool), mine.fileno(), "not leased" in str(exc)]
            finally:
                stranger.close()

        assert in_child(fork, tell) == [0, 0, 0, 0, 100, -1, True]
        assert counts(pool) == (2, 1, 0, 0, 97)
        assert is_connected(mine, peer)
        pool.release(mine)


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS.keys())
@pytest.mark.parametrize("exception", [None, ZeroDivisionError, KeyboardInterrupt])
def test_leaving_its_parents_lease_hides_no_exception_of_the_childs(
    closing: Closing, pair: Pair, fork: Callable[[], int], exception: type[BaseException] | None
) -> None:
    pool = closing(SlotPool())
    mine, peer = pair()
    pool.offer(0, mine)
    block = ExitStack()
    assert block.enter_context(pool.lease(0)) is mine

    def tell() -> Any:
        raised = None
        try:
            with block:
                if exception is not None:
                    raise exception("the child's own")
        except BaseException as exc:
            raised = repr(exc)
        return [raised, *counts(pool)]

    raised = None if exception is None else repr(exception("the child's own"))
    assert in_child(fork, tell) == [raised, 0, 0, 0, 0, 100]
    assert counts(pool) == (0, 1, 0, 0, 99)
    assert is_connected(mine, peer)
    block.close()
    assert counts(pool) == (1, 0, 0, 0, 99)
    assert is_connected(pool.acquire(0), peer)


# Waiting


def test_waiting_is_first_come_first_served(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    waiters = spawn_waiters(pool, 3)
    assert counts(pool) == (0, 0, 0, 3, 100)
    for i, waiter in enumerate(waiters):
        (peer,) = fill(pool, i)
        assert counts(pool) == (0, i + 1, 0, 2 - i, 99 - i)
        assert is_connected(waiter.get(), peer)


def test_a_newcomer_does_not_overtake_those_who_wait(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    fill(pool, 0)
    mine = pool.acquire(0)
    (waiter,) = spawn_waiters(pool, 1)
    pool.release(mine)
    with pytest.raises(PoolTimeout):  # handed on already, though the waiter hasn't run yet
        pool.acquire(0)
    assert waiter.get() is mine


def test_a_released_connection_wakes_one_waiter(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    fill(pool, 0)
    mine = pool.acquire(0)
    first, second = spawn_waiters(pool, 2)
    pool.release(mine)
    assert counts(pool) == (0, 1, 0, 1, 99)
    assert first.get() is mine
    assert not second.ready()
    pool.discard(mine)
    gevent.sleep(0)
    assert counts(pool) == (0, 0, 0, 1, 100)


def test_a_timeout_of_none_waits(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    (waiter,) = spawn_waiters(pool, 1, timeout=None)
    gevent.sleep(0.05)
    assert pool.waiting == 1
    fill(pool, 0)
    waiter.get()


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_a_timeout_of_0_does_not_wait(closing: Closing, timeout: float) -> None:
    pool = closing(SlotPool())
    switched: list[bool] = []
    gevent.spawn(switched.append, True)
    with pytest.raises(PoolTimeout), pool.lease(timeout):
        pass
    assert not switched
    gevent.sleep(0)
    assert switched


def test_a_positive_timeout_ends_the_wait(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    (stays,) = spawn_waiters(pool, 1)
    (leaves,) = spawn_waiters(pool, 1, timeout=0.01)
    with pytest.raises(PoolTimeout):
        leaves.get()
    assert pool.waiting == 1
    fill(pool, 0, 1)
    assert stays.get() is not None
    assert counts(pool) == (1, 1, 0, 0, 98)


def test_a_waiter_that_is_killed_leaves_the_queue(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool())
    first, second, third = spawn_waiters(pool, 3)
    second.kill()
    assert pool.waiting == 2
    for waiter in (first, third):
        (peer,) = fill(pool, 0)
        assert is_connected(waiter.get(), peer)
    assert counts(pool) == (0, 2, 0, 0, 98)


def end_right_after(
    step: Callable[[], object],
    waiter: gevent.Greenlet[..., Any],
    exception: type[BaseException] = GreenletExit,
) -> None:
    """Raise ``exception`` in a waiter after ``step``, before the hub can wake it for that.

    As a timer does that fires meanwhile, or a kill that was under way.
    """

    def run() -> None:
        step()
        waiter.throw(exception)

    gevent.get_hub().loop.run_callback(run)
    waiter.join()


@pytest.mark.parametrize("exception", [GreenletExit, gevent.Timeout, ValueError])
def test_a_waiter_killed_right_after_it_was_handed_a_connection_gives_it_back(
    closing: Closing, pair: Pair, exception: type[BaseException]
) -> None:
    pool = closing(SlotPool())
    waiter, following = spawn_waiters(pool, 2)
    mine, peer = pair()
    seen = []

    def hand() -> None:
        pool.offer(0, mine)
        seen.append(counts(pool))

    end_right_after(hand, waiter, exception)
    assert seen == [(0, 1, 0, 1, 99)]
    assert following.get() is mine
    assert is_connected(mine, peer)
    assert counts(pool) == (0, 1, 0, 0, 99)


def test_what_the_last_waiter_gives_back_is_idle(closing: Closing, pair: Pair) -> None:
    pool = closing(SlotPool())
    (waiter,) = spawn_waiters(pool, 1)
    mine, peer = pair()
    end_right_after(lambda: pool.offer(0, mine), waiter)
    assert counts(pool) == (1, 0, 0, 0, 99)
    peer.close()
    wait_until(lambda: pool.size == 0)  # so it is watched again


def test_a_waiter_killed_right_before_it_was_handed_a_connection_gives_it_to_the_next(
    closing: Closing, fill: Fill
) -> None:
    pool = closing(SlotPool())
    killed, following = spawn_waiters(pool, 2)
    killed.kill(block=False)
    fill(pool, 0)
    assert following.get() is not None
    assert isinstance(killed.get(), GreenletExit)
    assert counts(pool) == (0, 1, 0, 0, 99)


def test_what_a_killed_waiter_gives_back_is_looked_at_again(closing: Closing, pair: Pair) -> None:
    pool = closing(SlotPool(max_slots=1))
    (waiter,) = spawn_waiters(pool, 1)
    (mine, peer), (lower, _) = pair(), pair()

    def hand_and_retire() -> None:
        pool.offer(5, mine)
        pool.offer(4, lower)
        assert counts(pool) == (1, 0, 1, 0, 0)

    end_right_after(hand_and_retire, waiter)
    assert wait_for_end(peer) == b""
    assert counts(pool) == (1, 0, 0, 0, 0)


class CountedResult(AsyncResult):  # type: ignore[type-arg]  # subscriptable in stubs only
    """What greenlets wait for, which counts how often it's compared with another."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        type(self).compared += 1
        return self is other

    __hash__ = object.__hash__


@pytest.mark.integration
def test_20_000_that_leave_in_any_order_are_not_looked_for_one_by_one(
    closing: Closing, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gevent_rover.pooling.waiters.AsyncResult", CountedResult)
    monkeypatch.setattr(CountedResult, "compared", 0)
    pool = closing(SlotPool())
    number = 20_000
    killed = [gevent.spawn(pool.acquire, None) for _ in range(number // 2)]
    timed_out: list[int] = []

    def wait() -> None:
        try:
            pool.acquire(0.05)
        except PoolTimeout:
            timed_out.append(1)

    gevent.joinall([gevent.spawn(wait) for _ in range(number // 2)])
    assert len(timed_out) == number // 2
    assert pool.waiting == number // 2
    (last,) = spawn_waiters(pool, 1)
    for waiter in reversed(killed):  # Who came last leaves first: a search is longest.
        waiter.kill(block=False)
    gevent.joinall(killed)
    assert counts(pool) == (0, 0, 0, 1, 100)
    # A search through a queue would compare each that leaves with thousands.
    assert CountedResult.compared < number
    (peer,) = fill(pool, 0)
    assert is_connected(last.get(timeout=5), peer)


# What a timeout says


def test_a_timeout_tells_the_pools_state(closing: Closing, fill: Fill) -> None:
    pool = closing(SlotPool(max_slots=2))
    fill(pool, 0, 1)
    pool.acquire(0)
    pool.acquire(0)
    spawn_waiters(pool, 1)
    with pytest.raises(PoolTimeout) as caught:
        pool.acquire(0.02)
    told = re.fullmatch(r"no connection within (\S+) s; (.*)", str(caught.value))
    assert told is not None
    assert float(told[1]) >= 0.02
    assert told[2] == "<SlotPool size=2/2 idle=0 leased=2 retired=0 waiting=1>"


def test_a_timeout_tells_whether_the_rover_runs(closing: Closing) -> None:
    rover = closing(Rover())
    pool = closing(SlotPool(rover))
    with pytest.raises(PoolTimeout) as caught:
        pool.acquire(0)
    assert str(caught.value).endswith("; <Rover stopped servers=0 pending=0>")


def test_a_timeout_tells_how_the_latest_attempt_ended(
    closing: Closing, dead_server: Server, says: Callable[..., Server]
) -> None:
    rover = closing(Rover({"web1": dead_server}, roving_interval=60))
    pool = closing(SlotPool(rover))
    rover.on("error", lambda sender, error: None)
    rover.start()
    with pytest.raises(PoolTimeout) as caught:
        pool.acquire(0.05)
    assert re.search(
        r"; <Rover started servers=1 pending=0>; latest attempt at server 'web1':"
        r" unreachable: ConnectionRefusedError: .*refused",
        str(caught.value),
    )
    rover.stop()

    rover.servers.clear()
    rover.connect()
    with pytest.raises(
        PoolTimeout, match=r"; latest attempt: error: NoServersError: the registry has no servers$"
    ):
        pool.acquire(0)

    rover.servers["web2"] = says(b"0\r\n")
    rover.connect()
    closing(pool.acquire(0))
    with pytest.raises(PoolTimeout, match=r"; latest attempt at server 'web2': connection$"):
        pool.acquire(0)


# Closing


def test_close_closes_the_idle_ones_now_and_the_leased_ones_when_they_come_back(
    closing: Closing, fill: Fill
) -> None:
    pool = SlotPool()
    lent, kept, idle = fill(pool, 0, 1, 2)
    first, second = pool.acquire(0), pool.acquire(0)
    pool.close()
    assert wait_for_end(idle) == b""
    assert counts(pool) == (0, 0, 2, 0, 100)
    assert pool.closed
    assert is_connected(first, lent)
    assert is_connected(second, kept)
    pool.release(first)
    assert wait_for_end(lent) == b""
    pool.discard(second)
    assert wait_for_end(kept) == b""
    assert counts(pool) == (0, 0, 0, 0, 100)
    pool.close()


def test_close_ends_the_wait_of_all(closing: Closing) -> None:
    pool = SlotPool()
    waiters = spawn_waiters(pool, 3)
    pool.close()
    assert pool.waiting == 0
    for waiter in waiters:
        with pytest.raises(PoolClosed):
            waiter.get()


def test_what_a_waiter_was_handed_before_close_is_its_own(closing: Closing, fill: Fill) -> None:
    pool = SlotPool()
    (waiter,) = spawn_waiters(pool, 1)
    (peer,) = fill(pool, 0)
    pool.close()
    mine = waiter.get()
    assert is_connected(mine, peer)
    assert counts(pool) == (0, 0, 1, 0, 100)
    pool.release(mine)
    assert wait_for_end(peer) == b""


def test_a_waiter_killed_when_close_told_it_is_killed(closing: Closing) -> None:
    pool = SlotPool()
    (waiter,) = spawn_waiters(pool, 1)
    end_right_after(pool.close, waiter)
    assert isinstance(waiter.get(), GreenletExit)
    assert counts(pool) == (0, 0, 0, 0, 100)


def test_a_closed_pool_leases_and_keeps_nothing(pair: Pair) -> None:
    with SlotPool() as pool:
        assert not pool.closed
    assert pool.closed
    mine, peer = pair()
    assert not pool.offer(0, mine)
    assert wait_for_end(peer) == b""
    for timeout in (None, 0, 1):
        with pytest.raises(PoolClosed):
            pool.acquire(timeout)


def test_a_closed_pool_wants_nothing(closing: Closing, says: Callable[..., Server]) -> None:
    rover = closing(Rover({"web1": says(b"0\r\n")}))
    rover.on("attempt", lambda sender, attempt: None)
    first = SlotPool(rover)
    first.close()
    assert wanted_by(rover) is None
    second = closing(SlotPool(rover))
    rover.connect()
    assert first.size == 0
    assert second.size == 1
    assert wanted_by(rover) == 99
    first.close()
    assert wanted_by(rover) == 99


def test_repr_is_the_state(closing: Closing, fill: Fill) -> None:
    pool = SlotPool(max_slots=3)
    fill(pool, 1, 2, 3)
    held = [pool.acquire(0) for _ in range(2)]
    pool.discard(pool.acquire(0))
    fill(pool, 9)
    assert repr(pool) == "<SlotPool size=3/3 idle=1 leased=2 retired=0 waiting=0>"
    fill(pool, 0)
    pool.acquire(0)
    fill(pool, 0)
    assert repr(pool) == "<SlotPool size=3/3 idle=1 leased=2 retired=1 waiting=0>"
    pool.close()
    assert repr(pool) == "<SlotPool closed size=0/3 idle=0 leased=0 retired=3 waiting=0>"
    for mine in held:
        pool.release(mine)
    assert pool.retired == 1


# The rover, and its registry


def test_a_rover_has_one_pool(roving: tuple[Rover, SlotPool]) -> None:
    rover, pool = roving
    with pytest.raises(PoolError, match="has a pool"):
        SlotPool(rover)
    gc.collect()
    assert wanted_by(rover) == pool.deficit == 3


def test_a_rover_whose_wanted_is_taken_gets_no_pool() -> None:
    rover = Rover()
    rover.wanted = lambda: 1
    with pytest.raises(PoolError):
        SlotPool(rover)
    assert wanted_by(rover) == 1


@pytest.mark.parametrize("wanted", [None, lambda: 7], ids=["none", "a callable"])
def test_wanted_is_the_pools_until_it_is_closed(
    roving: tuple[Rover, SlotPool], wanted: Callable[[], int] | None
) -> None:
    rover, pool = roving
    with pytest.raises(PoolError, match="has a pool"):
        rover.wanted = wanted
    assert wanted_by(rover) == pool.deficit == 3
    with pytest.raises(PoolError, match="has a pool"):
        SlotPool(rover)
    pool.close()
    rover.wanted = lambda: 7
    pool.close()
    assert wanted_by(rover) == 7


def test_answers_within_a_lease_tell_how_slow_its_server_is(fill: Fill) -> None:
    pool = SlotPool()
    fill(pool, 0)
    sock = pool.acquire()
    for _ in range(3):
        pool.answered(sock, 0.25)
    pool.discard(sock, worked=True)
    [server] = pool.stats().servers.values()
    assert server.latency == 0.25
    with pytest.raises(PoolError):
        pool.answered(sock, 0.25)
    pool.close()


@pytest.mark.parametrize("how", ["discarded", "ended by the server"])
def test_a_connection_that_ends_with_its_work_is_replaced_by_one_of_the_same_server(
    how: str, closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    def answer_once(slot: int, sock: Socket, address: Any) -> None:
        sock.sendall(sock.recv(10))
        if how == "discarded":
            sock.recv(10)

    servers = {id: entry(slot_server(answer_once)) for id in "abc"}
    rover = closing(Rover(servers, roving_interval=3600.0))
    pool = closing(SlotPool(rover, max_slots=6, choice=LowestSlot()))
    rover.start()
    pool.wait_ready()
    before = {id: stats.size for id, stats in pool.stats().servers.items()}
    for _ in range(30):
        sock = pool.acquire()
        sock.sendall(b"x")
        assert sock.recv(10) == b"x"
        if how == "discarded":
            pool.discard(sock, worked=True)
        else:
            assert sock.recv(10) == b""
            pool.release(sock)
        wait_until(lambda: pool.deficit == 0 and not rover.pending)
        assert {id: stats.size for id, stats in pool.stats().servers.items()} == before


def test_a_pool_that_nobody_refers_to_is_collected(
    closing: Closing, pair: Pair, fill: Fill
) -> None:
    rover = closing(Rover())
    pool: SlotPool | None = SlotPool(rover)
    assert pool is not None
    wanted = rover.wanted
    assert wanted is not None
    idle = fill(pool, 1)[0]
    lent, lent_peer = pair()
    pool.offer(0, lent)
    assert pool.acquire(0) is lent
    collected = weakref.ref(pool)
    del pool
    gc.collect()
    assert collected() is None
    assert wait_for_end(idle) == b""
    assert is_connected(lent, lent_peer)  # its user's
    assert rover.wanted is None
    assert wanted() == 0
    with SlotPool(rover):
        assert rover.wanted is not None


def test_a_pool_that_another_thread_collects_is_closed_in_its_own(
    fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two threads in one loop would overwrite each other's memory.
    closed_by: list[object] = []
    close = PooledConnection.close

    def closing_here(connection: PooledConnection) -> None:
        closed_by.append(gevent.getcurrent())
        close(connection)

    monkeypatch.setattr(PooledConnection, "close", closing_here)
    pool: SlotPool | None = SlotPool()
    assert pool is not None
    peers = fill(pool, 0, 1)
    with pool.lease():
        pass
    gone = weakref.ref(pool)
    around = [pool]
    around.append(around)  # type: ignore[arg-type]
    del pool, around
    gevent.get_hub().threadpool.apply(gc.collect)
    assert gone() is None
    assert [wait_for_end(peer) for peer in peers] == [b"", b""]
    assert closed_by == [gevent.get_hub()] * 2


@pytest.mark.parametrize("runs_hub", [True, False])
def test_a_pool_of_a_thread_that_ended_is_closed_by_whoever_collects_it(
    closing: Closing, runs_hub: bool
) -> None:
    mine, peer = (closing(end) for end in socket.socketpair())
    made: list[SlotPool] = []
    hubs: list[Any] = []

    def make() -> None:
        hubs.append(gevent.get_hub())
        made.append(SlotPool())
        made[0].offer(0, mine)
        if runs_hub:
            gevent.sleep(0.001)

    in_a_thread_that_ends(make)
    wait_until(lambda: hubs[0].dead or hubs[0].loop is None)
    made.clear()
    gc.collect()
    assert wait_for_end(peer) == b""


def test_a_pool_that_somebody_waits_for_is_not_collected(closing: Closing, pair: Pair) -> None:
    pool: SlotPool | None = SlotPool()
    assert pool is not None
    (waiter,) = spawn_waiters(pool, 1)
    reference = weakref.ref(pool)
    del pool
    gc.collect()
    alive = reference()
    assert alive is not None
    mine, _ = pair()
    alive.offer(0, mine)
    assert waiter.get() is mine


def test_a_pool_on_a_started_rover_does_not_wait_for_the_next_tick(
    closing: Closing, says: Callable[..., Server]
) -> None:
    attempts: list[Any] = []
    rover = closing(Rover({"web1": says(b"0\r\n")}, roving_interval=3600))
    rover.on("attempt", lambda sender, attempt: attempts.append(attempt))
    rover.start()
    wait_until(lambda: attempts)
    pool = closing(SlotPool(rover, max_slots=5))
    wait_until(lambda: pool.size == 5)
    pool.discard(pool.acquire(0))
    wait_until(lambda: pool.size == 5)


CHANGES: list[Callable[[dict[str, Server]], object]] = [
    lambda servers: servers.pop("web1"),
    lambda servers: servers.update(web1={"host": "127.0.0.1", "port": 3}),
]
changes = pytest.mark.parametrize("change", CHANGES, ids=["gone", "changed"])


@pytest.fixture
def peers(roving: tuple[Rover, SlotPool], pair: Pair) -> list[Socket]:
    """Give the peers of three connections: slots 0 and 2 of web1, slot 1 of web2."""
    _, pool = roving
    peers = []
    for slot in (Slot(0, "web1", WEB1), Slot(1, "web2", WEB2), Slot(2, "web1", WEB1)):
        mine, peer = pair()
        assert pool.offer(slot, mine)
        peers.append(peer)
    return peers


@changes
def test_a_server_that_left_is_never_leased_again(
    roving: tuple[Rover, SlotPool], peers: list[Socket], change: Any
) -> None:
    rover, pool = roving
    change(rover.servers)
    assert is_connected(pool.acquire(0), peers[1])
    assert wait_for_end(peers[0]) == b""
    with pytest.raises(PoolTimeout):
        pool.acquire(0)
    assert wait_for_end(peers[2]) == b""
    assert counts(pool) == (0, 1, 0, 0, 2)


@changes
def test_a_server_that_left_is_closed_by_the_next_tick(
    roving: tuple[Rover, SlotPool], peers: list[Socket], change: Any
) -> None:
    rover, pool = roving
    with pool.lease(0) as leased:
        change(rover.servers)
        assert counts(pool) == (2, 1, 0, 0, 0)
        rover.on("error", lambda sender, error: None)
        rover.start()
        assert wait_for_end(peers[2]) == b""
        assert counts(pool) == (1, 0, 1, 0, 2)
        assert is_connected(leased, peers[0])
    assert wait_for_end(peers[0]) == b""
    assert counts(pool) == (1, 0, 0, 0, 2)


@changes
def test_a_leased_connection_of_a_server_that_left_finishes_first(
    roving: tuple[Rover, SlotPool], peers: list[Socket], change: Any
) -> None:
    rover, pool = roving
    with pool.lease(0) as leased:
        change(rover.servers)
        assert is_connected(leased, peers[0])
    assert wait_for_end(peers[0]) == b""
    assert counts(pool) == (2, 0, 0, 0, 1)


@changes
def test_a_waiter_is_not_handed_a_connection_of_a_server_that_left(
    roving: tuple[Rover, SlotPool], peers: list[Socket], change: Any
) -> None:
    rover, pool = roving
    held = [pool.acquire(0) for _ in range(3)]
    (waiter,) = spawn_waiters(pool, 1)
    change(rover.servers)
    pool.release(held[0])
    gevent.sleep(0)
    assert counts(pool) == (0, 2, 0, 1, 1)
    pool.release(held[1])
    assert waiter.get() is held[1]


@changes
def test_an_offer_of_a_server_that_left_is_closed(
    roving: tuple[Rover, SlotPool], pair: Pair, change: Any
) -> None:
    rover, pool = roving
    change(rover.servers)
    mine, peer = pair()
    assert not pool.offer(Slot(0, "web1", WEB1), mine)
    assert wait_for_end(peer) == b""
    assert pool.size == 0


def test_an_entry_that_is_replaced_by_an_equal_one_is_the_same_server(
    roving: tuple[Rover, SlotPool], peers: list[Socket]
) -> None:
    rover, pool = roving
    rover.add_server("web1", dict(WEB1))  # type: ignore[arg-type]
    assert is_connected(pool.acquire(0), peers[0])


def test_a_plain_int_has_no_server_that_could_leave(
    roving: tuple[Rover, SlotPool], fill: Fill
) -> None:
    rover, pool = roving
    (peer,) = fill(pool, 3)
    rover.servers.clear()
    assert is_connected(pool.acquire(0), peer)


def test_the_rovers_connections_come_into_the_pool(
    closing: Closing, says: Callable[..., Server]
) -> None:
    rover = closing(Rover({"web1": says(b"13\r\n")}))
    pool = closing(SlotPool(rover, max_slots=1))
    rover.connect()
    ((slot, leased),) = pool.slots()
    assert (slot, leased) == (13, False)
    assert isinstance(slot, Slot)
    assert slot.server_id == "web1"
    rover.connect()  # an equal slot: the incumbent stays
    assert counts(pool) == (1, 0, 0, 0, 0)
