"""Servers that are processes of their own: stopped, killed, restarted."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import Event, wait_until
from gevent import socket
from gevent.subprocess import PIPE
from namespaces import process

from gevent_rover import Rover, Server, SlotPool

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent

# One process that starts the server anew, as often as it's told: a fork takes
# milliseconds, a new interpreter half a second. It has no hub of its own.
RESTARTS = """
import os, signal, sys
from gevent_rover import SlotServer

def serve(port):
    server = SlotServer(("127.0.0.1", port), answer)
    server.start()
    print(os.getpid(), server.server_port, flush=True)
    server.serve_forever()

def answer(slot, socket, address):
    try:
        while socket.recv(4) == b"pid?":
            socket.sendall(b"%10d" % os.getpid())
    except ConnectionResetError:
        pass

child = None
for line in sys.stdin:
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    child = os.fork()
    if not child:
        serve(int(line))
if child:
    os.kill(child, signal.SIGKILL)
"""


@contextmanager
def restarting() -> Iterator[Any]:
    """Run that, and have it end, and the server with it."""
    with process(sys.executable, "-c", RESTARTS, stdin=PIPE) as started:
        try:
            yield started
        finally:
            started.stdin.close()
            started.wait(timeout=10)


@pytest.fixture
def serving() -> Iterator[tuple[Any, Server]]:
    """Give a process that serves slots and echoes, and its entry of the registry."""
    with process(sys.executable, "-m", "gevent_rover", "serve", "127.0.0.1:0") as started:
        port = int(started.stdout.readline().rpartition(b":")[2])
        yield started, {"host": "127.0.0.1", "port": port}


def attempts_of(events: list[Event]) -> list[Any]:
    return [keywords["attempt"] for name, keywords in events if name == "attempt"]


def echo(sock: socket.socket, said: bytes) -> bytes:
    sock.sendall(said)
    with gevent.Timeout(5):
        return sock.recv(len(said))


def test_attempts_at_a_stopped_server_time_out_until_it_continues(
    rover_of: Callable[..., tuple[Rover, list[Event]]], serving: tuple[Any, Server]
) -> None:
    server_process, server = serving
    rover, events = rover_of({"server": server}, roving_interval=0.05)
    rover.connect()
    assert [attempt.outcome for attempt in attempts_of(events)] == ["connection"]
    rover.timeout = 0.2

    server_process.send_signal(signal.SIGSTOP)
    wait_until(lambda: state_of(server_process.pid) == "T")
    events.clear()
    with rover:
        wait_until(lambda: len(attempts_of(events)) >= 5)
        outcomes = {(a.outcome, type(a.error)) for a in attempts_of(events)}
        assert outcomes == {("unreachable", TimeoutError)}

        rover.timeout = 5.0
        server_process.send_signal(signal.SIGCONT)
        wait_until(lambda: attempts_of(events)[-1].outcome == "connection", timeout=10)
    # Nothing that was given up keeps a slot: the lowest ones come again.
    for name, keywords in events:
        if name == "connection":
            keywords["socket"].close()
    events.clear()

    def next_slot() -> int:
        rover.connect()
        name, keywords = events[-2]
        assert name == "connection"
        keywords["socket"].close()
        return int(keywords["slot"])

    # 0 is held by the very first connection.
    wait_until(lambda: next_slot() == 1)


def state_of(pid: int) -> str:
    """Return the state letter of a process."""
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]


def test_a_server_killed_with_leases_out_costs_those_leases_only(
    closing: Callable[[Any], Any], serving: tuple[Any, Server], slot_server: Callable[..., Any]
) -> None:
    server_process, server = serving
    rover = closing(Rover({"doomed": server}, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=5))
    rover.start()
    wait_until(lambda: pool.idle == 5)
    leased = [pool.acquire(), pool.acquire(), pool.acquire()]
    assert [echo(sock, b"PING") for sock in leased] == [b"PING"] * 3

    server_process.kill()
    server_process.wait()
    # The idle ones are gone without anybody's doing, the leased ones stay their users'.
    wait_until(lambda: pool.idle == 0)
    assert (pool.size, pool.leased, pool.retired) == (3, 3, 0)
    waiter = gevent.spawn(pool.acquire, 20)
    wait_until(lambda: pool.waiting == 1)
    for sock in leased:
        assert not sock.closed
        with pytest.raises((ConnectionResetError, BrokenPipeError, EOFError)):
            for _ in range(2):
                if not echo(sock, b"PING"):
                    raise EOFError
        pool.discard(sock)
    assert (pool.size, pool.leased, pool.waiting) == (0, 0, 1)

    # Another server takes over, and who waited is served.
    other = slot_server()
    rover.add_server("other", {"host": "127.0.0.1", "port": other.server_port})
    rover.drop_server("doomed")
    sock = waiter.get(timeout=20)
    assert sock.getpeername() == ("127.0.0.1", other.server_port)
    pool.release(sock)
    wait_until(lambda: pool.idle == 5)


def test_a_server_restarted_on_its_port_100_times_is_found_each_time(
    closing: Callable[[Any], Any],
) -> None:
    with restarting() as restarts:

        def restart(port: int) -> tuple[int, int]:
            restarts.stdin.write(b"%d\n" % port)
            restarts.stdin.flush()
            pid, port = map(int, restarts.stdout.readline().split())
            return pid, port

        pid, port = restart(0)
        server: Server = {"host": "127.0.0.1", "port": port}
        rover = closing(Rover({"server": server}, roving_interval=0.01))
        pool = closing(SlotPool(rover, max_slots=3))
        rover.start()
        pids = {pid}
        for _ in range(100):
            with pool.lease(timeout=20) as sock:
                sock.sendall(b"pid?")
                assert int(sock.recv(10)) == pid
            previous, (pid, port) = pid, restart(port)
            assert pid != previous
            assert port == server["port"]
            pids.add(pid)
            # The old connections ended before this process began: nobody may
            # get one of them, whether the hub has noticed their end or not.
        with pool.lease(timeout=20) as sock:
            sock.sendall(b"pid?")
            assert int(sock.recv(10)) == pid
        assert (pool.leased, pool.retired, pool.waiting) == (0, 0, 0)
        assert len(pids) == 101
