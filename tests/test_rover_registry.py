"""The rover's registry, its receivers, and its state from outside."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from conftest import Event, Listener, entry, wait_until
from gevent import get_hub
from gevent.event import Event as Flag
from gevent.monkey import get_original

from gevent_rover import (
    InvalidServerError,
    NoServersError,
    Rover,
    Server,
    SlotServer,
    connection,
)

Rovers = Callable[..., tuple[Rover, list[Event]]]
Servers = Callable[..., Server]
SlotServers = Callable[..., SlotServer]


def names(events: list[Event]) -> list[str]:
    """Return the names of the signals that were sent."""
    return [name for name, _ in events]


# The constructor, and what a rover shows of itself


@pytest.mark.parametrize("name", ["roving_interval", "timeout"])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, "1", None])
def test_a_time_that_is_no_positive_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Rover(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "1", None])
def test_a_max_pending_that_is_no_positive_int_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="max_pending"):
        Rover(max_pending=value)


def test_the_options_are_keyword_only_with_documented_defaults() -> None:
    with pytest.raises(TypeError):
        Rover({}, 1.0)  # type: ignore[call-arg]
    rover = Rover()
    assert (rover.roving_interval, rover.timeout, rover.max_pending) == (1.0, 5.0, 64)
    assert rover.servers == {}
    assert rover.wanted is None


def test_repr_is_the_state(rover_of: Rovers, talker: Servers) -> None:
    rover, _ = rover_of({"a": talker(), "b": talker()}, roving_interval=100.0)
    assert repr(rover) == "<Rover stopped servers=2 pending=0>"
    rover.start()
    assert repr(rover) == "<Rover started servers=2 pending=0>"
    wait_until(lambda: rover.pending)
    assert repr(rover) == "<Rover started servers=2 pending=1>"
    rover.stop()
    assert repr(rover) == "<Rover stopped servers=2 pending=0>"


def test_pending_counts_the_calls_of_connect_too(rover_of: Rovers, talker: Servers) -> None:
    rover, _ = rover_of({"a": talker()})
    calls = [gevent.spawn(rover.connect) for _ in range(3)]
    wait_until(lambda: rover.pending == 3)
    gevent.killall(calls)
    assert rover.pending == 0


# The registry


def test_the_registry_is_the_very_dict_that_was_passed_in() -> None:
    servers: dict[str, Server] = {}
    rover = Rover(servers)
    assert rover.servers is servers
    server: Server = {"host": "127.0.0.1", "port": 80}
    rover.add_server("a", server)
    assert servers["a"] is server
    rover.drop_server("a")
    rover.drop_server("a")
    assert servers == {}


def test_an_entry_is_replaced_under_the_same_id(
    rover_of: Rovers, slot_server: SlotServers, dead_server: Server
) -> None:
    rover, events = rover_of({"a": dead_server})
    rover.connect()
    server = entry(slot_server())
    rover.add_server("a", server)
    assert rover.servers == {"a": server}
    for _ in range(5):
        rover.connect()
    assert names(events) == ["unreachable", "attempt"] + ["connection", "attempt"] * 5


def test_a_dropped_server_is_not_picked(rover_of: Rovers, dead_server: Server) -> None:
    rover, events = rover_of({"a": dead_server, "b": dead_server})
    rover.drop_server("a")
    for _ in range(20):
        rover.connect()
    assert {keywords["id"] for name, keywords in events if name == "unreachable"} == {"b"}


def test_an_invalid_server_is_not_added() -> None:
    rover = Rover()
    with pytest.raises(InvalidServerError) as caught:
        rover.add_server("a", {"host": "127.0.0.1", "port": 65_536 + 80})
    assert caught.value.id == "a"
    assert rover.servers == {}


@pytest.mark.parametrize("server", [{"host": "127.0.0.1", "port": 0}, None, "127.0.0.1:80", {}])
def test_an_invalid_entry_put_in_directly_is_an_error_when_picked(
    rover_of: Rovers, server: Any
) -> None:
    rover, events = rover_of({"a": server})
    rover.connect()
    assert names(events) == ["error", "attempt"]
    failure = events[0][1]["error"]
    assert isinstance(failure, InvalidServerError)
    assert failure.id == "a"
    assert failure.server is server


def test_an_empty_registry_is_an_error_and_the_rover_goes_on(
    rover_of: Rovers, slot_server: SlotServers
) -> None:
    rover, events = rover_of(roving_interval=0.01)
    rover.start()
    wait_until(lambda: names(events).count("error") >= 3)
    failure = events[0][1]["error"]
    assert isinstance(failure, NoServersError)
    assert (failure.id, failure.server) == (None, None)
    record = events[1][1]["attempt"]
    assert (record.id, record.server, record.outcome) == (None, None, "error")
    rover.add_server("a", entry(slot_server()))
    wait_until(lambda: "connection" in names(events))


@pytest.mark.parametrize("change", ["dropped", "replaced"])
@pytest.mark.parametrize("end", ["slot line", "nonsense", "end"])
def test_an_attempt_whose_server_goes_meanwhile_is_discarded(
    no_leaks: None,
    rover_of: Rovers,
    talker: Servers,
    dead_server: Server,
    change: str,
    end: str,
) -> None:
    accepted, go, closed = Flag(), Flag(), Flag()

    def talk(sock: Listener) -> None:
        accepted.set()
        go.wait()
        if end != "end":
            sock.sendall(b"1\r\n" if end == "slot line" else b"foo")
            assert sock.recv(1) == b""
        closed.set()

    server = talker(talk)
    rover, events = rover_of({"a": server})
    call = gevent.spawn(rover.connect)
    accepted.wait()
    if change == "dropped":
        rover.drop_server("a")
    else:
        rover.add_server("a", dead_server)
    go.set()
    call.get()
    assert names(events) == ["attempt"]
    record = events[0][1]["attempt"]
    assert (record.id, record.outcome, record.slot, record.error) == (
        "a",
        "discarded",
        None,
        None,
    )
    assert record.server is server
    assert closed.wait(5.0)


def test_an_attempt_whose_server_was_replaced_by_an_equal_entry_counts(
    rover_of: Rovers, talker: Servers
) -> None:
    accepted, go = Flag(), Flag()

    def talk(sock: Listener) -> None:
        accepted.set()
        go.wait()
        sock.sendall(b"1\r\n")

    server = talker(talk)
    rover, events = rover_of({"a": server})
    call = gevent.spawn(rover.connect)
    accepted.wait()
    rover.add_server("a", server.copy())
    go.set()
    call.get()
    assert names(events) == ["connection", "attempt"]


def test_a_native_thread_may_churn_the_registry(no_leaks: None, slot_server: SlotServers) -> None:
    server = entry(slot_server())
    rover = Rover({"stays": server})
    outcomes: list[str] = []
    rover.on("connection", lambda sender, slot, socket: socket.close())
    rover.on("attempt", lambda sender, attempt: outcomes.append(attempt.outcome))
    pause = get_original("time", "sleep")
    turns = 0

    def churn() -> None:
        nonlocal turns
        while len(outcomes) < 1000:
            for number in range(20):
                rover.servers[str(number)] = {**server, "server_hostname": str(turns)}
                pause(0)
            for number in range(20):
                rover.drop_server(str(number))
            turns += 1
            pause(0.0001)

    churning = get_hub().threadpool.spawn(churn)
    for _ in range(1000):
        rover.connect()
    churning.get()
    assert len(outcomes) == 1000
    assert set(outcomes) <= {"connection", "discarded"}
    assert outcomes.count("connection") > 0
    assert turns > 0


# Receivers


def test_on_keeps_a_lambda_alive_until_off(rover_of: Rovers, slot_server: SlotServers) -> None:
    rover, _ = rover_of({"a": entry(slot_server())})
    calls: list[int] = []
    receiver = rover.on("attempt", lambda sender, attempt: calls.append(1))
    rover.on("attempt", lambda sender, attempt: calls.append(2))
    gc.collect()
    rover.connect()
    assert sorted(calls) == [1, 2]
    rover.off("attempt", receiver)
    rover.off("attempt", receiver)
    rover.connect()
    assert sorted(calls) == [1, 2, 2]


def test_on_is_a_decorator_that_returns_the_receiver(
    rover_of: Rovers, slot_server: SlotServers
) -> None:
    rover, _ = rover_of({"a": entry(slot_server())})
    slots: list[int] = []

    def plain(sender: Rover, slot: int, socket: Listener) -> None:
        slots.append(slot)

    assert rover.on("connection")(plain) is plain
    assert rover.on("connection")(plain) is plain
    rover.connect()
    assert slots == [0]


def test_on_takes_a_bound_method(rover_of: Rovers, slot_server: SlotServers) -> None:
    class Watcher:
        def __init__(self) -> None:
            self.calls = 0

        def receive(self, sender: Rover, attempt: object) -> None:
            self.calls += 1

    rover, _ = rover_of({"a": entry(slot_server())})
    watcher = Watcher()
    rover.on("attempt", watcher.receive)
    rover.on("attempt", watcher.receive)
    rover.connect()
    assert watcher.calls == 1
    rover.off("attempt", watcher.receive)
    rover.connect()
    assert watcher.calls == 1


def test_on_is_for_this_rover_alone(rover_of: Rovers, slot_server: SlotServers) -> None:
    server = entry(slot_server())
    one, of_one = rover_of({"a": server})
    two, of_two = rover_of({"a": server})
    senders: list[object] = []

    def any_rover(sender: Rover, slot: int, socket: Listener) -> None:
        senders.append(sender)

    connection.connect(any_rover)
    try:
        one.connect()
        assert (len(of_one), len(of_two)) == (2, 0)
        two.connect()
    finally:
        connection.disconnect(any_rover)
    assert (len(of_one), len(of_two)) == (2, 2)
    assert senders == [one, two]


def test_an_unknown_signal_is_refused() -> None:
    rover = Rover()
    with pytest.raises(ValueError, match=r"'connected'.*connection, unreachable, error, attempt"):
        rover.on("connected")
    with pytest.raises(ValueError, match="connected"):
        rover.on("connected", print)
    with pytest.raises(ValueError, match="connected"):
        rover.off("connected", print)


@pytest.mark.parametrize("run", [False, True])
def test_a_rover_that_nobody_refers_to_can_be_collected(
    slot_server: SlotServers, run: bool
) -> None:
    class Owner:
        def __init__(self, servers: dict[str, Server]) -> None:
            self.rover = Rover(servers, roving_interval=0.01)
            self.attempts = 0
            self.rover.on("connection", lambda sender, slot, socket: socket.close())
            self.rover.on("attempt", self.count)
            self.rover.on("error", lambda sender, error: self.count)

        def count(self, sender: Rover, attempt: object) -> None:
            self.attempts += 1

    owner = Owner({"a": entry(slot_server())})
    if run:
        with owner.rover:
            wait_until(lambda: owner.attempts >= 3)  # noqa: F821 (deleted below)
    rover, other = weakref.ref(owner.rover), weakref.ref(owner)
    del owner

    def collected() -> bool:
        gc.collect()
        return rover() is None and other() is None

    # What the hub still holds of a greenlet that has just ended, it soon drops.
    wait_until(collected)
