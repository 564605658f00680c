"""What runs out: descriptors, room for attempts, and the hub's time."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import gevent
import pytest
from conftest import Event, Listener, attempt_of, entry, names, open_descriptors, wait_until
from gevent import socket
from gevent.event import Event as Flag
from gevent.monkey import get_original
from gevent.subprocess import PIPE
from namespaces import Told, process, roving

from gevent_rover import Attempt, Rover, Server, SlotServer

Rovers = Callable[..., tuple[Rover, list[Event]]]
SlotServers = Callable[..., SlotServer]

# Blocks the hub in a patched process, too.
block = get_original("time", "sleep")


def echo(slot: int, sock: Listener, address: object) -> None:
    try:
        while data := sock.recv(1024):
            sock.sendall(data)
    except ConnectionResetError:
        pass


def port_said(server: Any) -> Server:
    """Return the entry of a ``gevent-rover serve`` that has just been started."""
    port = int(server.stdout.readline().rpartition(b":")[2])
    return {"host": "127.0.0.1", "port": port}


# Descriptors


def test_a_pool_out_of_descriptors_works_with_what_it_has_and_fills_up_later(
    slot_server: SlotServers,
) -> None:
    server = entry(slot_server(echo))
    command = roving(
        servers={"a": server}, roving_interval=0.05, max_slots=60, descriptors=100, timeout=20
    )
    with process(*command, stdin=PIPE) as started:
        client = Told(started)
        client.tell("start")
        client.hear_until(slot=9)
        client.tell("take")
        # How many attempts it made until it heard that, nobody knows.
        heard = client.hear_until(error="ResourceError")
        assert heard[-1]["errno"] == errno.EMFILE
        client.tell("lease")
        heard = client.hear_until(echoed="ping")
        client.tell("give")
        heard += client.hear_until(slot=59)
        # Nothing of this was the server's fault.
        assert {thing.get("outcome", "connection") for thing in heard} <= {"connection", "error"}


def test_a_name_that_is_not_looked_up_for_want_of_descriptors_is_an_error_of_ours() -> None:
    servers = {"a": {"host": "localhost", "port": 1}}
    with process(*roving(servers=servers, descriptors=100), stdin=PIPE) as started:
        client = Told(started)
        for _ in range(2):  # The first lookup of a process, and one that isn't.
            client.tell("take")
            assert client.hear()["taken"]
            attempt = client.connect()
            assert (attempt["error"], attempt["errno"]) == ("ResourceError", errno.EMFILE)
            client.tell("give")
            assert client.connect()["error"] == "ConnectionRefusedError"


@pytest.mark.integration
def test_a_server_out_of_descriptors_looks_silent_and_gives_every_slot_back(
    rover_of: Rovers, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "gevent_rover", "serve", "127.0.0.1:0"]
    complaints = tmp_path / "stderr"
    with (
        complaints.open("wb") as stderr,
        process("sh", "-c", 'ulimit -n 40 && exec "$@"', "sh", *command, stderr=stderr) as started,
    ):
        rover, events = rover_of({"a": port_said(started)}, timeout=0.5)

        def fill() -> int:
            """Make attempts until one finds no slot; return how many slots there were."""
            events.clear()
            while attempt_of(rover, events).outcome == "connection":
                pass
            slots = [keywords["slot"] for name, keywords in events if name == "connection"]
            assert slots == list(range(len(slots)))
            return len(slots)

        def empty() -> None:
            for name, keywords in events:
                if name == "connection":
                    keywords["socket"].close()

        slots = fill()
        assert 10 < slots < 40
        for _ in range(2):
            assert isinstance(attempt_of(rover, events).error, TimeoutError)
        empty()
        # It looks for a free descriptor once a second, and finds at first those
        # connections that were given up meanwhile.
        rover.timeout = 10.0

        for _ in range(200):
            slot = attempt_of(rover, events).slot
            empty()
            if slot == 0:
                break
            gevent.sleep(0.01)
        rover.timeout = 0.5
        assert fill() == slots
        empty()
    # gevent says so each time it tries, and it takes its time.
    assert 1 <= complaints.read_text().count("Too many open files") < 100


# Room for attempts


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """Allow this process as many descriptors as it may have, and give their number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.integration
def test_10_000_attempts_that_hang_leave_the_hub_free(
    many_descriptors: int, closing: Callable[[Any], Any]
) -> None:
    most = min(10_000, many_descriptors - 1000)
    servers: dict[str, Server] = {}
    for number in range(8):
        listener = closing(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        servers[str(number)] = {"host": "127.0.0.1", "port": listener.getsockname()[1]}
    before = open_descriptors()
    rover = closing(Rover(servers, roving_interval=3600, timeout=3600, max_pending=most))
    attempts: list[Attempt] = []
    rover.on("attempt", lambda sender, attempt: attempts.append(attempt))
    lags: list[float] = []

    def measure() -> None:
        while True:
            began = monotonic()
            gevent.sleep(0.005)
            lags.append(monotonic() - began - 0.005)

    def wake(times: int) -> None:
        # The loop's own timer has a resolution of a millisecond, and would take 6 s.
        for _ in range(times):
            rover.wake()
            gevent.sleep(0)

    measuring = gevent.spawn(measure)
    rover.start()
    with gevent.Timeout(40):
        while rover.pending < most:
            wake(100)
    wake(200)
    gevent.sleep(0.5)
    measuring.kill()
    assert rover.pending == most
    assert len(open_descriptors() - before) == most
    assert attempts == []
    # Measured: 0.5 ms, and 50 ms at worst.
    assert len(lags) > 50
    assert median(lags) < 0.05
    rover.stop()
    assert rover.pending == 0
    assert open_descriptors() <= before
    gevent.sleep(0)
    assert attempts == []


# The hub's time


def test_receivers_that_wait_delay_no_other_attempt_up_to_max_pending(
    rover_of: Rovers, slot_server: SlotServers
) -> None:
    rover, events = rover_of({"a": entry(slot_server())}, roving_interval=0.01, max_pending=5)
    go = Flag()
    waiting: list[int] = []

    @rover.on("connection")
    def wait(sender: Rover, slot: int, socket: Listener) -> None:
        waiting.append(slot)
        go.wait()

    rover.start()
    wait_until(lambda: len(waiting) == 5)
    gevent.sleep(0.1)
    assert waiting == [0, 1, 2, 3, 4]
    assert rover.pending == 5
    assert "attempt" not in names(events)
    # Not by those: this one has the caller's own greenlet.
    call = gevent.spawn(rover.connect)
    wait_until(lambda: len(waiting) == 6)
    go.set()
    call.get()
    wait_until(lambda: names(events).count("attempt") > 6)


def test_an_attempt_hangs_as_long_as_it_may_though_a_receiver_blocks_the_hub(
    rover_of: Rovers, dead_server: Server, closing: Callable[[Any], Any]
) -> None:
    listener = closing(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(10)
    silent: Server = {"host": "127.0.0.1", "port": listener.getsockname()[1]}
    short, short_events = rover_of({"a": silent}, timeout=0.2)
    long, long_events = rover_of({"a": silent}, timeout=3600)
    calls = [gevent.spawn(short.connect), gevent.spawn(long.connect)]
    wait_until(lambda: short.pending == long.pending == 1)
    blocking, _ = rover_of({"a": dead_server})
    blocking.on("unreachable", lambda sender, id, server: block(0.5))
    blocking.connect()
    # Its time was up while the hub was blocked, and not a moment more is granted.
    calls[0].join(timeout=0.1)
    assert isinstance(short_events[-1][1]["attempt"].error, TimeoutError)
    assert short_events[-1][1]["attempt"].elapsed >= 0.2
    assert long_events == []
    assert long.pending == 1
    gevent.killall(calls)


def test_a_slot_line_that_arrived_while_a_receiver_blocked_the_hub_counts(
    rover_of: Rovers, dead_server: Server
) -> None:
    with process(sys.executable, "-m", "gevent_rover", "serve", "127.0.0.1:0") as started:
        rover, events = rover_of({"a": port_said(started)}, timeout=0.5)
        # It answers from the moment on at which the hub is blocked.
        started.send_signal(signal.SIGSTOP)
        wait_until(lambda: state_of(started.pid) == "T")
        call = gevent.spawn(rover.connect)
        wait_until(lambda: rover.pending)
        blocking, _ = rover_of({"a": dead_server})

        @blocking.on("unreachable")
        def receive(sender: Rover, id: str, server: Server) -> None:
            os.kill(started.pid, signal.SIGCONT)
            block(1.0)

        blocking.connect()
        call.join()
        assert names(events) == ["connection", "attempt"]


def state_of(pid: int) -> str:
    """Return the state of a process, a letter: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
