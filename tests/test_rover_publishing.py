"""What is published, to whom, and whose the socket is then."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from conftest import Event, Listener, Reported, entry, living_greenlets, wait_until
from gevent import get_hub
from gevent.event import Event as Flag
from gevent.server import StreamServer

from gevent_rover import (
    Attempt,
    NoServersError,
    PoolError,
    ProtocolError,
    Rover,
    Server,
    SlotServer,
    connection,
    error,
)

Rovers = Callable[..., tuple[Rover, list[Event]]]
Servers = Callable[..., Server]


class Watched:
    """A slot server that knows how many of its clients are still connected."""

    def __init__(self, closing: Callable[[Any], Any]) -> None:
        self.connected = 0
        self.served = 0

        def handle(slot: int, sock: Listener, address: Any) -> None:
            self.connected += 1
            self.served += 1
            try:
                while sock.recv(1024):
                    pass
            finally:
                self.connected -= 1

        server = closing(SlotServer(("127.0.0.1", 0), handle))
        server.stop_timeout = 0.0
        server.start()
        self.entry = entry(server)

    def has_lost_all(self) -> bool:
        """Tell whether clients came, and none is left."""
        return self.served > 0 and self.connected == 0


@pytest.fixture
def watched(closing: Callable[[Any], Any]) -> Watched:
    """Give a started slot server that counts its clients."""
    return Watched(closing)


# Whose the socket is


def test_a_socket_without_a_receiver_is_closed(no_leaks: None, watched: Watched) -> None:
    rover = Rover({"a": watched.entry})
    attempts: list[Attempt] = []
    rover.on("attempt", lambda sender, attempt: attempts.append(attempt))
    rover.connect()
    assert attempts[0].outcome == "connection"
    assert attempts[0].slot == 0
    wait_until(watched.has_lost_all)


def test_a_socket_whose_receivers_are_gone_is_closed(no_leaks: None, watched: Watched) -> None:
    rover = Rover({"a": watched.entry})

    def receiver(sender: Rover, slot: int, socket: Listener) -> None:
        raise AssertionError("it is gone")

    connection.connect(receiver, sender=rover)
    del receiver
    rover.connect()
    wait_until(watched.has_lost_all)


def test_a_socket_whose_receivers_all_raised_is_closed(
    no_leaks: None, watched: Watched, reported: Reported
) -> None:
    rover = Rover({"a": watched.entry})
    mistake = ValueError("a mistake")

    async def never_run(sender: Rover, slot: int, socket: Listener) -> None:
        raise AssertionError("nobody runs it")

    def raises(sender: Rover, slot: int, socket: Listener) -> None:
        raise mistake

    rover.on("connection", never_run)
    rover.on("connection", raises)
    rover.connect()
    wait_until(watched.has_lost_all)
    assert {context for context, _ in reported} == {never_run, raises}
    assert {type(failure) for _, failure in reported} == {TypeError, ValueError}


def test_one_receiver_that_returns_owns_the_socket(
    rover_of: Rovers, watched: Watched, reported: Reported
) -> None:
    rover, events = rover_of({"a": watched.entry})

    def raises(sender: Rover, slot: int, socket: Listener) -> None:
        raise ValueError

    rover.on("connection", raises)
    rover.connect()
    assert [context for context, _ in reported] == [raises]
    wait_until(lambda: watched.served)
    gevent.sleep(0.01)
    assert watched.connected == 1
    assert events[0][1]["socket"].fileno() >= 0


@pytest.mark.parametrize("end", ["kill", "timeout"])
def test_what_ends_a_receiver_from_outside_passes_through_and_leaks_nothing(
    no_leaks: None, watched: Watched, reported: Reported, end: str
) -> None:
    rover = Rover({"a": watched.entry})
    receiving = Flag()
    attempts: list[Attempt] = []
    rover.on("attempt", lambda sender, attempt: attempts.append(attempt))

    @rover.on("connection")
    def receive(sender: Rover, slot: int, socket: Listener) -> None:
        receiving.set()
        gevent.sleep(3600)

    if end == "kill":
        call = gevent.spawn(rover.connect)
        receiving.wait()
        call.kill()
        assert isinstance(call.value, gevent.GreenletExit)
    else:
        with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.1) as timeout:
            rover.connect()
        assert caught.value is timeout
    assert rover.pending == 0
    assert attempts == []
    assert reported == []
    wait_until(watched.has_lost_all)


def test_a_kill_while_the_outcome_is_logged_leaks_nothing(
    no_leaks: None, watched: Watched, dead_server: Server
) -> None:
    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logging_now.set()
            gevent.sleep(3600)

    rover = Rover({"a": dead_server})
    rover.connect()
    rover.servers["a"] = watched.entry
    logging_now = Flag()
    log, slow = logging.getLogger("gevent_rover.rover"), Slow()
    level = log.level
    log.addHandler(slow)
    log.setLevel(logging.INFO)
    try:
        call = gevent.spawn(rover.connect)
        logging_now.wait()
        call.kill()
    finally:
        log.removeHandler(slow)
        log.setLevel(level)
    wait_until(watched.has_lost_all)


def test_a_receiver_that_ends_its_greenlet_does_not_end_the_loop(
    no_leaks: None, watched: Watched, reported: Reported
) -> None:
    rover = Rover({"a": watched.entry}, roving_interval=0.01)

    @rover.on("connection")
    def receive(sender: Rover, slot: int, socket: Listener) -> None:
        raise gevent.Timeout

    with rover:
        wait_until(lambda: len(reported) >= 3)
        assert rover.started
    assert rover.pending == 0
    wait_until(watched.has_lost_all)


# Errors


def test_an_error_without_a_live_receiver_is_raised() -> None:
    rover = Rover()
    attempts: list[Attempt] = []
    rover.on("attempt", lambda sender, attempt: attempts.append(attempt))
    with pytest.raises(NoServersError) as caught:
        rover.connect()
    assert attempts[0].error is caught.value
    assert rover.pending == 0


def test_a_receiver_of_error_that_is_gone_is_no_live_one() -> None:
    rover = Rover()

    def receiver(sender: Rover, error: Exception) -> None:
        raise AssertionError("it is gone")

    error.connect(receiver, sender=rover)
    del receiver
    with pytest.raises(NoServersError):
        rover.connect()


def test_a_receiver_of_error_that_raises_is_a_live_one(reported: Reported) -> None:
    rover = Rover()

    def raises(sender: Rover, error: Exception) -> None:
        raise ValueError

    rover.on("error", raises)
    rover.connect()
    assert [context for context, _ in reported] == [raises]


def test_an_error_without_a_receiver_is_printed_in_the_loop_which_goes_on(
    reported: Reported, says: Servers, watched: Watched
) -> None:
    rover = Rover({"a": says(b"foo\r\n")}, roving_interval=0.01)
    with rover:
        wait_until(lambda: len(reported) >= 3)
        assert rover.started
        rover.add_server("a", watched.entry)
        wait_until(lambda: watched.served)
    assert {context for context, _ in reported} == {rover}
    assert {type(failure) for _, failure in reported} == {ProtocolError}


def test_gevent_prints_what_nobody_receives(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[object] = []

    def print_exception(context: object, *exception: Any) -> None:
        printed.append(context)

    monkeypatch.setattr(get_hub(), "print_exception", print_exception)
    with Rover(roving_interval=100.0) as rover:
        wait_until(lambda: printed)
        assert printed == [rover]


# Logs


def test_a_server_is_logged_once_when_it_goes_and_once_when_it_is_back(
    rover_of: Rovers,
    dead_server: Server,
    closing: Callable[[Any], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gevent_rover")
    rover, _ = rover_of({"a": dead_server})
    for _ in range(3):
        rover.connect()
    [gone] = caplog.records
    assert (gone.name, gone.levelname) == ("gevent_rover.rover", "WARNING")
    assert "'a'" in gone.getMessage()
    assert str(dead_server["port"]) in gone.getMessage()
    assert "refused" in gone.getMessage()

    address = dead_server["host"], dead_server["port"]
    closing(StreamServer(address, lambda sock, address: sock.sendall(b"1\r\n"))).start()
    caplog.clear()
    for _ in range(3):
        rover.connect()
    [back] = caplog.records
    assert (back.name, back.levelname) == ("gevent_rover.rover", "INFO")
    assert "'a'" in back.getMessage()
    assert "back" in back.getMessage()

    caplog.clear()
    rover.servers["a"] = {"path": "/nosuch/socket"}
    rover.connect()
    [gone] = caplog.records
    assert gone.levelname == "WARNING"
    assert "No such file" in gone.getMessage()


def test_a_server_that_was_never_away_is_not_logged(
    rover_of: Rovers, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gevent_rover")
    rover, _ = rover_of({"a": watched.entry})
    rover.connect()
    assert caplog.records == []


def test_ids_that_left_the_registry_are_forgotten_by_the_log(
    rover_of: Rovers, dead_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    rover, _ = rover_of()
    for id in ("a", "b", "a"):
        rover.servers.clear()
        rover.servers[id] = dead_server
        rover.connect()
    assert [record.args[0] for record in caplog.records if record.args] == ["a", "b", "a"]  # type: ignore[index]


# What can't be connected, and what is equal


class Slotted:
    """A receiver of which there can be no weak reference."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, sender: Rover, attempt: Attempt) -> None:
        self.calls += 1


@pytest.mark.parametrize("receiver", [42, "receive", Slotted()], ids=["int", "str", "slots"])
def test_what_can_not_be_connected_is_refused_each_time_and_not_remembered(
    rover_of: Rovers, watched: Watched, reported: Reported, receiver: Any
) -> None:
    rover, events = rover_of({"a": watched.entry})
    for _ in range(2):  # What was remembered would be no news the second time.
        with pytest.raises(TypeError, match=r"weak reference|'attempt' must be callable"):
            rover.on("attempt", receiver)
    with pytest.raises(TypeError, match=r"weak reference|'attempt' must be callable"):
        rover.on("attempt")(receiver)
    rover.off("attempt", receiver)
    rover.connect()
    assert [name for name, _ in events] == ["connection", "attempt"]
    assert reported == []
    assert getattr(receiver, "calls", 0) == 0


class Equal:
    """Receivers of which all are equal."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, sender: Rover, attempt: Attempt) -> None:
        self.calls += 1

    def receive(self, sender: Rover, attempt: Attempt) -> None:
        self.calls += 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __hash__(self) -> int:
        return 1


@pytest.mark.parametrize(
    "of", [lambda one: one, lambda one: one.receive], ids=["objects", "methods"]
)
def test_receivers_that_are_equal_are_each_called_and_disconnected(
    rover_of: Rovers, watched: Watched, of: Callable[[Equal], Any]
) -> None:
    rover, _ = rover_of({"a": watched.entry})
    first, second, third = Equal(), Equal(), Equal()
    assert first == second
    for one in (first, second, second):
        rover.on("attempt", of(one))
    rover.connect()
    assert [one.calls for one in (first, second, third)] == [1, 1, 0]
    rover.off("attempt", of(third))
    rover.connect()
    assert [one.calls for one in (first, second, third)] == [2, 2, 0]
    rover.off("attempt", of(first))
    rover.connect()
    assert [one.calls for one in (first, second, third)] == [2, 3, 0]
    rover.on("attempt", of(third))
    rover.off("attempt", of(second))
    rover.connect()
    assert [one.calls for one in (first, second, third)] == [2, 3, 1]


# A demand of the user's own


class Hunger:
    """Wants so many connections, and keeps them."""

    def __init__(self, rover: Rover, number: int) -> None:
        self.number = number
        self.ticks = 0
        self.sockets: list[Listener] = []
        self.supply = rover.attach(self)
        connection.connect(self.take, sender=rover)  # weakly

    def wanted(self) -> int:
        return self.number - len(self.sockets)

    def tick(self) -> None:
        self.ticks += 1

    def take(self, sender: Rover, slot: int, socket: Listener) -> None:
        self.sockets.append(socket)


def test_a_demand_of_the_users_own_gets_what_it_wants(rover_of: Rovers, watched: Watched) -> None:
    rover, events = rover_of({"a": watched.entry}, roving_interval=3600.0)
    demand = Hunger(rover, 5)
    rover.start()
    wait_until(lambda: len(demand.sockets) == 5 and not rover.pending)
    demand.number = 8
    demand.supply.more_wanted()
    wait_until(lambda: len(demand.sockets) == 8 and not rover.pending)
    gevent.sleep(0.05)
    assert [name for name, _ in events].count("attempt") == 8
    assert demand.ticks == 1  # The rest is quick roving's.
    rover.wake()
    wait_until(lambda: demand.ticks == 2)
    wait_until(lambda: len(demand.sockets) == 9 and not rover.pending)  # the tick's own

    supply = demand.supply
    assert supply.servers is rover.servers
    assert supply.interval == 3600.0
    assert "started" in supply.describe() and "'a': connection" in supply.describe()
    supply.lasted("a")
    supply.detach()
    supply.detach()
    demand.number = 100
    supply.more_wanted()
    gevent.sleep(0.05)
    assert len(demand.sockets) == 9
    assert rover.wanted is None


def test_a_demand_that_suspects_a_server_does_not_keep_the_rover_racing(
    rover_of: Rovers, watched: Watched
) -> None:
    rover, events = rover_of({"a": watched.entry}, roving_interval=3600.0)
    demand = Hunger(rover, 1000)

    @rover.on("connection")
    def suspect(sender: Rover, slot: Any, socket: Listener) -> None:
        demand.supply.suspect(slot.server_id)

    rover.start()
    wait_until(lambda: events and not rover.pending)
    gevent.sleep(0.1)
    assert len(demand.sockets) < 5


def test_while_a_demand_is_attached_nobody_else_says_what_is_wanted(rover_of: Rovers) -> None:
    rover, _ = rover_of()
    demand = Hunger(rover, 3)

    def wanted() -> int:
        return 7

    for assigned in (wanted, None):
        with pytest.raises(PoolError, match="has a pool already"):
            rover.wanted = assigned
    with pytest.raises(PoolError, match="has a pool already"):
        Hunger(rover, 1)
    assert rover.wanted is not None
    assert rover.wanted() == 3
    demand.supply.detach()
    rover.wanted = wanted
    assert rover.wanted is wanted
    with pytest.raises(PoolError, match="`wanted` of its own"):
        rover.attach(demand)
    demand.supply.detach()
    assert rover.wanted is wanted
    rover.wanted = None
    assert rover.attach(demand).interval == rover.roving_interval


def test_a_demand_that_is_gone_wants_nothing_and_makes_room_for_another(rover_of: Rovers) -> None:
    rover, _ = rover_of()
    demand = Hunger(rover, 3)
    reference = weakref.ref(demand)
    del demand
    gc.collect()
    assert reference() is None
    assert rover.wanted is None
    another = Hunger(rover, 4)
    assert rover.wanted is not None
    assert rover.wanted() == another.number


def test_a_demand_whose_tick_raises_is_reported_and_the_rover_goes_on(
    rover_of: Rovers, watched: Watched, reported: Reported
) -> None:
    class Failing(Hunger):
        def tick(self) -> None:
            super().tick()
            raise ZeroDivisionError

    rover, events = rover_of({"a": watched.entry}, roving_interval=0.01)
    demand = Failing(rover, 0)
    rover.start()
    wait_until(lambda: demand.ticks >= 3 and len(events) >= 6)
    assert rover.started
    assert {type(failure) for _, failure in reported} == {ZeroDivisionError}


# Calls


def test_connect_works_from_a_receiver(rover_of: Rovers, watched: Watched) -> None:
    rover, events = rover_of({"a": watched.entry})

    @rover.on("connection")
    def again(sender: Rover, slot: int, socket: Listener) -> None:
        rover.off("connection", again)
        rover.connect()

    rover.connect()
    assert [name for name, _ in events].count("connection") == 2
    assert rover.pending == 0


def test_connect_is_not_limited_by_max_pending(
    rover_of: Rovers, talker: Servers, watched: Watched
) -> None:
    rover, events = rover_of({"a": talker()}, max_pending=1, roving_interval=100.0)
    rover.start()
    wait_until(lambda: rover.pending == 1)
    silent = [gevent.spawn(rover.connect) for _ in range(4)]
    wait_until(lambda: rover.pending == 5)
    rover.servers["b"] = watched.entry
    del rover.servers["a"]
    rover.connect()
    assert [name for name, _ in events] == ["connection", "attempt"]
    gevent.killall(silent)
    assert rover.pending == 1


def test_a_receiver_that_kills_its_greenlet_costs_its_own_attempt_only(
    rover_of: Rovers, slot_server: Callable[..., SlotServer]
) -> None:
    rover, _events = rover_of({"a": entry(slot_server())}, roving_interval=3600)
    rover.wanted = lambda: 30 - len(killed)
    killed: list[int] = []

    @rover.on("attempt")
    def kill(sender: Rover, attempt: Attempt) -> None:
        killed.append(1)
        if len(killed) % 3 == 0:
            raise gevent.GreenletExit

    rover.start()
    # Those that had landed beside it are published by somebody else.
    wait_until(lambda: len(killed) >= 10 and not rover.pending)
    for _ in range(40):
        if len(killed) >= 30:
            break
        rover.wake()
        wait_until(lambda: not rover.pending)
        gevent.sleep(0.01)
    assert len(killed) >= 30
    rover.stop()
    wait_until(lambda: not rover._loop.publishers)


def test_greenlets_killed_by_somebody_else_leave_a_rover_that_works(
    rover_of: Rovers, slot_server: Callable[..., SlotServer]
) -> None:
    rover, events = rover_of({"a": entry(slot_server())}, roving_interval=0.01)
    rover.start()
    for _ in range(5):
        before = len(events)
        wait_until(lambda before=before: len(events) > before)  # type: ignore[misc]
        gevent.killall(rover._loop.publishers)
    before = len(events)
    wait_until(lambda: len(events) > before)


def test_a_stopped_rover_has_no_greenlet_left(
    rover_of: Rovers, slot_server: Callable[..., SlotServer]
) -> None:
    rover, events = rover_of({"a": entry(slot_server(lambda *args: None))}, roving_interval=0.01)
    before = living_greenlets()
    for _ in range(3):
        rover.start()
        events.clear()
        wait_until(lambda: len(events) >= 6)
        assert living_greenlets() > before
        rover.stop()
        wait_until(lambda: living_greenlets() <= before)


def test_a_rover_stopped_before_its_first_outcome_is_published_has_no_greenlet_left(
    rover_of: Rovers,
) -> None:
    """The greenlet that would have published it is spawned, but hasn't begun."""
    rover, events = rover_of({"a": {"path": "/nosuch/socket"}}, roving_interval=3600.0)

    def wanted() -> int:
        rover.stop()
        return 0

    rover.wanted = wanted
    before = living_greenlets()
    rover.start()
    wait_until(lambda: not rover.started)
    wait_until(lambda: living_greenlets() <= before)
    assert events == []
