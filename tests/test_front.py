"""A front: slots for a server that knows nothing of them."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import Event, attempt_of, entry, names, port_of, wait_until
from gevent import socket
from gevent.server import StreamServer
from test_server import read_all, read_slot_line

from gevent_rover import Front, InvalidServerError, Rover, Server, SlotPool, Slots

pytestmark = pytest.mark.usefixtures("no_leaks")

Closing = Callable[[Any], Any]
Rovers = Callable[..., tuple[Rover, list[Event]]]
Fronts = Callable[..., Front]
Connect = Callable[[Front], tuple[int, Any]]

RESET = struct.pack("ii", 1, 0)


class Backend(StreamServer):
    """A server that knows nothing of slots: it echoes, and remembers its connections."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.echo)
        self.seen: list[Any] = []
        #: Said first to each.
        self.greeting = b""

    def echo(self, sock: Any, address: Any) -> None:
        self.seen.append(sock)
        sock.sendall(self.greeting)
        try:
            while data := sock.recv(65536):
                sock.sendall(data)
        except OSError:
            pass


@pytest.fixture
def backend(closing: Closing) -> Backend:
    backend = closing(Backend())
    backend.start()
    assert isinstance(backend, Backend)
    return backend


@pytest.fixture
def front_of(closing: Closing) -> Fronts:
    """Give a function that starts a front."""

    def front_of(backend: Backend | Server, **options: Any) -> Front:
        where = entry(backend) if isinstance(backend, Backend) else backend
        front = closing(Front(("127.0.0.1", 0), where, **options))
        front.stop_timeout = 0
        front.start()
        assert isinstance(front, Front)
        return front

    return front_of


@pytest.fixture
def connect(closing: Closing) -> Connect:
    """Give a function that connects to a front, and reads the slot line."""

    def connect(front: Front) -> tuple[int, Any]:
        sock = closing(socket.create_connection(("127.0.0.1", port_of(front)), timeout=5))
        slot = read_slot_line(sock)
        assert slot is not None
        return slot, sock

    return connect


def ask(sock: Any, data: bytes) -> bytes:
    sock.sendall(data)
    answer = b""
    while len(answer) < len(data):
        answer += sock.recv(65536)
    return answer


def test_connections_have_slots_and_reach_the_backend(
    front_of: Fronts, backend: Backend, connect: Connect
) -> None:
    front = front_of(backend)
    clients = [connect(front) for _ in range(3)]
    assert [slot for slot, _ in clients] == [0, 1, 2]
    for number, (_, sock) in enumerate(clients):
        assert ask(sock, b"hello %d" % number) == b"hello %d" % number
    clients[1][1].close()
    wait_until(lambda: len(front.slots) == 2)
    assert connect(front)[0] == 1
    assert (front.served, front.unreachable) == (4, 0)


def test_stride_offset_and_limit_are_those_of_its_slots(
    front_of: Fronts, backend: Backend, connect: Connect
) -> None:
    front = front_of(backend, slots=Slots(stride=2, offset=1, limit=2))
    assert [connect(front)[0] for _ in range(2)] == [1, 3]
    with socket.create_connection(("127.0.0.1", port_of(front)), timeout=5) as sock:
        assert sock.recv(1) == b""
    wait_until(lambda: len(backend.seen) == 3 and backend.seen[2].closed)


def test_a_backend_that_speaks_first_is_heard_behind_the_slot_line(
    front_of: Fronts, backend: Backend, connect: Connect
) -> None:
    backend.greeting = b"220 ready\r\n"
    _, sock = connect(front_of(backend))
    assert sock.recv(100) == b"220 ready\r\n"


def test_a_backend_that_refuses_is_unreachable_at_once_until_it_does_not(
    front_of: Fronts,
    rover_of: Rovers,
    closing: Closing,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gevent_rover.server")
    gone = Backend()
    gone.start()
    where = entry(gone)
    gone.stop()
    front = front_of(where)
    for _ in range(2):
        rover, events = rover_of({"front": entry(front)}, timeout=60)
        rover.start()
        assert attempt_of(rover, events).outcome == "unreachable"
        rover.stop()
    assert names(events)[0] == "unreachable"
    assert front.unreachable >= 2
    assert len(front.slots) == 0
    backend = closing(StreamServer((where["host"], where["port"]), lambda sock, address: None))
    backend.start()
    with socket.create_connection(("127.0.0.1", port_of(front)), timeout=5) as sock:
        assert read_all(sock) == b"0\r\n"
    levels = [each.levelname for each in caplog.records if each.name == "gevent_rover.server"]
    assert levels == ["WARNING", "INFO"]
    assert "no slots, since the backend can't be reached: [Errno 111]" in caplog.text


def test_a_backend_that_does_not_accept_in_time_gives_no_slot_line(
    front_of: Fronts, full_backlog: Server
) -> None:
    front = front_of(full_backlog, connect_timeout=0.1)
    with socket.create_connection(("127.0.0.1", port_of(front)), timeout=5) as sock:
        assert read_all(sock) == b""
    assert front.unreachable == 1
    front.connect_timeout = 60
    with socket.create_connection(("127.0.0.1", port_of(front)), timeout=5) as sock:
        wait_until(lambda: len(front.connections) == 1)
        front.stop(timeout=60)  # What is being prepared ends at once.
        assert read_all(sock) == b""


def test_halves_end_one_by_one(front_of: Fronts, backend: Backend, connect: Connect) -> None:
    front = front_of(backend)
    _, sock = connect(front)
    sock.sendall(b"all there is")
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == b"all there is"
    wait_until(lambda: len(front.slots) == 0)


def test_resets_pass_both_ways(front_of: Fronts, backend: Backend, connect: Connect) -> None:
    front = front_of(backend)
    _, sock = connect(front)
    ask(sock, b"x")
    backend.seen[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    backend.seen[0].close()
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    wait_until(lambda: len(front.slots) == 0)

    _, sock = connect(front)
    ask(sock, b"x")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()
    wait_until(lambda: len(front.slots) == 0 and backend.seen[1].closed)


def test_an_idle_side_that_ends_is_noticed(
    front_of: Fronts, backend: Backend, connect: Connect
) -> None:
    front = front_of(backend)
    _, sock = connect(front)
    ask(sock, b"x")
    backend.seen[0].close()
    assert sock.recv(1) == b""
    assert len(front.slots) == 1  # The client's half is still there.
    sock.close()
    wait_until(lambda: len(front.slots) == 0)


def test_a_stop_ends_unused_connections_at_once_and_others_when_they_end_or_in_time(
    front_of: Fronts, backend: Backend, connect: Connect
) -> None:
    front = front_of(backend)
    (_, unused), (_, used), (_, stubborn) = (connect(front) for _ in range(3))
    ask(used, b"x")
    ask(stubborn, b"x")
    stopping = gevent.spawn(front.stop, 0.5)
    assert unused.recv(1) == b""
    assert ask(used, b"still served") == b"still served"
    used.close()
    stopping.get(timeout=5)
    assert stubborn.recv(1) == b""
    assert len(front.slots) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", entry(front)["port"]), timeout=5)


def test_a_pool_leases_connections_through_fronts(
    front_of: Fronts, backend: Backend, closing: Closing
) -> None:
    fronts = [front_of(backend) for _ in range(3)]
    servers = {str(number): entry(front) for number, front in enumerate(fronts)}
    rover = closing(Rover(servers, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=6))
    rover.start()
    pool.wait_ready()
    wait_until(lambda: [len(front.slots) for front in fronts] == [2, 2, 2])
    for number in range(60):
        with pool.lease() as sock:
            assert ask(sock, b"%d" % number) == b"%d" % number
    assert pool.size == 6


@pytest.mark.parametrize("where", ["in front", "behind"])
def test_either_side_may_be_at_a_path(
    where: str, tmp_path: Path, closing: Closing, backend: Backend
) -> None:
    path = str(tmp_path / "socket")
    listener = closing(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen()
    if where == "in front":
        front = closing(Front(listener, entry(backend), proxy_protocol=True))
        address: Any = path
        family = socket.AF_UNIX
    else:
        server = closing(StreamServer(listener, backend.echo))
        server.start()
        front = closing(Front(("127.0.0.1", 0), {"path": path}))
        family = socket.AF_INET
    front.start()
    if where == "behind":
        address = front.address
    with socket.socket(family) as sock:
        sock.settimeout(5)
        sock.connect(address)
        assert read_slot_line(sock) == 0
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        # A client at a path has no address to tell.
        header = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0" if where == "in front" else b""
        assert read_all(sock) == header + b"hello"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_proxy_protocol_tells_the_backend_who_connects(
    host: str, closing: Closing, backend: Backend
) -> None:
    try:
        front = closing(Front((host, 0), entry(backend), proxy_protocol=True))
        front.start()
    except OSError as exc:
        pytest.skip(f"no {host} here: {exc}")
    with socket.create_connection(front.address[:2], timeout=5) as sock:
        client, server = sock.getsockname(), sock.getpeername()
        assert read_slot_line(sock) == 0
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        said = read_all(sock)
    # Written out after section 2.2 of the specification.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    addresses = socket.inet_pton(family, host) * 2
    addresses += client[1].to_bytes(2, "big") + server[1].to_bytes(2, "big")
    kind = b"\x21" if ":" in host else b"\x11"
    header = b"\r\n\r\n\0\r\nQUIT\n\x21" + kind + len(addresses).to_bytes(2, "big") + addresses
    assert said == header + b"hello"


def test_a_kill_of_its_greenlet_ends_both_sides_and_gives_the_slot_back(
    front_of: Fronts, backend: Backend, connect: Connect
) -> None:
    front = front_of(backend)
    _, sock = connect(front)
    ask(sock, b"x")
    assert front.pool is not None
    front.pool.kill()
    assert sock.recv(1) == b""
    assert len(front.slots) == 0
    wait_until(lambda: backend.seen[0].closed)


def test_keepalive_is_set_on_both_sides_or_on_none(
    front_of: Fronts, backend: Backend, connect: Connect
) -> None:
    # What the kernel has cannot be seen from the other side, so the pair is looked up.
    for keepalive in (7.0, None):
        front = front_of(backend, keepalive=keepalive)
        connect(front)
        wait_until(lambda front=front: front.served == 1)  # type: ignore[misc]
        (pump,) = front.pumps
        for side in (pump.near, pump.far):
            on = side.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert on == (keepalive is not None)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"backend": {"host": "a"}}, InvalidServerError, "missing key 'port'"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout must be"),
        ({"keepalive": -1}, ValueError, "keepalive must be"),
        ({"backlog": -1}, ValueError, "backlog must be"),
        ({"colour": 1}, TypeError, "unknown option 'colour'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    backend = arguments.pop("backend", {"host": "127.0.0.1", "port": 1})
    with pytest.raises(error, match=words):
        Front(("127.0.0.1", 0), backend, **arguments)
