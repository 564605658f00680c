"""Quick roving: while connections are wanted, the rover doesn't wait for its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from conftest import Event, Listener, Reported, entry, open_descriptors, wait_until
from gevent import socket

from gevent_rover import Rover, Server, SlotServer
from gevent_rover.policy.pacing import HANGS_AFTER, MAX_FAILURES

Rovers = Callable[..., tuple[Rover, list[Event]]]
Servers = Callable[..., Server]
SlotServers = Callable[..., SlotServer]


def outcomes(events: list[Event]) -> list[str]:
    """Return the outcomes of the attempts, in order."""
    return [keywords["attempt"].outcome for name, keywords in events if name == "attempt"]


def wants(rover: Rover, events: list[Event], number: int) -> None:
    """Let ``rover`` want ``number`` connections."""
    rover.wanted = lambda: number - outcomes(events).count("connection")


def test_a_deficit_is_filled_without_waiting_for_an_interval(
    rover_of: Rovers, slot_server: SlotServers
) -> None:
    servers = {str(number): entry(slot_server()) for number in range(10)}
    rover, events = rover_of(servers, roving_interval=3600.0)
    wants(rover, events, 50)
    rover.start()
    wait_until(lambda: len(outcomes(events)) >= 50)
    wait_until(lambda: rover.pending == 0)
    # What is on its way counts, so no more is fetched than wanted.
    assert outcomes(events) == ["connection"] * 50


def test_a_deficit_is_filled_in_one_interval_though_each_slot_line_takes_long(
    rover_of: Rovers, closing: Callable[[Any], Any]
) -> None:
    """Longer than what counts as hanging: TLS to another continent, say."""

    @contextmanager
    def wait(sock: socket.socket, address: object) -> Iterator[None]:
        gevent.sleep(HANGS_AFTER * 1.5)
        yield

    def handle(slot: int, sock: socket.socket, address: object, prepared: None) -> None:
        sock.recv(1)

    server = closing(SlotServer(("127.0.0.1", 0), handle, prepare=wait))
    server.stop_timeout = 0
    server.start()
    rover, events = rover_of({"far": entry(server)}, roving_interval=3600.0)
    wants(rover, events, 20)
    rover.start()
    wait_until(lambda: len(outcomes(events)) >= 20, 20)
    assert outcomes(events) == ["connection"] * 20


def test_a_deficit_is_filled_though_half_of_the_servers_are_dead_or_silent(
    rover_of: Rovers, slot_server: SlotServers, talker: Servers, dead_server: Server
) -> None:
    servers = {f"good {number}": entry(slot_server()) for number in range(6)}
    servers |= {f"dead {number}": dead_server for number in range(3)}
    servers |= {f"silent {number}": talker() for number in range(3)}
    rover, events = rover_of(servers, roving_interval=3600.0, timeout=3600.0)
    wants(rover, events, 50)
    rover.start()
    wait_until(lambda: outcomes(events).count("connection") >= 50)


def test_nothing_wanted_is_one_attempt_an_interval(
    rover_of: Rovers, slot_server: SlotServers
) -> None:
    rover, events = rover_of({"a": entry(slot_server())}, roving_interval=3600.0)
    rover.wanted = lambda: 0
    rover.start()
    wait_until(lambda: events)
    gevent.sleep(0.3)
    assert outcomes(events) == ["connection"]


def test_a_dead_fleet_of_one_gets_one_attempt_an_interval(
    rover_of: Rovers, dead_server: Server
) -> None:
    rover, events = rover_of({"a": dead_server}, roving_interval=3600.0)
    rover.wanted = lambda: 100
    rover.start()
    wait_until(lambda: events)
    gevent.sleep(0.3)
    assert outcomes(events) == ["unreachable"]
    rover.wake()
    wait_until(lambda: len(outcomes(events)) == 2)
    gevent.sleep(0.3)
    assert outcomes(events) == ["unreachable"] * 2


def test_failures_in_a_row_end_it_until_a_tick_succeeds(
    rover_of: Rovers, dead_server: Server, slot_server: SlotServers
) -> None:
    rover, events = rover_of(dict.fromkeys("abcdefghijklmnopqrst", dead_server))
    rover.roving_interval = 3600.0
    rover.wanted = lambda: 100
    rover.start()
    wait_until(lambda: len(outcomes(events)) == MAX_FAILURES)
    for attempts in range(MAX_FAILURES, MAX_FAILURES + 3):
        gevent.sleep(0.15)
        assert len(outcomes(events)) == attempts
        rover.wake()
        wait_until(lambda attempts=attempts: len(outcomes(events)) > attempts)  # type: ignore[misc]
    rover.servers.clear()
    rover.servers["a"] = entry(slot_server())
    events.clear()
    wants(rover, events, 10)
    rover.wake()
    wait_until(lambda: outcomes(events) == ["connection"] * 10)


def test_an_empty_registry_ends_it_until_the_next_tick(rover_of: Rovers) -> None:
    rover, events = rover_of(roving_interval=3600.0)
    rover.wanted = lambda: 100
    rover.start()
    wait_until(lambda: events)
    gevent.sleep(0.15)
    assert outcomes(events) == ["error"]


def test_a_registry_emptied_amid_quick_roving_is_an_error_of_ticks_only(
    rover_of: Rovers, slot_server: SlotServers
) -> None:
    rover, events = rover_of({"a": entry(slot_server())}, roving_interval=3600.0)
    wants(rover, events, 1000)

    @rover.on("connection")
    def empty(sender: Rover, slot: int, socket: Listener) -> None:
        if len(outcomes(events)) == 40:  # the window is wide by then
            rover.servers.clear()

    rover.start()
    wait_until(lambda: not rover.servers and not rover.pending)
    gevent.sleep(0.15)
    assert "error" not in outcomes(events)
    rover.wake()
    wait_until(lambda: "error" in outcomes(events))
    gevent.sleep(0.15)
    assert outcomes(events).count("error") == 1


@pytest.mark.parametrize("wanted", [lambda: 1 // 0, lambda: None], ids=["raises", "nonsense"])
def test_a_wanted_that_fails_is_reported_and_the_rover_goes_on(
    rover_of: Rovers, slot_server: SlotServers, reported: Reported, wanted: Callable[[], int]
) -> None:
    rover, events = rover_of({"a": entry(slot_server())}, roving_interval=0.02)
    rover.wanted = wanted
    rover.start()
    wait_until(lambda: len(outcomes(events)) >= 4)
    assert rover.started
    assert {context for context, _ in reported} == {wanted}


@pytest.mark.parametrize("looks", [1, 2, 3, 5, 8, 13])
def test_a_wanted_that_stops_the_rover_stops_it(
    rover_of: Rovers, slot_server: SlotServers, looks: int
) -> None:
    rover, events = rover_of({"a": entry(slot_server())}, roving_interval=3600.0)
    looked = published = 0

    def wanted() -> int:
        nonlocal looked, published
        looked += 1
        if looked == looks:
            rover.stop()
            published = len(events)
        return 50

    rover.wanted = wanted
    rover.start()
    wait_until(lambda: not rover.started)
    assert rover.pending == 0
    gevent.sleep(0.05)
    assert rover.pending == 0
    assert len(events) == published


def test_who_stops_the_rover_in_its_own_loop_is_not_killed_for_it(
    rover_of: Rovers, dead_server: Server
) -> None:
    rover, _ = rover_of({"a": dead_server}, roving_interval=3600.0)
    went_on: list[bool] = []

    def wanted() -> int:
        rover.stop()
        gevent.sleep(0.001)  # A handler of signal.signal may wait here.
        went_on.append(rover.started)
        return 1

    rover.wanted = wanted
    rover.start()
    wait_until(lambda: went_on)
    gevent.sleep(0.01)
    assert (went_on, rover.pending) == ([False], 0)


def test_stop_ends_a_quick_attempt_that_hangs(
    no_leaks: None, rover_of: Rovers, slot_server: SlotServers, closing: Callable[[Any], Any]
) -> None:
    listener = closing(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    rover, events = rover_of({"good": entry(slot_server())}, roving_interval=3600.0)
    rover.wanted = lambda: 1

    @rover.on("connection")
    def receive(sender: Rover, slot: int, socket: Listener) -> None:
        rover.servers["silent"] = {"host": "127.0.0.1", "port": listener.getsockname()[1]}
        del rover.servers["good"]

    rover.start()
    # The greenlet that fetched the first one goes on with the second.
    wait_until(lambda: outcomes(events) and rover.pending == 1)
    connected, _ = listener.accept()
    before = open_descriptors()
    rover.stop()
    assert rover.pending == 0
    assert len(before - open_descriptors()) == 1
    assert connected.recv(1) == b""
    connected.close()
    assert outcomes(events) == ["connection"]


def test_calls_of_connect_leave_the_pace_alone(
    rover_of: Rovers, slot_server: SlotServers, dead_server: Server
) -> None:
    servers: dict[str, Server] = {"dead": dead_server}
    rover, events = rover_of(servers, roving_interval=3600.0)
    rover.wanted = lambda: 0
    rover.start()
    wait_until(lambda: len(outcomes(events)) == 1)
    servers["good"] = servers.pop("dead")
    for _ in range(3 * MAX_FAILURES):
        rover.connect()
    servers["good"] = entry(slot_server())
    events.clear()
    wants(rover, events, 5)
    wait_until(lambda: outcomes(events) == ["connection"] * 5)
