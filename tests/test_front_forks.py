"""A process with a front or a relay is forked: the child touches none of the connections."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import gevent
import pytest
import trustme
from certificates import client_context, server_context
from conftest import entry, port_of, wait_until
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer
from test_fork import FORKS, in_child
from test_server_forks import Child

from gevent_rover import Front, Relay, Rover, SlotPool, Slots, SlotServer
from gevent_rover.net.forks import check_fork
from gevent_rover.net.sockets import close_now

pytestmark = pytest.mark.usefixtures("no_leaks")

Closing = Callable[[Any], Any]
Socket = socket.socket

#: In flight both ways while the process forks.
SIZE = 8_000_000


class Setting:
    """A front or a relay, with clients, and all of the sockets that aren't its own.

    A child closes its copies of those, to see what becomes of the others.
    """

    def __init__(self, closing: Closing) -> None:
        self.closing = closing
        self.context: Any = None  # of clients
        self.others: list[Any] = []
        #: What servers said when a connection of theirs ended: how much they had heard.
        self.ended: list[int] = []
        self.server: Any = None

    def echo(self, *args: Any) -> None:
        sock = args[-2]
        self.others.append(sock)
        heard = 0
        try:
            while chunk := sock.recv(65536):
                heard += len(chunk)
                sock.sendall(chunk)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # In a child, which has closed it.
        finally:
            self.others.remove(sock)
            self.ended.append(heard)

    def connect(self) -> Any:
        sock = self.closing(socket.create_connection(("127.0.0.1", port_of(self.server)), 10))
        if self.context is not None:
            sock = self.closing(self.context.wrap_socket(sock, server_hostname="127.0.0.1"))
        self.others.append(sock)
        if isinstance(self.server, Front):
            line = b""
            while not line.endswith(b"\r\n"):
                line += sock.recv(1)
        return sock

    def descriptors(self) -> list[int]:
        """Return those that are the server's own: of both sides."""
        return [side.fileno() for pump in self.server.pumps for side in (pump.near, pump.far)]

    def let_go_of_others(self) -> None:
        for sock in self.others:
            close_now(sock)


@pytest.fixture(params=["front", "front, TLS", "relay"])
def setting(request: Any, closing: Closing, slot_server: Callable[..., SlotServer]) -> Setting:
    setting = Setting(closing)
    options: dict[str, Any] = {}
    if "TLS" in request.param:
        authority = trustme.CA()
        options["ssl_context"] = server_context(authority.issue_cert("127.0.0.1"))
        setting.context = client_context(authority)
    if request.param == "relay":
        server = slot_server(setting.echo)
        rover = closing(Rover({"server": entry(server)}, roving_interval=0.05))
        pool: Any = closing(SlotPool(rover, max_slots=3))
        rover.start()
        wait_until(lambda: pool.idle == 3)
        # Nothing but what the test is about goes on.
        rover.stop()
        setting.server = Relay(("127.0.0.1", 0), pool)
    else:
        backend = closing(StreamServer(("127.0.0.1", 0), setting.echo))
        backend.start()
        setting.server = Front(("127.0.0.1", 0), entry(backend), **options)
    closing(setting.server).start()
    return setting


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def assert_echoes(sock: Any, said: bytes = b"still here") -> None:
    sock.sendall(said)
    got = b""
    while len(got) < len(said):
        chunk = sock.recv(len(said) - len(got))
        assert chunk
        got += chunk
    assert got == said


def echo_much(sock: Any, progress: list[int]) -> None:
    """Have much echoed; a switch between each two pieces."""
    said = random.randbytes(SIZE)
    sender = gevent.spawn(sock.sendall, said)
    seen = 0
    while seen < SIZE:
        chunk = sock.recv(65536)
        assert chunk == said[seen : seen + len(chunk)]
        assert chunk, f"the end behind {seen} bytes"
        seen += len(chunk)
        progress[0] = seen
        gevent.sleep(0)
    sender.get(timeout=10)


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
def test_a_fork_disturbs_no_connection_of_the_parents(
    setting: Setting, fork: Callable[[], int]
) -> None:
    idle, busy = setting.connect(), setting.connect()
    assert_echoes(idle)
    progress = [0]
    transfer = gevent.spawn(echo_much, busy, progress)
    wait_until(lambda: progress[0] > SIZE // 10)
    descriptors = setting.descriptors()
    assert len(descriptors) == 4

    def tell(child: Child) -> Any:
        transfer.kill(block=False)
        setting.let_go_of_others()
        started = setting.server.started  # A fork in C is noticed here.
        still_open = [descriptor for descriptor in descriptors if is_open(descriptor)]
        child.say([started, still_open, len(setting.server.pumps), len(setting.server.connections)])
        child.run_hub_until_the_end()
        return [setting.server.started, len(setting.server.connections)]

    child = Child(fork, tell)
    try:
        assert child.hear() == [False, [], 0, 0]
        assert 0 < progress[0] < SIZE
        # While the child runs its hub, all goes on.
        transfer.get(timeout=30)
        for sock in (idle, busy):
            assert_echoes(sock)
        assert_echoes(setting.connect())
        assert child.lives()
    finally:
        last = child.end()
    assert last == [False, 0]


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
@pytest.mark.parametrize("ending", ["client", "stop"])
def test_both_sides_see_the_end_although_a_child_lives(
    setting: Setting, fork: Callable[[], int], ending: str
) -> None:
    sock = setting.connect()
    assert_echoes(sock, b"hello")

    def tell(child: Child) -> None:
        if fork is FORKS["hookless"]:
            child.hear()  # It never learns of the fork, and has copies of all there is.
        else:
            setting.let_go_of_others()
            child.run_hub_until_the_end()

    child = Child(fork, tell)
    try:
        if ending == "stop":
            setting.server.stop(timeout=0)
        elif setting.context is not None:
            sock.unwrap()  # Behind this it's plain TCP.
        else:
            sock.shutdown(socket.SHUT_WR)
        assert sock.recv(10) == b""
        # Others of the pool's, which were of no use, may have ended before.
        wait_until(lambda: [heard for heard in setting.ended if heard] == [5])
        wait_until(lambda: not len(setting.server.connections))
        assert child.lives()
    finally:
        child.end()


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
def test_a_fork_between_the_backend_and_the_slot_costs_the_parent_nothing(
    fork: Callable[[], int], closing: Closing
) -> None:
    class LateSlots(Slots):
        def take(self) -> int | None:
            taking.set()
            go_on.wait()
            return super().take()

    def echo(sock: Any, address: Any) -> None:
        while chunk := sock.recv(65536):
            sock.sendall(chunk)

    taking, go_on = Event(), Event()
    backend = closing(StreamServer(("127.0.0.1", 0), echo))
    backend.start()
    front = closing(Front(("127.0.0.1", 0), entry(backend), slots=LateSlots()))
    front.start()
    sock = closing(socket.create_connection(("127.0.0.1", port_of(front)), 10))
    taking.wait()

    def tell() -> bool:
        check_fork()
        go_on.set()
        gevent.sleep(0.1)  # The copies of the parent's greenlets come to their end.
        return True

    assert in_child(fork, tell)
    go_on.set()
    assert sock.recv(3) == b"0\r\n"
    assert_echoes(sock)
