"""Pools, rovers and servers together: a fleet that fills quickly and balances itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import pytest
from conftest import entry, wait_until
from gevent import socket

from gevent_rover import PoolError, PoolTimeout, Rover, Server, SlotPool, Slots, SlotServer
from gevent_rover.policy.health import MAX_PROBES

pytestmark = pytest.mark.integration

SlotServers = Callable[..., SlotServer]
Servers = Callable[..., Server]
Closing = Callable[[Any], Any]


def taken(servers: list[SlotServer]) -> list[int]:
    """Return how many slots are taken at each server."""
    return [len(server.slots) for server in servers]


def counting(rover: Rover) -> list[str]:
    """Record the outcomes of a rover's attempts; errors are received, and so not printed."""
    outcomes: list[str] = []
    rover.on("attempt", lambda sender, attempt: outcomes.append(attempt.outcome))
    rover.on("error", lambda sender, error: None)
    return outcomes


@pytest.fixture
def dead_servers() -> Iterator[Callable[[int], dict[str, Server]]]:
    """Give a function that returns entries of ports that stay bound and refuse."""
    bound: list[socket.socket] = []

    def dead_servers(count: int) -> dict[str, Server]:
        servers: dict[str, Server] = {}
        for index in range(count):
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            bound.append(sock)
            servers[f"dead{index}"] = {"host": "127.0.0.1", "port": sock.getsockname()[1]}
        return servers

    yield dead_servers
    for sock in bound:
        sock.close()


# Filling


def test_a_pool_of_100_fills_from_ten_servers_long_before_the_second_tick(
    slot_server: SlotServers, closing: Closing
) -> None:
    servers = [slot_server() for _ in range(10)]
    rover = closing(Rover({str(i): entry(s) for i, s in enumerate(servers)}, roving_interval=60))
    pool = closing(SlotPool(rover))
    rover.start()
    wait_until(lambda: pool.size == 100)
    assert sum(taken(servers)) == 100


def test_a_pool_of_100_fills_while_half_of_the_servers_refuse(
    slot_server: SlotServers,
    dead_servers: Callable[[int], dict[str, Server]],
    closing: Closing,
) -> None:
    registry = dead_servers(8) | {str(i): entry(slot_server()) for i in range(8)}
    rover = closing(Rover(registry, roving_interval=1.0))
    outcomes = counting(rover)
    pool = closing(SlotPool(rover))
    rover.start()
    wait_until(lambda: pool.size == 100, 10)
    # Quick roving leaves out who refused since the latest tick.
    assert outcomes.count("unreachable") <= 8 * 10


def test_a_pool_of_100_fills_while_a_quarter_of_the_servers_is_silent(
    slot_server: SlotServers, talker: Servers, closing: Closing
) -> None:
    registry = {str(i): entry(slot_server()) for i in range(3)} | {"silent": talker()}
    rover = closing(Rover(registry, roving_interval=60, timeout=60))
    outcomes = counting(rover)
    pool = closing(SlotPool(rover))
    rover.start()
    wait_until(lambda: pool.size == 100, 20)  # Not one attempt has timed out by then.
    assert set(outcomes) == {"connection"}


def test_a_dead_fleet_gets_at_most_two_attempts_per_interval_on_average(
    dead_servers: Callable[[int], dict[str, Server]], closing: Closing
) -> None:
    rover = closing(Rover(dead_servers(30), roving_interval=0.05))
    outcomes = counting(rover)
    pool = closing(SlotPool(rover, max_slots=50))
    began = monotonic()
    rover.start()
    gevent.sleep(1.5)
    intervals = (monotonic() - began) / 0.05
    assert set(outcomes) == {"unreachable"}
    assert len(outcomes) <= 2 * intervals
    with pytest.raises(PoolTimeout, match="ConnectionRefusedError"):
        pool.acquire(0)


def hangs_up_after(seconds: float) -> Callable[[int, Any, Any], None]:
    """Return a handler that is over, and so is its connection, after so many seconds."""
    return lambda slot, sock, address: gevent.sleep(seconds)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.02, 0.05])
def test_a_server_that_says_a_slot_and_hangs_up_gets_few_attempts_per_interval(
    slot_server: SlotServers, closing: Closing, seconds: float
) -> None:
    server = slot_server(hangs_up_after(seconds))
    # Long enough to see each end within an interval, however busy the machine is.
    interval = 0.25
    rover = closing(Rover({"a": entry(server)}, roving_interval=interval))
    outcomes = counting(rover)
    pool = closing(SlotPool(rover, max_slots=50))
    rover.start()
    # The pool may be full before the first end is seen; never again.
    gevent.sleep(2.5 * interval)
    first = len(outcomes)
    assert first <= 50 + 3
    began = monotonic()
    gevent.sleep(6 * interval)
    intervals = (monotonic() - began) / interval + 1
    assert 2 <= len(outcomes) - first <= 2 * intervals
    wait_until(lambda: pool.size <= 1)


def test_a_fleet_that_says_slots_and_hangs_up_gets_few_attempts_per_interval(
    slot_server: SlotServers, closing: Closing
) -> None:
    servers = [slot_server(hangs_up_after(0.01)) for _ in range(10)]
    registry = {str(i): entry(s) for i, s in enumerate(servers)}
    interval = 0.25
    rover = closing(Rover(registry, roving_interval=interval))
    outcomes = counting(rover)
    pool = closing(SlotPool(rover, max_slots=50))
    rover.start()
    gevent.sleep(3.5 * interval)
    first = len(outcomes)
    began = monotonic()
    gevent.sleep(6 * interval)
    intervals = (monotonic() - began) / interval + 1
    assert 2 <= len(outcomes) - first <= (MAX_PROBES + 1) * intervals
    wait_until(lambda: pool.size <= MAX_PROBES + 1)


def test_a_pool_fills_soon_though_one_of_its_servers_says_a_slot_and_hangs_up(
    slot_server: SlotServers, closing: Closing
) -> None:
    bad = slot_server(hangs_up_after(0.005))
    registry = {str(i): entry(slot_server()) for i in range(3)} | {"bad": entry(bad)}
    rover = closing(Rover(registry, roving_interval=0.5))
    outcomes = counting(rover)
    pool = closing(SlotPool(rover, max_slots=50))
    began = monotonic()
    rover.start()
    wait_until(lambda: [getattr(slot, "server_id", "") for slot, _ in pool.slots()].count("bad"))
    wait_until(lambda: pool.size >= 49, 10)
    # No tick is needed, but for the last one's room that the bad one takes in each.
    assert monotonic() - began < 4 * 0.5
    assert len(outcomes) < 50 + 50


def test_a_suspected_server_is_trusted_again_once_a_connection_lasts(
    slot_server: SlotServers, closing: Closing
) -> None:
    hang_up = True

    def handle(slot: int, sock: Any, address: Any) -> None:
        if not hang_up:
            sock.recv(1)

    rover = closing(Rover({"a": entry(slot_server(handle))}, roving_interval=0.1))
    outcomes = counting(rover)
    pool = closing(SlotPool(rover, max_slots=50))
    rover.start()
    wait_until(lambda: len(outcomes) >= 8)
    hang_up = False
    wait_until(lambda: pool.size == 50, 2)  # 50 ticks would take 5 s.


# Balancing


def fleet(
    closing: Closing, servers: list[SlotServer], *, pools: int, max_slots: int
) -> tuple[list[Rover], list[SlotPool]]:
    """Start rovers with a pool each, all on the same servers."""
    rovers, made = [], []
    for _ in range(pools):
        registry = {str(i): entry(s) for i, s in enumerate(servers)}
        rover = closing(Rover(registry, roving_interval=0.02))
        made.append(closing(SlotPool(rover, max_slots=max_slots)))
        rovers.append(rover)
        rover.start()
    return rovers, made


def level(servers: list[SlotServer]) -> bool:
    """Tell whether all servers have as many pooled connections, give or take one.

    A rover's own attempt is there for a moment, too: hence the limit on the top slot.
    """
    counts = taken(servers)
    return max(counts) - min(counts) <= 2 and abs(sum(counts) - 100) <= 2


def test_ten_pools_of_ten_level_four_servers_through_a_death_and_a_return(
    slot_server: SlotServers, closing: Closing
) -> None:
    servers = [slot_server() for _ in range(4)]
    _, pools = fleet(closing, servers, pools=10, max_slots=10)

    def balanced() -> bool:
        slots = [slot for pool in pools for slot, _ in pool.slots()]
        # 25 of each server: the slots 0 to 24 four times, give or take one.
        return len(slots) == 100 and max(slots) <= 25 and level(servers)

    wait_until(balanced, 30)

    servers[0].stop(0)

    def without_it() -> bool:
        ids = [slot.server_id for pool in pools for slot, _ in pool.slots()]  # type: ignore[attr-defined]
        return len(ids) == 100 and "0" not in ids and max(taken(servers)) <= 36

    wait_until(without_it, 30)
    assert taken(servers)[0] == 0

    servers[0].start()
    wait_until(balanced, 40)


def test_a_server_with_stride_2_draws_half(slot_server: SlotServers, closing: Closing) -> None:
    servers = [slot_server(), slot_server(), slot_server(slots=Slots(stride=2))]
    _, pools = fleet(closing, servers, pools=5, max_slots=10)

    def weighted() -> bool:
        full, other, half = taken(servers)
        return abs(full - 20) <= 2 and abs(other - 20) <= 2 and abs(half - 10) <= 2

    wait_until(lambda: all(pool.size == 10 for pool in pools) and weighted(), 30)


def test_two_pools_on_one_rover_are_an_error(closing: Closing) -> None:
    rover = closing(Rover())
    pool = closing(SlotPool(rover))
    with pytest.raises(PoolError):
        SlotPool(rover)
    pool.close()
    closing(SlotPool(rover))
