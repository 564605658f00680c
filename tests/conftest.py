"""Fixtures that the tests share: registries, servers, and ways to wait for something."""

from __future__ import annotations

import gc
import os
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import greenlet
import pytest
from gevent import socket, subprocess
from gevent.server import StreamServer

from gevent_rover import Attempt, Rover, Server, Slot, SlotPool, SlotServer

ROOT = Path(__file__).parents[1]

Listener = socket.socket
Event = tuple[str, dict[str, Any]]
Reported = list[tuple[object, BaseException]]

#: A server that nobody connects to: its connections are offered (TEST-NET-1, RFC 5737).
OFFERED: Server = {"host": "192.0.2.1", "port": 1}

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, leave no TIME_WAIT


def pytest_collection_finish() -> None:
    """Spare the collector what was imported: it would be looked through for each test."""
    gc.collect()
    gc.freeze()


def wait_until(predicate: Callable[[], object], timeout: float = 5.0) -> None:
    """Return as soon as ``predicate`` holds; fail when it doesn't within ``timeout`` seconds."""
    with gevent.Timeout(timeout, AssertionError(f"waited {timeout} s in vain")):
        while not predicate():
            gevent.sleep(0.005)


def open_descriptors() -> set[int]:
    """Return this process's open descriptors."""
    names = os.listdir("/proc/self/fd")
    # The listing's own was closed meanwhile.
    return {int(name) for name in names if os.path.lexists(f"/proc/self/fd/{name}")}


def living_greenlets() -> set[gevent.Greenlet[..., Any]]:
    """Return all of gevent's greenlets that aren't dead."""
    return {
        thing for thing in gc.get_objects() if isinstance(thing, gevent.Greenlet) and not thing.dead
    }


def run_benchmark(module: str, *arguments: object, **environ: str) -> str:
    """Run ``python -m MODULE`` in the checkout, see it end well, and return what it printed."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert isinstance(result.stdout, str)
    return result.stdout


def record(rover: Rover) -> list[Event]:
    """Record all that ``rover`` publishes, in order, and keep the sockets open."""
    events: list[Event] = []
    for name in ("connection", "unreachable", "error", "attempt"):

        def receiver(sender: Rover, name: str = name, **keywords: Any) -> None:
            assert sender is rover
            events.append((name, keywords))

        rover.on(name, receiver)
    return events


def names(events: list[Event]) -> list[str]:
    """Return the names of the signals that were sent, in order."""
    return [name for name, _ in events]


def attempt_of(rover: Rover, events: list[Event]) -> Attempt:
    """Make one attempt, and return what ``attempt`` carried."""
    rover.connect()
    name, keywords = events[-1]
    assert name == "attempt"
    record = keywords["attempt"]
    assert isinstance(record, Attempt)
    return record


def kill_at_every_switch(rover: Rover, events: list[Event]) -> int:
    """Kill attempts, each at the next switch of any greenlet, until one has an outcome.

    :returns: how many were killed.
    """
    killed = 0
    while True:
        before = open_descriptors()
        call = gevent.spawn(rover.connect)
        switches = 0

        def kill_at_switch(event: str, args: Any, call: Any = call, at: int = killed) -> None:
            nonlocal switches
            switches += 1
            if switches == at:
                call.kill(block=False)

        if killed == 0:
            call.kill(block=False)
        previous = greenlet.settrace(kill_at_switch)
        try:
            call.join()
        finally:
            greenlet.settrace(previous)
        assert rover.pending == 0
        if events:
            return killed
        wait_until(partial(_have_closed_all_but, before))
        killed += 1


def _have_closed_all_but(descriptors: set[int]) -> bool:
    return open_descriptors() <= descriptors


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Reported:
    """Give the list of what is reported through the hub: pairs of context and exception."""
    reported: Reported = []

    def handle_error(context: object, kind: Any, value: BaseException, tb: Any) -> None:
        assert kind is type(value)
        reported.append((context, value))

    monkeypatch.setattr(gevent.get_hub(), "handle_error", handle_error)
    return reported


@pytest.fixture
def closing() -> Iterator[Callable[[Any], Any]]:
    """Give a function that has what it's given closed (or stopped) after the test."""
    things: list[Any] = []

    def closing(thing: Any) -> Any:
        things.append(thing)
        return thing

    yield closing
    for thing in reversed(things):
        # close() is less than stop() for a server, and all there is for most others.
        whole = not isinstance(thing, StreamServer) and hasattr(type(thing), "close")
        (thing.close if whole else thing.stop)()


@pytest.fixture
def offer(closing: Callable[[Any], Any]) -> Callable[..., socket.socket]:
    """Give a function that offers a pool a connection to :data:`OFFERED`.

    It returns the peer's end. The pool must take it, unless ``kept`` is False.
    """

    def offer(
        pool: SlotPool[Any], slot: int = 0, id: str = "web", *, kept: bool = True
    ) -> socket.socket:
        mine, peer = (closing(end) for end in socket.socketpair())
        assert pool.offer(Slot(slot, id, OFFERED), mine) is kept
        return peer  # type: ignore[no-any-return]

    return offer


@pytest.fixture
def rover_of(closing: Callable[[Any], Any]) -> Callable[..., tuple[Rover, list[Event]]]:
    """Give a function that makes a rover and the list of what it publishes.

    The rover is stopped after the test, and the sockets it published are closed.
    """

    def rover_of(servers: dict[str, Server] | None = None, **options: Any) -> Any:
        rover = Rover(servers, **options)
        events = record(rover)
        rover.on("connection", lambda sender, slot, socket: closing(socket))
        closing(rover)
        return rover, events

    return rover_of


@pytest.fixture
def talker(closing: Callable[[Any], Any]) -> Callable[..., Server]:
    """Give a function that starts a server whose connections are handled by ``talk(socket)``.

    It returns the registry entry. The default says nothing and holds the connection
    until the client closes it.
    """

    def talker(talk: Callable[[Listener], object] = lambda sock: sock.recv(1)) -> Server:
        def handle(sock: Listener, address: Any) -> None:
            try:
                talk(sock)
            except OSError:
                pass

        server = closing(StreamServer(("127.0.0.1", 0), handle, spawn=10_000))
        server.stop_timeout = 0.0
        server.start()
        return {"host": "127.0.0.1", "port": server.server_port}

    return talker


@pytest.fixture
def says(talker: Callable[..., Server]) -> Callable[..., Server]:
    """Give a function that starts a server that says ``line`` and waits for the client's end."""

    def says(line: bytes) -> Server:
        def talk(sock: Listener) -> None:
            sock.sendall(line)
            while sock.recv(1024):
                pass

        return talker(talk)

    return says


@pytest.fixture
def slot_server(closing: Callable[[Any], Any]) -> Callable[..., SlotServer]:
    """Give a function that starts a SlotServer; its default handler waits for the client's end."""

    def slot_server(handle: Any = None, **options: Any) -> SlotServer:
        def wait(slot: int, sock: Listener, address: Any) -> None:
            while sock.recv(1024):
                pass

        server = closing(SlotServer(("127.0.0.1", 0), handle or wait, **options))
        server.stop_timeout = 0.0
        server.start()
        assert isinstance(server, SlotServer)
        return server

    return slot_server


@pytest.fixture
def processes() -> Iterator[list[Any]]:
    """Give a list: processes in it are ended after the test, and their pipes closed."""
    processes: list[Any] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def rover(closing: Callable[[Any], Any], slot_server: Callable[..., SlotServer]) -> Rover:
    """Give a rover that roves one slot server, ``web1``, twenty times a second."""
    rover = closing(Rover({"web1": entry(slot_server())}, roving_interval=0.05))
    rover.start()
    assert isinstance(rover, Rover)
    return rover


@pytest.fixture
def pool(closing: Callable[[Any], Any], rover: Rover) -> SlotPool[Any]:
    """Give its pool, of two connections, which are there."""
    pool = closing(SlotPool(rover, max_slots=2))
    pool.wait_ready()
    assert isinstance(pool, SlotPool)
    return pool


def entry(server: StreamServer) -> Server:
    """Return the registry entry of a started server."""
    return {"host": "127.0.0.1", "port": port_of(server)}


def port_of(server: StreamServer) -> int:
    """Return the port that a started server listens on."""
    port = server.server_port
    assert port is not None
    return port


@pytest.fixture
def dead_server(closing: Callable[[Any], Any]) -> Server:
    """Give the entry of a port where nobody listens, and which no other process is given.

    A server that is told this very port gets it.
    """
    sock = closing(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return {"host": "127.0.0.1", "port": sock.getsockname()[1]}


@pytest.fixture
def full_backlog(closing: Callable[[Any], Any]) -> Server:
    """Give a server whose backlog is full: a connection to it stays on its way."""
    listener = closing(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    host, port = listener.getsockname()
    for _ in range(2):
        filler = closing(socket.socket())
        filler.setblocking(False)
        filler.connect_ex((host, port))
    gevent.sleep(0.05)
    return {"host": host, "port": port}


@pytest.fixture
def silent(closing: Callable[[Any], Any]) -> Server:
    """Give the entry of a server whose kernel connects, and which says nothing at all."""
    listener = closing(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(500)
    return {"host": "127.0.0.1", "port": listener.getsockname()[1]}


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail unless the test leaves as many descriptors open as it found, with the collector off."""
    gevent.sleep(0.01)
    gc.collect()
    gc.disable()
    before = open_descriptors()
    try:
        yield
        wait_until(lambda: open_descriptors() <= before)
    finally:
        gc.enable()
