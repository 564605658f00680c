"""Each number that a user passes in or assigns: what isn't valid is refused by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from conftest import Event, entry, wait_until
from gevent import socket

from gevent_rover import Front, PoolTimeout, Relay, Rover, Server, SlotPool, Slots, SlotServer

Rovers = Callable[..., tuple[Rover, list[Event]]]
SlotServers = Callable[..., SlotServer]

BACKEND: Server = {"host": "127.0.0.1", "port": 1}
HUGE = 10**5000  # with more digits than Python writes
NO_NUMBER: list[Any] = [math.nan, True, False, "1", b"1", 1j, [1], object]
#: How long something may take: longer than nothing, and not for ever.
NO_SECONDS: list[Any] = [*NO_NUMBER, 0, -1, 0.0, -0.5, math.inf, -math.inf, HUGE, None]
#: How long to wait: 0 or less is not at all, and None, inf or a huge number for ever.
NO_TIMEOUT: list[Any] = NO_NUMBER
NO_INT: list[Any] = [*NO_NUMBER, 1.0, 1.5, math.inf, -math.inf]
NO_COUNT: list[Any] = [*NO_INT, 0, -1, None]


def handle(slot: int, sock: Any, address: Any) -> None:
    """Serve a connection at once."""


def refused(name: str) -> Any:
    """Return what fails unless a ``ValueError`` or ``TypeError`` is raised that says ``name``."""
    return pytest.raises((ValueError, TypeError), match=rf"\b{name}\b")


def described(value: Any) -> str:
    if value in (HUGE, -HUGE):
        return "huge" if value > 0 else "-huge"
    return repr(value)


def each(table: dict[str, tuple[Any, str, list[Any]]]) -> Any:
    """Parametrize with a thing, the name of its number, and a value that isn't valid."""
    return pytest.mark.parametrize(
        ("thing", "name", "bad"),
        [
            pytest.param(thing, name, bad, id=f"{id}-{described(bad)}")
            for id, (thing, name, all_bad) in table.items()
            for bad in all_bad
        ],
    )


# Constructors

CONSTRUCTORS: dict[str, tuple[Any, str, list[Any]]] = {
    "Rover(roving_interval)": (
        lambda bad: Rover(roving_interval=bad),
        "roving_interval",
        NO_SECONDS,
    ),
    "Rover(timeout)": (lambda bad: Rover(timeout=bad), "timeout", NO_SECONDS),
    "Rover(max_pending)": (lambda bad: Rover(max_pending=bad), "max_pending", NO_COUNT),
    "SlotPool(max_slots)": (lambda bad: SlotPool(max_slots=bad), "max_slots", NO_COUNT),
    "SlotServer(backlog)": (
        lambda bad: SlotServer(("127.0.0.1", 0), handle, backlog=bad),
        "backlog",
        [*NO_INT, -1, None],
    ),
    "SlotServer(spawn)": (
        lambda bad: SlotServer(("127.0.0.1", 0), handle, spawn=bad),
        "spawn",
        [True, False, 0, -1],
    ),
    "Front(connect_timeout)": (
        lambda bad: Front(("127.0.0.1", 0), BACKEND, connect_timeout=bad),
        "connect_timeout",
        NO_SECONDS,
    ),
    "Front(keepalive)": (
        lambda bad: Front(("127.0.0.1", 0), BACKEND, keepalive=bad),
        "keepalive",
        [*NO_NUMBER, 0, -1, math.inf, HUGE, 40000],
    ),
    "Relay(timeout)": (
        lambda bad: Relay(("127.0.0.1", 0), SlotPool(), timeout=bad),
        "timeout",
        NO_TIMEOUT,
    ),
    "Relay(keepalive)": (
        lambda bad: Relay(("127.0.0.1", 0), SlotPool(), keepalive=bad),
        "keepalive",
        [*NO_NUMBER, 0, -1, math.inf, HUGE, 40000],
    ),
    "Slots(stride)": (lambda bad: Slots(stride=bad), "stride", [*NO_COUNT, HUGE]),
    "Slots(offset)": (lambda bad: Slots(offset=bad), "offset", [*NO_INT, -1, None, HUGE]),
    "Slots(limit)": (lambda bad: Slots(limit=bad), "limit", [*NO_INT, 0, -1]),
}


@each(CONSTRUCTORS)  # type: ignore[untyped-decorator]
def test_a_constructor_refuses_what_is_not_valid(
    thing: Callable[[Any], object], name: str, bad: Any
) -> None:
    with refused(name):
        thing(bad)


@pytest.mark.parametrize("bad", [1.5, math.nan, math.inf, "2"])
def test_a_way_to_spawn_that_is_a_number_but_no_size_is_refused(bad: Any) -> None:
    """Else each connection would fail with a ``'float' object is not callable``."""
    with refused("spawn"):
        SlotServer(("127.0.0.1", 0), handle, spawn=bad)


@pytest.mark.parametrize("option", ["spawn", "backlog"])
def test_an_option_of_a_server_that_no_c_int_holds_is_refused(option: str) -> None:
    options: dict[str, Any] = {option: HUGE}
    with refused(option):
        SlotServer(("127.0.0.1", 0), handle, **options)


# Those that can be assigned while everything runs


class Running:
    """A rover with a pool and its server, all at work."""

    def __init__(self, closing: Callable[[Any], Any]) -> None:
        self.slots = Slots(limit=20)

        def wait(slot: int, sock: Any, address: Any) -> None:
            while sock.recv(1024):
                pass

        self.server = closing(SlotServer(("127.0.0.1", 0), wait, slots=self.slots))
        self.server.stop_timeout = 0.0
        self.server.start()
        servers: dict[str, Server] = {"a": entry(self.server)}
        self.rover = closing(Rover(servers, roving_interval=0.01))
        self.pool = closing(SlotPool(self.rover, max_slots=2))
        self.attempts = 0
        self.rover.on("attempt", self._count)
        self.rover.start()
        wait_until(lambda: self.pool.size == 2)

    def _count(self, sender: Rover, attempt: object) -> None:
        self.attempts += 1

    def goes_on(self) -> bool:
        """Wait until the rover has ticked again, and lease a connection."""
        before = self.attempts
        wait_until(lambda: self.attempts >= before + 3)
        with self.pool.lease(0):
            return bool(self.rover.started and self.server.started)


@pytest.fixture
def running(closing: Callable[[Any], Any]) -> Running:
    return Running(closing)


ATTRIBUTES: dict[str, tuple[Any, str, list[Any]]] = {
    "rover.roving_interval": (lambda running: running.rover, "roving_interval", NO_SECONDS),
    "rover.timeout": (lambda running: running.rover, "timeout", NO_SECONDS),
    "rover.max_pending": (lambda running: running.rover, "max_pending", NO_COUNT),
    "rover.stop_timeout": (lambda running: running.rover, "stop_timeout", NO_TIMEOUT),
    "pool.max_slots": (lambda running: running.pool, "max_slots", NO_COUNT),
    "server.handshake_timeout": (lambda running: running.server, "handshake_timeout", NO_SECONDS),
    "server.stop_timeout": (lambda running: running.server, "stop_timeout", NO_TIMEOUT),
    "slots.stride": (lambda running: running.slots, "stride", [*NO_COUNT, HUGE]),
    "slots.limit": (lambda running: running.slots, "limit", [*NO_INT, 0, -1]),
}


@pytest.mark.parametrize("id", ATTRIBUTES)
def test_an_attribute_refuses_what_is_not_valid_and_all_goes_on(running: Running, id: str) -> None:
    of, name, all_bad = ATTRIBUTES[id]
    thing = of(running)
    before = getattr(thing, name)
    for bad in all_bad:
        with refused(name):
            setattr(thing, name, bad)
        assert getattr(thing, name) == before
        assert type(getattr(thing, name)) is type(before)
    assert running.goes_on()
    setattr(thing, name, before)
    assert running.goes_on()


def test_the_offset_of_slots_can_not_be_assigned() -> None:
    slots = Slots(offset=3)
    with pytest.raises(AttributeError):
        slots.offset = 5  # type: ignore[misc]
    assert (slots.offset, slots.take()) == (3, 3)


@pytest.mark.parametrize("bad", [True, False, 0, -1, 1.5, math.nan, "2"])
def test_another_way_to_spawn_that_is_no_size_is_refused_and_the_server_goes_on(
    running: Running, bad: Any
) -> None:
    before = running.server.pool
    with refused("spawn"):
        running.server.set_spawn(bad)
    assert running.server.pool is before
    assert running.goes_on()


# Methods

METHODS: dict[str, Callable[[Running, Any], object]] = {
    "pool.acquire": lambda running, bad: running.pool.acquire(bad),
    "pool.lease": lambda running, bad: running.pool.lease(bad),
    "rover.stop": lambda running, bad: running.rover.stop(bad),
    "server.stop": lambda running, bad: running.server.stop(bad),
}


@pytest.mark.parametrize("id", METHODS)
def test_a_timeout_that_is_not_valid_is_refused_before_anything_is_done(
    running: Running, id: str
) -> None:
    for bad in NO_TIMEOUT:
        with refused("timeout"):
            METHODS[id](running, bad)
        assert (running.pool.idle, running.pool.leased, running.pool.waiting) == (2, 0, 0)
    assert running.goes_on()


@pytest.mark.parametrize("bad", [*NO_INT, -1, None])
def test_a_slot_that_is_not_valid_is_refused_and_the_socket_stays_the_callers(
    closing: Callable[[Any], Any], bad: Any
) -> None:
    pool = closing(SlotPool())
    mine, peer = (closing(end) for end in socket.socketpair())
    with refused("slot"):
        pool.offer(bad, mine)
    assert pool.size == 0
    mine.sendall(b"?")
    assert peer.recv(1) == b"?"


# Numbers at the edge that are valid


@pytest.mark.parametrize("timeout", [-math.inf, -1, -HUGE, 0, 0.0, -0.0], ids=described)
def test_a_timeout_of_0_or_less_is_not_at_all(
    closing: Callable[[Any], Any], timeout: float
) -> None:
    pool = closing(SlotPool())
    switched: list[bool] = []
    gevent.spawn(switched.append, True)
    with pytest.raises(PoolTimeout):
        pool.acquire(timeout)
    assert not switched


@pytest.mark.parametrize("timeout", [None, math.inf, 1e300, HUGE], ids=described)
def test_a_timeout_of_more_than_anybody_can_wait_is_for_ever(
    closing: Callable[[Any], Any], timeout: float | None
) -> None:
    pool = closing(SlotPool())
    waiter = gevent.spawn(pool.acquire, timeout)
    wait_until(lambda: pool.waiting)
    gevent.sleep(0.02)
    assert pool.waiting == 1
    mine, _peer = (closing(end) for end in socket.socketpair())
    pool.offer(0, mine)
    assert waiter.get(timeout=5) is mine


def test_the_stop_timeout_of_nothing_is_for_ever(closing: Callable[[Any], Any]) -> None:
    rover, server = Rover(), SlotServer(("127.0.0.1", 0), handle)
    for thing in (rover, server):
        for timeout in (None, math.inf, HUGE):
            thing.stop_timeout = timeout
            assert thing.stop_timeout is None
        for timeout in (0, -1, 0.5):
            thing.stop_timeout = timeout
            assert thing.stop_timeout == timeout


def test_a_nan_leaves_the_timers_of_the_hub_alone(closing: Callable[[Any], Any]) -> None:
    """A timer of NaN seconds would keep all that come after it from firing."""
    pool = closing(SlotPool())
    for call in (pool.acquire, pool.lease):
        with refused("timeout"):
            call(math.nan)
    fired: list[int] = []
    timers = [gevent.spawn_later(delay / 1000, fired.append, delay) for delay in (9, 3, 6)]
    gevent.joinall(timers, timeout=5)
    assert fired == [3, 6, 9]


@pytest.mark.parametrize("interval", [5e-324, 1e-300, 1e-9])
def test_the_shortest_interval_ticks_and_lets_others_run(
    rover_of: Rovers, slot_server: SlotServers, interval: float
) -> None:
    server = slot_server(handle)
    rover, events = rover_of({"a": entry(server)}, roving_interval=interval)
    rover.start()
    for _ in range(50):
        before = len(events)
        gevent.sleep(0.001)
        wait_until(lambda before=before: len(events) > before)  # type: ignore[misc]
    assert rover.started
    assert {keywords["attempt"].outcome for name, keywords in events if name == "attempt"} == {
        "connection"
    }
    rover.roving_interval = 3600
    wait_until(lambda: not rover.pending)
    rover.stop()


@pytest.mark.parametrize("interval", [1e9, 292 * 365 * 86400.0])
def test_the_longest_interval_ticks_once(
    rover_of: Rovers, slot_server: SlotServers, interval: float
) -> None:
    rover, events = rover_of(
        {"a": entry(slot_server())}, roving_interval=interval, timeout=interval
    )
    rover.start()
    wait_until(lambda: len(events) == 2)
    gevent.sleep(0.05)
    assert [name for name, _ in events] == ["connection", "attempt"]
