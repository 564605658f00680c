"""A pool's hooks: what sets connections up, checks them, resets them and tears them down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Any

import gevent
import pytest
from conftest import OFFERED, entry, wait_until
from gevent import GreenletExit, Timeout, socket
from gevent.event import Event
from test_fork import FORKS, in_child

from gevent_rover import (
    LowestSlot,
    PoolClosed,
    PoolError,
    PoolFull,
    PoolTimeout,
    Rover,
    Slot,
    SlotPool,
    SlotServer,
    closed,
)

Socket = socket.socket
Closing = Callable[[Any], Any]
#: Offers a connection with a slot and returns the peer's end.
Offer = Callable[..., Socket]


class Client:
    """What a setup makes of a connection: with state of its own, and not hashable."""

    __hash__ = None  # type: ignore[assignment]
    numbers = count()

    def __init__(self, socket: Socket, slot: Slot) -> None:
        self.socket, self.slot = socket, slot
        self.number = next(self.numbers)

    def __eq__(self, other: object) -> bool:
        raise AssertionError("a client is compared by identity")


def states(pool: SlotPool[Any]) -> tuple[int, int, int, int]:
    """Return how many are idle, leased, preparing and retired; the sums must be right."""
    stats = pool.stats()
    assert stats.size == pool.size == pool.idle + pool.leased + pool.preparing
    assert stats.opened == sum(stats.closed.values()) + pool.size + pool.retired + stats.candidates
    assert stats.size == sum(server.size for server in stats.servers.values())
    assert pool.deficit == pool.max_slots - pool.size
    return pool.idle, pool.leased, pool.preparing, pool.retired


def reasons(pool: SlotPool[Any]) -> dict[str, int]:
    """Return why connections were closed."""
    return {reason: times for reason, times in pool.stats().closed.items() if times}


def has_ended(peer: Socket) -> bool:
    """Tell whether the pool closed the other end; wait for it."""
    peer.settimeout(5)
    return peer.recv(100) == b""


def wait(event: Event) -> None:
    event.wait()  # Which returns True: that would be a client.


def waiting_for(event: Event) -> Callable[[Socket, Slot], None]:
    return lambda sock, slot: wait(event)


# Setup


def test_a_lease_gives_the_client_that_setup_made_for_the_connections_whole_life(
    closing: Closing, offer: Offer
) -> None:
    pool = closing(SlotPool(max_slots=1, setup=Client))
    peer = offer(pool, 7)
    with pool.lease() as client:
        assert isinstance(client, Client)
        assert (client.slot, client.slot.server_id) == (7, "web")
        client.socket.sendall(b"?")
        assert peer.recv(1) == b"?"
    again = pool.acquire()
    assert again is client
    pool.release(again)
    assert pool.acquire() is client
    pool.discard(client)
    assert has_ended(peer)
    assert states(pool) == (0, 0, 0, 0)


def test_release_and_discard_take_the_socket_as_well(closing: Closing, offer: Offer) -> None:
    pool = closing(SlotPool(max_slots=1, setup=Client))
    offer(pool)
    client = pool.acquire()
    pool.release(client.socket)
    assert states(pool) == (1, 0, 0, 0)
    assert pool.acquire() is client
    pool.discard(client.socket)
    assert states(pool) == (0, 0, 0, 0)
    for one in (client, client.socket):
        with pytest.raises(PoolError, match="not leased from this pool"):
            pool.release(one)
        with pytest.raises(PoolError, match="not leased from this pool"):
            pool.discard(one)


def test_a_setup_that_returns_nothing_leaves_the_socket(closing: Closing, offer: Offer) -> None:
    pool = closing(SlotPool(max_slots=1, setup=lambda sock, slot: sock.sendall(b"AUTH\r\n")))
    peer = offer(pool)
    with pool.lease() as sock:
        assert isinstance(sock, Socket)
        assert peer.recv(100) == b"AUTH\r\n"


def test_a_timeout_that_setup_sets_holds_for_each_lease(closing: Closing, offer: Offer) -> None:
    pool = closing(SlotPool(max_slots=1, setup=lambda sock, slot: sock.settimeout(2.5)))
    offer(pool)
    for _ in range(2):
        with pool.lease() as sock:
            assert sock.gettimeout() == 2.5
            sock.settimeout(0.1)
    users = [gevent.spawn(pool.acquire) for _ in range(2)]
    gevent.sleep(0)
    pool.release(users[0].get())
    assert users[1].get(timeout=5).gettimeout() == 2.5


def test_while_it_is_set_up_a_connection_is_preparing_kept_and_not_idle(
    closing: Closing, offer: Offer
) -> None:
    may_go_on = Event()
    pool = closing(SlotPool(max_slots=2, setup=waiting_for(may_go_on)))
    offer(pool)
    assert states(pool) == (0, 0, 1, 0)
    assert pool.slots() == [(0, False)]
    assert pool.deficit == 1
    assert repr(pool) == "<SlotPool size=1/2 idle=0 leased=0 preparing=1 retired=0 waiting=0>"
    with pytest.raises(PoolTimeout):
        pool.acquire(0)
    waiter = gevent.spawn(pool.acquire)
    gevent.sleep(0)
    may_go_on.set()
    assert isinstance(waiter.get(timeout=5), Socket)
    assert states(pool) == (0, 1, 0, 0)


def test_a_server_that_speaks_first_behind_its_slot_line_can_be_pooled(
    closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    def greet(slot: int, sock: Socket, address: Any) -> None:
        sock.sendall(b"220 welcome\r\n")
        while data := sock.recv(100):
            sock.sendall(data)

    def read_greeting(sock: Socket, slot: Slot) -> None:
        greeting = b""
        while not greeting.endswith(b"\n"):
            greeting += sock.recv(1)
        greetings.append(greeting)

    greetings: list[bytes] = []
    rover = closing(Rover({"web": entry(slot_server(greet))}, roving_interval=60))
    pool = closing(SlotPool(rover, max_slots=3, setup=read_greeting))
    rover.start()
    pool.wait_ready()
    assert greetings == [b"220 welcome\r\n"] * 3
    with pool.lease() as sock:
        sock.sendall(b"?")
        assert sock.recv(100) == b"?"
    assert states(pool) == (3, 0, 0, 0)


def test_bytes_that_setup_leaves_unread_close_the_connection(
    closing: Closing, offer: Offer
) -> None:
    pool = closing(SlotPool(max_slots=1, setup=lambda sock, slot: sock.recv(1)))
    peer = offer(pool)
    peer.sendall(b"two")
    wait_until(lambda: pool.size == 0)
    assert reasons(pool) == {"unread": 1}
    assert "closed after its setup: unread" in str(gevent.spawn(timeout_of, pool).get())


def timeout_of(pool: SlotPool[Any]) -> PoolTimeout:
    with pytest.raises(PoolTimeout) as caught:
        pool.acquire(0)
    return caught.value


def raise_value_error(sock: Socket, slot: Slot) -> None:
    raise ValueError("wrong password")


def wait_for_ever(sock: Socket, slot: Slot) -> None:
    sock.recv(1)


async def never_run(sock: Socket, slot: Slot) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    ("setup", "why"),
    [
        (raise_value_error, "ValueError: wrong password"),
        (wait_for_ever, "HookTimeout: setup took longer than 0.05 s"),
        (never_run, "TypeError: .* is async: setup must be a plain function"),
    ],
)
def test_a_setup_that_fails_closes_the_connection_and_says_why(
    setup: Any, why: str, closing: Closing, offer: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    rover = Rover({"web": OFFERED}, timeout=0.05)
    torn_down: list[Any] = []
    pool = closing(SlotPool(rover, max_slots=1, setup=setup, teardown=torn_down.append))
    with caplog.at_level(logging.DEBUG, "gevent_rover.pool"):
        peer = offer(pool)
        assert has_ended(peer)
        wait_until(lambda: pool.size == 0)
    assert reasons(pool) == {"setup": 1}
    assert states(pool) == (0, 0, 0, 0)
    assert torn_down == []
    with pytest.raises(PoolTimeout, match=f"slot 0 of 'web': its setup failed: {why}"):
        pool.acquire(0)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "its setup failed" in record.message
    assert record.exc_info


def test_one_server_is_warned_of_once(
    closing: Closing, offer: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    pool = closing(SlotPool(Rover({"web": OFFERED}), max_slots=3, setup=raise_value_error))
    with caplog.at_level(logging.DEBUG, "gevent_rover.pool"):
        for _ in range(3):
            assert has_ended(offer(pool))
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.DEBUG, logging.DEBUG]


def test_a_client_that_another_connection_has_is_refused(closing: Closing, offer: Offer) -> None:
    shared = object()
    pool = closing(SlotPool(max_slots=2, setup=lambda sock, slot: shared))
    offer(pool)
    wait_until(lambda: pool.idle == 1)
    assert has_ended(offer(pool))
    assert states(pool) == (1, 0, 0, 0)
    assert pool.acquire() is shared
    with pytest.raises(PoolTimeout, match="PoolError: setup returned the client of another"):
        pool.acquire(0)


def test_a_full_pool_keeps_what_it_has_until_a_lower_slot_is_set_up(
    closing: Closing, offer: Offer
) -> None:
    may_end = Event()

    def setup(sock: Socket, slot: Slot) -> None:
        if slot == 2:
            raise ValueError
        if slot == 1:
            may_end.wait()

    pool = closing(SlotPool(max_slots=1, setup=setup))
    first = offer(pool, 3)
    wait_until(lambda: pool.idle == 1)
    assert has_ended(offer(pool, 2))
    assert states(pool) == (1, 0, 0, 0)
    assert pool.slots() == [(3, False)]

    offer(pool, 1)
    gevent.sleep(0)
    assert pool.stats().candidates == 1
    assert pool.slots() == [(3, False)]
    offer(pool, 0, kept=False)  # One of its server at a time.
    may_end.set()
    assert has_ended(first)
    wait_until(lambda: pool.idle == 1)
    assert pool.slots() == [(1, False)]
    assert reasons(pool) == {"setup": 1, "replaced": 1}


def test_a_lower_slot_that_is_ready_too_late_is_closed(closing: Closing, offer: Offer) -> None:
    may_end = {slot: Event() for slot in (1, 2, 3)}
    pool = closing(SlotPool(max_slots=1, setup=lambda sock, slot: wait(may_end[slot])))
    may_end[3].set()
    offer(pool, 3, "a")
    wait_until(lambda: pool.idle == 1)
    second, first = offer(pool, 2, "b"), offer(pool, 1, "c")
    may_end[1].set()
    wait_until(lambda: pool.slots() == [(1, False)])
    may_end[2].set()
    assert has_ended(second)
    assert reasons(pool) == {"replaced": 2}
    first.sendall(b"?")
    wait_until(lambda: pool.size == 0)


def test_a_setup_that_takes_long_gives_its_place_to_others(closing: Closing, offer: Offer) -> None:
    may_end = Event()
    pool = closing(
        SlotPool(max_slots=1, setup=lambda sock, slot: wait(may_end) if slot == 1 else None)
    )
    first = offer(pool, 1, "slow")
    wait_until(lambda: pool.preparing == 0)
    assert states(pool) == (0, 0, 0, 0)
    assert pool.stats().candidates == 1
    offer(pool, 0, "slow", kept=False)
    second = offer(pool, 2, "quick")
    wait_until(lambda: pool.idle == 1)
    may_end.set()  # It has a lower slot, so it's worth the wait.
    assert has_ended(second)
    assert pool.slots() == [(1, False)]
    with pool.lease() as sock:
        sock.sendall(b"?")
        assert first.recv(1) == b"?"


def test_a_connection_given_up_while_it_is_set_up_ends_its_setup(
    closing: Closing, offer: Offer
) -> None:
    ended: list[type[BaseException] | None] = []

    def setup(sock: Socket, slot: Slot) -> None:
        try:
            sock.recv(1)
        except BaseException as exc:
            ended.append(type(exc))
            raise

    rover = Rover({"web": OFFERED})
    pool = closing(SlotPool(rover, max_slots=4, setup=setup, teardown=ended.append))
    peers = [offer(pool, slot) for slot in range(4)]
    gevent.sleep(0)
    pool.max_slots = 2
    assert states(pool) == (0, 0, 2, 0)
    rover.drop_server("web")
    rover.start()
    wait_until(lambda: pool.size == 0)
    rover.stop()
    assert all(has_ended(peer) for peer in peers)
    wait_until(lambda: len(ended) == 4)
    assert set(ended) <= {GreenletExit, OSError}
    assert reasons(pool) == {"resized": 2, "server gone": 2}


def test_a_setup_that_survives_its_kill_is_torn_down(closing: Closing, offer: Offer) -> None:
    torn_down: list[Any] = []

    def setup(sock: Socket, slot: Slot) -> str:
        try:
            sock.recv(1)
        except BaseException:
            gevent.sleep(0.001)
        return "client"

    def teardown(client: Any) -> None:
        gevent.sleep(0)
        torn_down.append(client)

    pool = SlotPool(max_slots=1, setup=setup, teardown=teardown)
    peer = offer(pool)
    gevent.sleep(0)
    pool.close()
    assert pool.size == 0
    assert has_ended(peer)
    wait_until(lambda: torn_down == ["client"])


@pytest.mark.usefixtures("no_leaks")
def test_a_pool_closed_before_the_setup_began_closes_the_connection(offer: Offer) -> None:
    pool = SlotPool(max_slots=1, setup=Client)
    peer = offer(pool)
    pool.close()
    assert has_ended(peer)
    with pytest.raises(PoolClosed):
        pool.acquire()


def test_a_setup_may_close_the_pool(closing: Closing, offer: Offer) -> None:
    def setup(sock: Socket, slot: Slot) -> str:
        pool.close()
        return "client"

    torn_down: list[str] = []
    pool = SlotPool(max_slots=1, setup=setup, teardown=torn_down.append)
    peer = offer(pool)
    assert has_ended(peer)
    wait_until(lambda: torn_down == ["client"])
    assert pool.size == 0


# Servers whose setup fails or hangs


def attempts_of(rover: Rover) -> dict[str, int]:
    counted: dict[str, int] = {}

    def note(rover: Rover, attempt: Any) -> None:
        counted[attempt.id] = counted.get(attempt.id, 0) + 1

    rover.on("attempt", note)
    return counted


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_a_server_whose_setup_fails_is_left_out_and_the_others_fill_the_pool(
    how: str, closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    def setup(sock: Socket, slot: Slot) -> None:
        if slot.server_id == "bad":
            if how == "dies":
                raise ConnectionError("go away")
            sock.recv(1)

    servers = {id: entry(slot_server()) for id in ("bad", "good1", "good2", "good3")}
    rover = closing(Rover(servers, roving_interval=0.2, timeout=0.5))
    counted = attempts_of(rover)
    pool = closing(SlotPool(rover, max_slots=20, setup=setup))
    rover.start()
    pool.wait_ready(timeout=3)
    began = dict(counted)
    # A full pool roves as ever: one attempt in an interval.
    gevent.sleep(1)
    assert pool.idle == 20
    assert {connection_id for connection_id in pool.stats().servers if connection_id != "bad"} == {
        "good1",
        "good2",
        "good3",
    }
    assert pool.stats().servers["bad"].size == 0
    assert sum(counted.values()) - sum(began.values()) <= 7


@pytest.mark.integration
@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_where_all_setups_fail_the_rover_does_not_race(
    how: str, closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    def setup(sock: Socket, slot: Slot) -> None:
        if how == "dies":
            raise ConnectionError("go away")
        sock.recv(1)

    servers = {f"web{i}": entry(slot_server()) for i in range(3)}
    rover = closing(Rover(servers, roving_interval=0.1, timeout=0.3))
    counted = attempts_of(rover)
    pool = closing(SlotPool(rover, max_slots=5, setup=setup))
    rover.start()
    gevent.sleep(0.5)
    before = sum(counted.values())
    gevent.sleep(1)  # 10 intervals
    assert sum(counted.values()) - before <= 10 * (4 + 1)
    stats = pool.stats()
    assert stats.preparing + stats.candidates <= 5 + 3
    assert all(server.suspect for server in stats.servers.values())
    assert states(pool)[:2] == (0, 0)


def test_a_server_that_is_well_again_is_used_again(
    closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    broken = True

    def setup(sock: Socket, slot: Slot) -> None:
        if broken:
            raise ConnectionError("not yet")

    rover = closing(Rover({"web": entry(slot_server())}, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=5, setup=setup))
    rover.start()
    wait_until(lambda: reasons(pool).get("setup", 0) >= 2)
    broken = False
    pool.wait_ready(timeout=5)
    wait_until(lambda: not pool.stats().servers["web"].suspect)


# Check


def test_a_check_runs_before_each_lease_and_a_bad_one_is_replaced(
    closing: Closing, offer: Offer
) -> None:
    checked: list[int] = []

    def check(client: Client) -> bool:
        gevent.sleep(0)
        checked.append(int(client.slot))
        return client.slot != 0

    pool = closing(SlotPool(max_slots=2, setup=Client, check=check, choice=LowestSlot()))
    first, _ = offer(pool, 0), offer(pool, 1)
    wait_until(lambda: pool.idle == 2)
    with pool.lease() as client:
        assert client.slot == 1
        assert states(pool) == (0, 1, 0, 0)
    assert has_ended(first)
    with pool.lease():
        pass
    assert checked == [0, 1, 1]
    assert reasons(pool) == {"check": 1}
    assert pool.stats().leases == 2


@pytest.mark.parametrize("result", [None, True, 1, "PONG"])
def test_a_check_may_return_nothing(result: Any, closing: Closing, offer: Offer) -> None:
    pool = closing(SlotPool(max_slots=1, check=lambda sock: result))
    offer(pool)
    with pool.lease(0) as sock:
        assert isinstance(sock, Socket)


@pytest.mark.parametrize(
    ("failure", "failures"),
    [(ConnectionError("gone"), 1), (ValueError("a bug"), 0), (False, 0)],
)
def test_a_check_that_fails_is_said_and_a_failure_counts_against_the_server(
    failure: Any, failures: int, closing: Closing, offer: Offer
) -> None:
    def check(sock: Socket) -> Any:
        if isinstance(failure, Exception):
            raise failure
        return failure

    pool = closing(SlotPool(max_slots=3, check=check))
    for slot in range(3):
        offer(pool, slot)
    with pytest.raises(PoolTimeout, match=r"slot 2 of 'web': its check failed: .*(gone|bug|False)"):
        pool.acquire()
    assert reasons(pool) == {"check": 3}  # No more than max_slots, but as many.
    assert (pool.stats().leases, pool.stats().failures) == (0, failures * 3)


def test_a_connection_that_was_idle_for_a_moment_only_is_not_checked(
    closing: Closing, offer: Offer
) -> None:
    checks: list[Socket] = []
    pool = closing(SlotPool(max_slots=1, check=checks.append, check_after=0.05))
    offer(pool)
    for _ in range(3):
        with pool.lease():
            pass
    assert len(checks) == 0
    gevent.sleep(0.06)
    with pool.lease():
        pass
    assert len(checks) == 1


def test_a_check_that_hangs_ends_with_the_lease(closing: Closing, offer: Offer) -> None:
    pool = closing(SlotPool(max_slots=1, check=lambda sock: sock.recv(1)))
    peer = offer(pool)
    with Timeout(2), pytest.raises(PoolTimeout, match=r"check took longer than 0\.0[45]"):
        pool.acquire(0.05)
    assert has_ended(peer)
    assert states(pool) == (0, 0, 0, 0)
    assert pool.stats().failures == 0  # It had no time to show that it's dead.


def test_a_lease_that_does_not_wait_still_has_time_to_check(closing: Closing, offer: Offer) -> None:
    pool = closing(SlotPool(max_slots=1, check=lambda sock: gevent.sleep(0.01)))
    offer(pool)
    with pool.lease(0):
        assert states(pool) == (0, 1, 0, 0)


@pytest.mark.parametrize("how", [GreenletExit, Timeout])
def test_who_is_killed_while_it_checks_loses_the_connection_only(
    how: Any, closing: Closing, offer: Offer
) -> None:
    pool = closing(SlotPool(max_slots=2, check=lambda sock: gevent.sleep(1)))
    peer = offer(pool)
    user = gevent.spawn(pool.acquire)
    gevent.sleep(0.001)
    assert states(pool) == (0, 1, 0, 0)
    user.kill(how)
    assert has_ended(peer)
    assert states(pool) == (0, 0, 0, 0)


def test_who_waited_and_got_a_bad_one_is_still_the_first(closing: Closing, offer: Offer) -> None:
    order: list[str] = []

    def check(sock: Socket) -> bool:
        gevent.sleep(0.001)
        return next(verdicts)

    def use(name: str) -> None:
        pool.acquire()
        order.append(name)

    verdicts = iter([False, False, True, True, True])
    pool = closing(SlotPool(max_slots=9, check=check))
    users = []
    for name in "abc":
        users.append(gevent.spawn(use, name))
        gevent.sleep(0)
    offer(pool, 0)
    offer(pool, 1)  # a's and b's, both bad
    wait_until(lambda: reasons(pool) == {"check": 2})
    gevent.sleep(0)
    assert pool.waiting == 3
    for slot in (2, 3, 4):
        offer(pool, slot)
        gevent.sleep(0.005)
    gevent.joinall(users, timeout=5)
    assert order == ["a", "b", "c"]


def test_a_pool_closed_while_a_connection_is_checked_is_closed(
    closing: Closing, offer: Offer
) -> None:
    may_go_on = Event()
    pool = closing(SlotPool(max_slots=1, check=lambda sock: may_go_on.wait()))
    peer = offer(pool)
    user = gevent.spawn(pool.acquire)
    gevent.sleep(0)
    pool.close()
    may_go_on.set()
    with pytest.raises(PoolClosed):
        user.get(timeout=5)
    assert has_ended(peer)


def test_what_ended_while_it_was_checked_is_not_leased(closing: Closing, offer: Offer) -> None:
    def check(sock: Socket) -> None:
        first.close()

    pool = closing(SlotPool(max_slots=2, choice=LowestSlot(), check=check))
    first, second = offer(pool, 0), offer(pool, 1)
    sock = pool.acquire()
    sock.sendall(b"?")
    assert second.recv(1) == b"?"
    assert reasons(pool) == {"ended": 1}


# Reset


def test_a_connection_is_leased_until_its_reset_is_over(closing: Closing, offer: Offer) -> None:
    may_end = Event()
    pool = closing(SlotPool(max_slots=1, setup=Client, reset=lambda client: may_end.wait()))
    offer(pool)
    with pool.lease() as client:
        pass
    assert states(pool) == (0, 1, 0, 0)
    assert pool.slots() == [(0, True)]
    with pytest.raises(PoolTimeout):
        pool.acquire(0)
    for give_back in (pool.release, pool.discard):
        with pytest.raises(PoolError, match="not leased from this pool"):
            give_back(client)
    may_end.set()
    assert pool.acquire() is client
    with pytest.raises(PoolTimeout):
        pool.acquire(0)


def test_a_reset_may_read_what_is_left(closing: Closing, offer: Offer) -> None:
    pool = closing(SlotPool(max_slots=1, reset=lambda sock: sock.recv(100)))
    peer = offer(pool)
    with pool.lease():
        peer.sendall(b"the rest")
    wait_until(lambda: pool.idle == 1)


def test_a_reset_takes_nothing_of_the_servers_latency(closing: Closing, offer: Offer) -> None:
    pool = closing(SlotPool(max_slots=1, reset=lambda sock: gevent.sleep(0.5)))
    offer(pool)
    with pool.lease():
        gevent.sleep(0.01)
    wait_until(lambda: pool.idle == 1)
    assert 0.01 <= pool.stats().servers["web"].latency < 0.4
    assert pool.stats().lease_seconds < 0.4


def raise_in_reset(sock: Socket) -> None:
    gevent.sleep(0)
    raise ValueError("can't roll back")


@pytest.mark.parametrize("reset", [raise_in_reset, lambda sock: sock.recv(1)])
def test_a_reset_that_fails_or_hangs_closes_the_connection(
    reset: Any, closing: Closing, offer: Offer
) -> None:
    pool = closing(SlotPool(Rover({"web": OFFERED}, timeout=0.05), max_slots=1, reset=reset))
    peer = offer(pool)
    with pool.lease():
        pass
    assert has_ended(peer)
    assert states(pool) == (0, 0, 0, 0)
    assert reasons(pool) == {"reset": 1}


def test_what_is_discarded_or_failed_is_not_reset(closing: Closing, offer: Offer) -> None:
    resets: list[Socket] = []
    pool = closing(SlotPool(max_slots=3, reset=resets.append))
    for slot in range(3):
        offer(pool, slot)
    pool.discard(pool.acquire())
    with pytest.raises(ConnectionError), pool.lease():
        raise ConnectionError
    with pytest.raises(LookupError), pool.lease():
        raise LookupError
    gevent.sleep(0)
    assert resets == []
    assert reasons(pool) == {"discarded": 2, "failed": 1}


def test_a_connection_retired_while_it_is_reset_is_closed_after_that(
    closing: Closing, offer: Offer
) -> None:
    may_end = Event()
    torn_down: list[Socket] = []
    pool = closing(
        SlotPool(max_slots=1, reset=lambda sock: may_end.wait(), teardown=torn_down.append)
    )
    peer = offer(pool, 1)
    with pool.lease():
        pass
    offer(pool, 0)
    assert states(pool) == (1, 0, 0, 1)
    may_end.set()
    assert has_ended(peer)
    assert states(pool) == (1, 0, 0, 0)
    assert len(torn_down) == 1
    assert reasons(pool) == {"replaced": 1}


def test_a_retired_connection_is_closed_without_a_reset(closing: Closing, offer: Offer) -> None:
    resets: list[Socket] = []
    pool = closing(SlotPool(max_slots=1, reset=resets.append))
    peer = offer(pool, 1)
    with pool.lease():
        offer(pool, 0)
    assert has_ended(peer)
    assert resets == []


def test_a_block_whose_connection_was_released_by_hand_leaves_its_reset_alone(
    closing: Closing, offer: Offer
) -> None:
    may_end = Event()
    pool = closing(SlotPool(max_slots=1, reset=lambda sock: may_end.wait()))
    offer(pool)
    with pytest.raises(LookupError), pool.lease() as sock:
        pool.release(sock)
        raise LookupError
    assert states(pool) == (0, 1, 0, 0)
    may_end.set()
    wait_until(lambda: pool.idle == 1)


# Teardown, and the signal


def test_teardown_runs_once_just_before_the_connection_is_closed(
    closing: Closing, offer: Offer
) -> None:
    def say_goodbye(client: Client) -> None:
        gevent.sleep(0)
        client.socket.sendall(b"QUIT\r\n")

    pool = closing(SlotPool(max_slots=2, setup=Client, teardown=say_goodbye))
    first, second = offer(pool, 0), offer(pool, 1)
    wait_until(lambda: pool.idle == 2)
    pool.discard(pool.acquire())
    pool.discard(pool.acquire())
    assert states(pool) == (0, 0, 0, 0)  # Now, not after the teardown.
    for peer in (first, second):
        assert peer.recv(100) == b"QUIT\r\n"
        assert has_ended(peer)


@pytest.mark.parametrize("how", ["raises", "hangs", "closes"])
def test_a_teardown_that_fails_closes_the_connection_all_the_same(
    how: str, closing: Closing, offer: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    def teardown(sock: Socket) -> None:
        if how == "raises":
            raise ValueError("too bad")
        if how == "hangs":
            gevent.sleep(60)
        sock.close()

    pool = closing(SlotPool(Rover({"web": OFFERED}, timeout=0.05), max_slots=1, teardown=teardown))
    peer = offer(pool)
    with caplog.at_level(logging.DEBUG, "gevent_rover.pool"):
        pool.discard(pool.acquire())
        assert has_ended(peer)
        wait_until(lambda: how == "closes" or "the teardown of slot 0 of 'web'" in caplog.text)


def test_closing_a_pool_tears_down_what_is_idle_now_and_what_is_leased_later(
    closing: Closing, offer: Offer
) -> None:
    torn_down: list[Client] = []

    def teardown(client: Client) -> None:
        gevent.sleep(0.01)
        torn_down.append(client)

    with SlotPool(max_slots=3, setup=Client, teardown=teardown) as pool:
        for slot in range(3):
            offer(pool, slot)
        pool.wait_ready()
        leased = pool.acquire()
    # The block has waited for the teardown.
    assert len(torn_down) == 2
    assert not any(client is leased for client in torn_down)
    pool.release(leased)
    wait_until(lambda: len(torn_down) == 3)
    assert torn_down[-1] is leased


def test_close_waits_for_hooks_only_if_it_is_told(closing: Closing, offer: Offer) -> None:
    torn_down: list[Socket] = []

    def teardown(sock: Socket) -> None:
        gevent.sleep(0.01)
        torn_down.append(sock)

    pool = SlotPool(max_slots=1, teardown=teardown)
    offer(pool)
    pool.close()
    assert torn_down == []
    pool.close(timeout=0.001)
    assert torn_down == []
    pool.close(timeout=None)
    assert len(torn_down) == 1
    with pytest.raises(ValueError, match="timeout must be a number"):
        pool.close(timeout="1")  # type: ignore[arg-type]


@pytest.mark.parametrize("teardown", [None, lambda sock: gevent.sleep(0)])
def test_a_signal_tells_that_a_connection_is_closed_and_why(
    teardown: Any, closing: Closing, offer: Offer
) -> None:
    told: list[tuple[Any, str, bool]] = []

    def note(sender: Any, slot: Slot, client: Socket, reason: str) -> None:
        gevent.sleep(0)  # It may switch.
        assert sender is pool
        told.append(((int(slot), slot.server_id), reason, client.fileno() < 0))

    pool = closing(SlotPool(max_slots=1, teardown=teardown))
    other = closing(SlotPool(max_slots=1))
    with closed.connected_to(note, sender=pool):
        offer(other)
        other.discard(other.acquire())
        peer = offer(pool, 2)
        peer.close()
        wait_until(lambda: pool.size == 0)
        offer(pool, 2)
        offer(pool, 1)
        pool.discard(pool.acquire())
        offer(pool, 3)
        pool.release(pool.acquire())
        pool.close()
        wait_until(lambda: len(told) == 4)
    assert told == [
        ((2, "web"), "ended", True),
        ((2, "web"), "replaced", True),
        ((1, "web"), "discarded", True),
        ((3, "web"), "closed", True),
    ]


def test_a_receiver_that_raises_spoils_nothing(
    closing: Closing, offer: Offer, reported: list[Any]
) -> None:
    def spoil(sender: Any, **keywords: Any) -> None:
        raise LookupError

    pool = closing(SlotPool(max_slots=1))
    with closed.connected_to(spoil, sender=pool):
        offer(pool)
        pool.discard(pool.acquire())
        wait_until(lambda: reported)
    assert isinstance(reported[0][1], LookupError)
    assert states(pool) == (0, 0, 0, 0)


def test_closed_is_no_signal_of_a_rovers() -> None:
    with pytest.raises(ValueError, match="closed"):
        Rover().on("closed", print)


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("hook", ["setup", "reset", "teardown"])
@pytest.mark.parametrize("how", [GreenletExit, Timeout, SystemExit])
def test_a_hook_that_somebody_kills_leaves_nothing_behind(
    hook: str, how: Any, offer: Offer, reported: list[Any]
) -> None:
    running: list[Any] = []

    def wait(*args: Any) -> None:
        running.append(gevent.getcurrent())
        gevent.sleep(10)

    hooks: dict[str, Any] = {hook: wait}
    pool: SlotPool[Any] = SlotPool(max_slots=1, **hooks)
    peer = offer(pool)
    if hook != "setup":
        (pool.release if hook == "reset" else pool.discard)(pool.acquire())
    wait_until(lambda: running)
    try:
        running[0].kill(how)
    except SystemExit:
        pass  # gevent raises that in the main greenlet.
    assert has_ended(peer)
    assert states(pool) == (0, 0, 0, 0)
    assert reasons(pool) == {"discarded" if hook == "teardown" else hook: 1}
    pool.close()


# Forks


@pytest.mark.parametrize("fork", FORKS)
def test_a_child_closes_its_copies_and_calls_no_hook(
    fork: str, closing: Closing, offer: Offer
) -> None:
    called: list[str] = []
    may_end = Event()

    def setup(sock: Socket, slot: Slot) -> Client:
        if slot == 3:
            may_end.wait()
        return Client(sock, slot)

    def reset(client: Client) -> None:
        if client.slot == 1:
            may_end.wait()
        called.append("reset")

    def teardown(client: Client) -> None:
        if client.slot == 2:
            may_end.wait()
        called.append("teardown")

    pool = closing(
        SlotPool(max_slots=4, setup=setup, reset=reset, teardown=teardown, choice=LowestSlot())
    )
    peers = [offer(pool, slot) for slot in range(4)]
    wait_until(lambda: pool.idle == 3)
    leased, resetting, torn_down = (pool.acquire() for _ in range(3))
    pool.release(resetting)
    pool.discard(torn_down)
    gevent.sleep(0)
    assert states(pool) == (0, 2, 1, 0)

    def look() -> str:
        assert states(pool) == (0, 0, 0, 0)
        assert leased.socket.fileno() == resetting.socket.fileno() == -1
        assert torn_down.socket.fileno() == -1
        pool.release(leased)  # The parent's.
        pool.discard(leased)
        may_end.set()
        gevent.sleep(0.05)  # Greenlets that are copies of the parent's end.
        assert called == []
        assert states(pool) == (0, 0, 0, 0)
        return "seen"

    assert in_child(FORKS[fork], look) == "seen"
    assert called == []
    assert states(pool) == (0, 2, 1, 0)
    may_end.set()
    wait_until(lambda: pool.idle == 2)
    assert has_ended(peers[2])
    leased.socket.sendall(b"?")
    assert peers[0].recv(1) == b"?"
    pool.release(leased)
    wait_until(lambda: pool.idle == 3)
    pool.close(timeout=None)
    assert sorted(called) == ["reset"] * 2 + ["teardown"] * 4


# What is refused


@pytest.mark.parametrize("name", ["setup", "check", "reset", "teardown"])
def test_a_hook_that_can_not_be_called_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be callable, got 3"):
        SlotPool(**{name: 3})  # type: ignore[call-overload]


def test_too_many_waiters_are_refused_but_none_that_was_let_in(
    closing: Closing, offer: Offer
) -> None:
    verdicts = iter([False, True])
    pool = closing(SlotPool(max_slots=2, max_waiting=1, check=lambda sock: next(verdicts)))
    user = gevent.spawn(pool.acquire)
    gevent.sleep(0)
    with pytest.raises(PoolFull, match="1 wait for a connection, and no more may: <SlotPool"):
        pool.acquire()
    offer(pool, 0)
    gevent.sleep(0.01)
    assert pool.waiting == 1  # Its first one was bad.
    offer(pool, 1)
    assert isinstance(user.get(timeout=5), Socket)
