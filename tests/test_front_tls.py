"""Fronts and relays where one side or both speak TLS."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

import gevent
import pytest
import trustme
from certificates import client_context, server_context
from conftest import entry, port_of, wait_until
from gevent import socket, ssl
from test_front import Backend
from test_server import read_all, read_slot_line

from gevent_rover import Front, Relay, Rover, SlotPool, SlotServer
from gevent_rover.net.pumps import Pumps
from gevent_rover.net.tls import wrap

pytestmark = pytest.mark.usefixtures("no_leaks")

Closing = Callable[[Any], Any]
Connect = Callable[[Any], Any]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def contexts(request: pytest.FixtureRequest, authority: trustme.CA) -> tuple[Any, Any]:
    """Give a context for servers and one for clients."""
    server = server_context(authority.issue_cert("localhost", "127.0.0.1"))
    server.maximum_version = getattr(ssl.TLSVersion, request.param)
    return server, client_context(authority)


@pytest.fixture
def backend(closing: Closing) -> Backend:
    backend = closing(Backend())
    backend.start()
    assert isinstance(backend, Backend)
    return backend


@pytest.fixture
def front(contexts: tuple[Any, Any], backend: Backend, closing: Closing) -> Front:
    front = closing(Front(("127.0.0.1", 0), entry(backend), ssl_context=contexts[0]))
    front.stop_timeout = 0
    front.start()
    assert isinstance(front, Front)
    return front


@pytest.fixture
def connect(contexts: tuple[Any, Any], closing: Closing) -> Connect:
    """Give a function that connects to a TLS server and reads the slot line."""

    def connect(server: Any) -> Any:
        raw = closing(socket.create_connection(server.address[:2]))
        sock = closing(wrap(raw, contexts[1], server_hostname="localhost"))
        sock.settimeout(5)
        sock.do_handshake()
        assert read_slot_line(sock) is not None
        return sock

    return connect


@pytest.fixture
def relay_to(contexts: tuple[Any, Any], closing: Closing) -> Callable[[SlotServer], Relay]:
    """Give a function that starts a relay that speaks TLS with a server."""

    def relay_to(server: SlotServer) -> Relay:
        servers = {"a": {**entry(server), "server_hostname": "localhost"}}
        rover = closing(Rover(servers, roving_interval=0.05, ssl_context=contexts[1]))  # type: ignore[arg-type]
        pool = closing(SlotPool(rover, max_slots=2))
        rover.start()
        pool.wait_ready()
        relay = closing(Relay(("127.0.0.1", 0), pool))
        relay.stop_timeout = 0
        relay.start()
        assert isinstance(relay, Relay)
        return relay

    return relay_to


def exchange(sock: Any, size: int) -> None:
    """Send so many bytes while they come back, and see that they are the same."""
    data = random.randbytes(size)
    sending = gevent.spawn(sock.sendall, data)
    came = hashlib.sha256()
    left = size
    while left:
        chunk = sock.recv(min(left, 65536))
        assert chunk
        came.update(chunk)
        left -= len(chunk)
    sending.get(timeout=5)
    assert came.digest() == hashlib.sha256(data).digest()


def test_all_bytes_pass_both_ways_at_once(
    front: Front, relay_to: Callable[[SlotServer], Relay], connect: Connect, closing: Closing
) -> None:
    exchange(connect(front), 3_000_000)
    relay = relay_to(front)
    exchange(closing(socket.create_connection(("127.0.0.1", port_of(relay)), timeout=5)), 3_000_000)


def test_the_backends_end_is_a_close_notify_and_the_client_may_still_speak(
    front: Front, backend: Backend, connect: Connect
) -> None:
    sock = connect(front)
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    backend.seen[0].shutdown(socket.SHUT_WR)
    sock.suppress_ragged_eofs = False  # What isn't a close_notify would raise.
    assert sock.recv(1) == b""
    sock.sendall(b"into the other half")
    sock.close()
    wait_until(lambda: len(front.slots) == 0 and backend.seen[0].closed)


def test_a_clients_close_notify_ends_its_half_for_the_backend(
    closing: Closing, contexts: tuple[Any, Any], connect: Connect
) -> None:
    heard: list[bytes] = []

    def backend(slot: int, sock: Any, address: Any) -> None:
        heard.append(read_all(sock))

    server = closing(SlotServer(("127.0.0.1", 0), backend))
    server.start()
    front = closing(Front(("127.0.0.1", 0), entry(server), ssl_context=contexts[0]))
    front.start()
    sock = connect(front)
    sock.sendall(b"all there is")
    try:
        sock.unwrap()
    except OSError:
        pass  # The front's own close_notify comes with its end.
    wait_until(lambda: heard == [b"all there is"])
    sock.close()
    wait_until(lambda: len(front.slots) == 0)


def test_what_came_in_one_record_with_the_slot_line_is_passed_on(
    contexts: tuple[Any, Any], closing: Closing
) -> None:
    # A pool refuses connections on which something arrived, so the pump is given one.
    left, near = (closing(end) for end in socket.socketpair())
    far_raw, right_raw = (closing(end) for end in socket.socketpair())
    right = closing(wrap(right_raw, contexts[0], server_side=True))
    far = closing(wrap(far_raw, contexts[1], server_hostname="localhost"))
    shaking = gevent.spawn(right.do_handshake)
    far.do_handshake()
    shaking.get(timeout=5)
    right.sendall(b"0\r\nhello")
    assert far.recv(3) == b"0\r\n"
    assert far.pending() == 5
    pumping = gevent.spawn(Pumps().run, near, far)
    left.settimeout(5)
    assert left.recv(10) == b"hello"
    left.sendall(b"back")
    assert right.recv(10) == b"back"
    pumping.kill()


def test_a_reader_that_does_not_read_holds_its_peer_back(
    front: Front, backend: Backend, connect: Connect
) -> None:
    sock = connect(front)
    sock.settimeout(0.3)
    said = 0
    with pytest.raises(TimeoutError):  # Nobody reads the echo.
        while True:
            said += sock.send(bytes(16384))
    (pump,) = front.pumps
    assert all(len(flow.rest) <= 65536 for flow in pump.flows)
    assert any(flow.rest for flow in pump.flows)
    sock.settimeout(5)
    left = said
    while left:
        left -= len(sock.recv(min(left, 65536)))
