"""The loop: its schedule, its limits, and how it stops."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import pytest
from conftest import Event, Listener, entry, open_descriptors, wait_until
from gevent import get_hub
from gevent.event import Event as Flag
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from gevent_rover import Rover, Server, Slot, SlotServer

Rovers = Callable[..., tuple[Rover, list[Event]]]
Servers = Callable[..., Server]
SlotServers = Callable[..., SlotServer]

# Blocks the hub in a patched process, too.
block = get_original("time", "sleep")


def count(events: list[Event], name: str) -> int:
    """Return how often a signal was sent."""
    return sum(sent == name for sent, _ in events)


# The schedule


def test_one_dead_server_is_three_times_unreachable_within_two_and_a_half_intervals(
    rover_of: Rovers, dead_server: Server
) -> None:
    for _ in range(20):
        rover, events = rover_of({"a": dead_server}, roving_interval=0.1)
        rover.start()
        began = monotonic()
        gevent.sleep(0.25)
        rover.stop()
        if monotonic() - began < 0.3:
            break  # Else the machine was too busy to tell.
    unreachable = [keywords for name, keywords in events if name == "unreachable"]
    # At once, after a part of an interval by chance, and then after each.
    assert len(unreachable) in (3, 4)
    assert all(each == {"id": "a", "server": dead_server} for each in unreachable)


@pytest.mark.integration
def test_the_schedule_does_not_drift_over_40_intervals(rover_of: Rovers) -> None:
    interval = 0.04
    for _ in range(5):
        rover, _ = rover_of(roving_interval=interval)
        ticks: list[float] = []

        @rover.on("attempt")
        def tick(sender: Rover, attempt: object, ticks: list[float] = ticks) -> None:
            ticks.append(monotonic())
            # An interval after this tick the hub is busy. Whoever counts the
            # intervals from tick to tick loses a third of one each time: 13 in all.
            gevent.spawn_later(interval * 0.8, block, interval * 0.53)

        began = monotonic()
        rover.start()
        wait_until(lambda ticks=ticks: len(ticks) >= 40, 30.0)  # type: ignore[misc]
        rover.stop()
        # None comes before its time.
        assert all(tick >= began + interval * (phase - 1) for phase, tick in enumerate(ticks))
        if ticks[39] < began + interval * (40 + 4):
            break  # Else the machine was too busy to tell.
    else:
        pytest.fail("40 ticks took more than 44 intervals")


def test_late_ticks_are_skipped_and_keep_their_phase(
    rover_of: Rovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gevent_rover.roving.loop.random", lambda: 1.0)  # a whole interval
    rover, _ = rover_of(roving_interval=0.1)
    ticks: list[float] = []
    rover.on("attempt", lambda sender, attempt: ticks.append(monotonic()))
    began = monotonic()
    rover.start()
    wait_until(lambda: ticks)
    block(0.45)
    wait_until(lambda: len(ticks) >= 3)
    # One at 0.45 s instead of four, and the next one at its own time.
    assert ticks[1] - began >= 0.45
    assert ticks[2] - began >= 0.5
    if ticks[1] - began < 0.5:
        assert ticks[2] - ticks[1] < 0.1


def test_hung_attempts_do_not_delay_ticks(rover_of: Rovers, silent: Server) -> None:
    rover, events = rover_of({"a": silent}, roving_interval=0.01, timeout=3600.0)
    rover.start()
    wait_until(lambda: rover.pending >= 20)
    assert events == []


def test_starting_a_started_rover_restarts_its_schedule(
    rover_of: Rovers, dead_server: Server
) -> None:
    rover, events = rover_of({"a": dead_server}, roving_interval=3600.0)
    rover.start()
    wait_until(lambda: count(events, "attempt") == 1)
    rover.start()
    wait_until(lambda: count(events, "attempt") == 2)
    gevent.sleep(0.05)
    assert count(events, "attempt") == 2
    rover.stop()
    assert not rover.started


def test_a_stopped_rover_starts_again(rover_of: Rovers, dead_server: Server) -> None:
    rover, events = rover_of({"a": dead_server}, roving_interval=3600.0)
    for attempts in range(1, 4):
        rover.start()
        assert rover.started
        wait_until(lambda attempts=attempts: count(events, "attempt") == attempts)  # type: ignore[misc]
        rover.stop()
        rover.stop()
        assert not rover.started


def test_a_rover_that_is_stopped_at_once_makes_no_attempt(
    rover_of: Rovers, dead_server: Server
) -> None:
    rover, events = rover_of({"a": dead_server}, roving_interval=0.01)
    rover.start()
    rover.stop()
    gevent.sleep(0.05)
    assert events == []


def test_the_context_manager_starts_and_stops(rover_of: Rovers, dead_server: Server) -> None:
    rover, events = rover_of({"a": dead_server}, roving_interval=3600.0)
    with pytest.raises(ZeroDivisionError), rover as entered:
        assert entered is rover
        assert rover.started
        wait_until(lambda: events)
        raise ZeroDivisionError
    assert not rover.started


def test_a_loop_that_was_killed_from_outside_can_be_started_again(
    rover_of: Rovers, dead_server: Server
) -> None:
    rover, events = rover_of({"a": dead_server}, roving_interval=3600.0)

    def kill_the_caller() -> int:
        gevent.kill(gevent.getcurrent())
        return 0

    rover.wanted = kill_the_caller
    rover.start()
    wait_until(lambda: not rover.started)
    rover.wanted = None
    events.clear()
    rover.start()
    wait_until(lambda: events)


def test_a_rover_moves_to_another_thread_after_stop(dead_server: Server) -> None:
    rover = Rover({"a": dead_server}, roving_interval=0.01)
    attempts: list[object] = []
    rover.on("attempt", lambda sender, attempt: attempts.append(attempt))

    def rove() -> None:
        attempts.clear()
        with rover:
            wait_until(lambda: len(attempts) >= 3)

    def rove_with_a_hub_of_its_own() -> None:
        try:
            rove()
        finally:
            get_hub().destroy(destroy_loop=True)

    rove()
    get_hub().threadpool.apply(rove_with_a_hub_of_its_own)
    rove()


def in_a_thread_that_ends(run: Callable[[], object]) -> None:
    """Call ``run`` in a native thread with a hub of its own, and have both end."""
    threads = ThreadPool(1)
    try:
        threads.apply(run)
    finally:
        threads.kill()


def begin_an_attempt(rover: Rover) -> None:
    """Start a rover, and return as soon as it dials."""
    rover.start()
    with gevent.Timeout(5):
        while not rover.pending:
            gevent.sleep(0.001)


def test_a_rover_whose_thread_has_ended_is_not_started_and_starts_in_another(
    closing: Callable[[Any], Any], slot_server: SlotServers
) -> None:
    # Nobody receives the sockets, so the rover closes them, in the thread that made them.
    rover = closing(Rover({"a": entry(slot_server(lambda *args: None))}))
    outcomes: list[str] = []
    rover.on("attempt", lambda sender, attempt: outcomes.append(attempt.outcome))

    def rove() -> None:
        before = len(outcomes)
        rover.start()
        with gevent.Timeout(5):
            # It's the main thread that serves.
            while len(outcomes) < before + 3 or rover.pending:
                gevent.sleep(0.001)
        rover.roving_interval = 3600

    for _ in range(3):
        rover.roving_interval = 0.01
        in_a_thread_that_ends(rove)
        wait_until(lambda: not rover.started)
        assert "stopped" in repr(rover)
    rover.roving_interval = 0.01
    before = len(outcomes)
    rover.start()
    assert rover.started
    wait_until(lambda: len(outcomes) >= before + 3)
    rover.stop()
    in_a_thread_that_ends(rove)
    assert set(outcomes) == {"connection"}


@pytest.mark.parametrize("after", ["start", "stop"])
def test_attempts_that_were_pending_when_their_thread_ended_are_forgotten(
    rover_of: Rovers, silent: Server, dead_server: Server, after: str
) -> None:
    rover, events = rover_of({"a": silent}, roving_interval=3600.0)
    before = open_descriptors()
    in_a_thread_that_ends(lambda: begin_an_attempt(rover))
    wait_until(lambda: not rover.started)
    rover.servers["a"] = dead_server
    getattr(rover, after)()
    rover.start()
    wait_until(lambda: count(events, "unreachable"))
    wait_until(lambda: not rover.pending)
    rover.stop()
    wait_until(lambda: open_descriptors() <= before)


def test_connections_that_wait_for_their_receivers_when_their_thread_ends_are_closed(
    rover_of: Rovers, slot_server: SlotServers
) -> None:
    server = slot_server(lambda slot, sock, address: sock.recv(1))
    rover, _ = rover_of({"a": entry(server)}, roving_interval=3600.0)
    block = get_original("time", "sleep")

    def rove() -> None:
        first = Flag()

        def receive(sender: Rover, slot: Slot, socket: Any) -> None:
            socket.close()
            if rover.pending > 1:
                block(0.01)  # A turn is over, and the main greenlet has the next one.
                first.set()

        rover.on("connection", receive)
        rover.wanted = lambda: 8
        rover.start()
        with gevent.Timeout(5):
            while not first.wait(0.001):
                block(0.01)  # All that began meanwhile are answered at once.

    in_a_thread_that_ends(rove)
    assert rover.pending
    rover.stop()
    wait_until(lambda: not len(server.slots))
    assert rover.pending == 0


def test_a_rover_whose_hub_was_destroyed_is_not_started_and_starts_elsewhere(
    rover_of: Rovers, silent: Server, dead_server: Server
) -> None:
    rover, events = rover_of({"a": silent}, roving_interval=3600.0)

    def rove() -> None:
        begin_an_attempt(rover)
        get_hub().destroy(destroy_loop=True)

    threads = ThreadPool(1)
    try:
        threads.apply(rove)
        assert not rover.started
        rover.wake()  # Nothing, as on any rover that is stopped.
        rover.servers["a"] = dead_server
        rover.start()
        wait_until(lambda: count(events, "unreachable"))
        rover.stop()
    finally:
        threads.kill()


# max_pending


def test_no_more_than_max_pending_attempts_are_in_flight(rover_of: Rovers, talker: Servers) -> None:
    accepted: list[Listener] = []
    release = Flag()

    def talk(sock: Listener) -> None:
        accepted.append(sock)
        release.wait()

    rover, events = rover_of({"a": talker(talk)}, roving_interval=0.05, max_pending=3)
    seen: set[int] = set()

    def full() -> bool:
        seen.add(rover.pending)
        return rover.pending == 3

    rover.start()
    wait_until(full)
    gevent.sleep(0.4)
    assert len(accepted) == 3
    assert max(seen) == rover.pending == 3
    assert events == []
    # The ticks that found no room were skipped: they aren't made up for now.
    release.set()
    wait_until(lambda: rover.pending == 0)
    release.clear()
    wait_until(lambda: rover.pending)
    assert rover.pending == 1


# stop


def test_stop_ends_50_hung_attempts_and_closes_their_sockets_before_it_returns(
    no_leaks: None, rover_of: Rovers, silent: Server
) -> None:
    before = open_descriptors()
    rover, events = rover_of({"a": silent}, roving_interval=0.002, timeout=3600.0)
    rover.start()
    wait_until(lambda: rover.pending >= 50)
    assert len(open_descriptors() - before) >= 49  # The latest may not have begun.
    rover.stop()
    assert rover.pending == 0
    assert open_descriptors() <= before
    gevent.sleep(0.02)
    assert events == []
    assert rover.pending == 0


def test_an_attempt_of_the_loop_whose_server_was_dropped_is_discarded(
    rover_of: Rovers, silent: Server
) -> None:
    rover, events = rover_of({"a": silent}, roving_interval=3600.0, timeout=0.1)
    rover.start()
    wait_until(lambda: rover.pending == 1)
    rover.drop_server("a")
    wait_until(lambda: rover.pending == 0)
    assert [name for name, _ in events] == ["attempt"]
    assert events[0][1]["attempt"].outcome == "discarded"


def test_stop_from_a_receiver(rover_of: Rovers, silent: Server, slot_server: SlotServers) -> None:
    rover, events = rover_of({"a": silent}, roving_interval=0.005, timeout=3600.0)
    finished: list[bool] = []

    @rover.on("connection")
    def stop(sender: Rover, slot: int, socket: Listener) -> None:
        sender.stop()
        finished.append(sender.started)

    rover.start()
    wait_until(lambda: rover.pending >= 3)
    rover.servers["b"] = entry(slot_server())
    del rover.servers["a"]
    wait_until(lambda: finished)
    wait_until(lambda: rover.pending == 0)
    assert finished == [False]
    assert [name for name, _ in events] == ["connection", "attempt"]


@pytest.mark.parametrize("timeout", [None, 10.0])
def test_stop_lets_an_attempt_that_is_publishing_finish(
    rover_of: Rovers, slot_server: SlotServers, timeout: float | None
) -> None:
    rover, events = rover_of({"a": entry(slot_server())}, roving_interval=3600.0)
    receiving, go = Flag(), Flag()

    @rover.on("connection")
    def receive(sender: Rover, slot: int, socket: Listener) -> None:
        receiving.set()
        go.wait()

    rover.start()
    receiving.wait()
    stopping = gevent.spawn(rover.stop, timeout)
    gevent.sleep(0.01)
    assert not rover.started
    assert rover.pending == 1
    assert not stopping.ready()
    go.set()
    stopping.get()
    assert rover.pending == 0
    assert [name for name, _ in events] == ["connection", "attempt"]


def test_stop_does_not_wait_longer_than_it_is_told(
    rover_of: Rovers, slot_server: SlotServers
) -> None:
    rover, events = rover_of({"a": entry(slot_server())}, roving_interval=3600.0)
    receiving, go = Flag(), Flag()

    @rover.on("connection")
    def receive(sender: Rover, slot: int, socket: Listener) -> None:
        receiving.set()
        go.wait()

    rover.start()
    receiving.wait()
    rover.stop(timeout=0.01)
    assert rover.pending == 1
    go.set()
    wait_until(lambda: rover.pending == 0)
    assert [name for name, _ in events] == ["connection", "attempt"]


def test_stop_from_the_hub_does_not_wait(rover_of: Rovers, silent: Server) -> None:
    rover, _ = rover_of({"a": silent}, roving_interval=3600.0)
    rover.start()
    wait_until(lambda: rover.pending == 1)
    get_hub().loop.run_callback(rover.stop)
    wait_until(lambda: not rover.started)
    assert rover.pending == 0


def test_stop_does_not_end_a_call_of_connect(rover_of: Rovers, talker: Servers) -> None:
    go = Flag()

    def talk(sock: Listener) -> None:
        go.wait()
        sock.sendall(b"1\r\n")

    rover, events = rover_of({"a": talker(talk)}, roving_interval=3600.0)
    call = gevent.spawn(rover.connect)
    wait_until(lambda: rover.pending == 1)
    with rover:
        wait_until(lambda: rover.pending == 2)
    assert rover.pending == 1
    go.set()
    call.get()
    assert [name for name, _ in events] == ["connection", "attempt"]


# wake


def test_several_wakes_are_one_tick(rover_of: Rovers, dead_server: Server) -> None:
    rover, events = rover_of({"a": dead_server}, roving_interval=3600.0)
    rover.start()
    wait_until(lambda: count(events, "attempt") == 1)
    for _ in range(200):
        rover.wake()
    wait_until(lambda: count(events, "attempt") >= 2)
    gevent.sleep(0.05)
    assert count(events, "attempt") == 2


def test_a_native_thread_may_wake(rover_of: Rovers, dead_server: Server) -> None:
    rover, events = rover_of({"a": dead_server}, roving_interval=3600.0)
    rover.start()
    wait_until(lambda: count(events, "attempt") == 1)
    for attempts in range(2, 12):
        get_hub().threadpool.apply(rover.wake)
        wait_until(lambda attempts=attempts: count(events, "attempt") == attempts)  # type: ignore[misc]


def test_waking_a_stopped_rover_does_nothing(rover_of: Rovers, dead_server: Server) -> None:
    rover, events = rover_of({"a": dead_server}, roving_interval=3600.0)
    rover.wake()
    gevent.sleep(0.02)
    assert events == []
    rover.start()
    wait_until(lambda: count(events, "attempt") == 1)
    rover.stop()
    rover.wake()
    gevent.sleep(0.02)
    assert count(events, "attempt") == 1


def test_the_schedule_goes_on_from_a_wake(rover_of: Rovers) -> None:
    interval = 0.2
    rover, _ = rover_of(roving_interval=interval)
    ticks: list[float] = []
    rover.on("attempt", lambda sender, attempt: ticks.append(monotonic()))
    rover.start()
    # Halfway between two of them, however long it sleeps; the second one comes early.
    while len(ticks) < 2 or not 0.25 < (monotonic() - ticks[-1]) / interval < 0.75:
        gevent.sleep(interval / 10)
    already = len(ticks)
    woken = monotonic()
    rover.wake()
    wait_until(lambda: len(ticks) >= already + 2)
    # In the old phase there would have been one after half an interval.
    assert ticks[already + 1] >= woken + interval
