"""A side that doesn't read holds the other one back, through fronts and relays, both ways."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
import trustme
from certificates import client_context, server_context
from conftest import entry, port_of, wait_until
from gevent import Greenlet, socket
from gevent.event import Event
from gevent.server import StreamServer

from gevent_rover import Front, Relay, Rover, SlotPool, SlotServer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_leaks")]

Closing = Callable[[Any], Any]

PIECE = 65536

#: More than the kernel takes for two connections that nobody reads from. It gives each less
#: than what net.ipv4.tcp_rmem allows, since it widens a window only for those who read.
MOST = 128_000_000


class Writer:
    """Sends a stream of numbers until it's told to finish, then ends its half."""

    def __init__(self) -> None:
        self.sent = 0
        self.hash = hashlib.sha256()
        self.finish = False

    def run(self, sock: Any, end: Callable[[Any], object]) -> None:
        """Write to a socket, and end its half by ``end(socket)``."""
        while not self.finish:
            assert self.sent < MOST, "nothing holds it back"
            piece = self.sent.to_bytes(8, "big") * (PIECE // 8)
            sock.sendall(piece)
            self.hash.update(piece)
            self.sent += PIECE
        end(sock)


def end_tcp(sock: Any) -> None:
    sock.shutdown(socket.SHUT_WR)


class Reader:
    """Reads to the end, once it may."""

    def __init__(self) -> None:
        self.begin = Event()
        self.read = 0
        self.hash = hashlib.sha256()
        self.done = Event()

    def run(self, sock: Any) -> None:
        self.begin.wait()
        while chunk := sock.recv(1_000_000):
            self.read += len(chunk)
            self.hash.update(chunk)
        self.done.set()


class Ends:
    """A server, a front or a relay before it, and a client's way to that."""

    def __init__(self, way: str, closing: Closing, slot_server: Any) -> None:
        self.closing = closing
        self.context: Any = None
        self.accepted: list[Any] = []
        #: What the server does with its next connection: it echoes if there's nothing.
        self.serve: list[Callable[[Any], object]] = []
        options = {}
        if "TLS" in way:
            authority = trustme.CA()
            options["ssl_context"] = server_context(authority.issue_cert("127.0.0.1"))
            self.context = client_context(authority)
        if "relay" in way:
            server = slot_server(lambda slot, sock, address: self.handle(sock))
            self.rover = closing(Rover({"server": entry(server)}, roving_interval=0.05))
            pool = closing(SlotPool(self.rover, max_slots=4))
            self.rover.start()
            self.between: Any = closing(Relay(("127.0.0.1", 0), pool, **options))
        else:
            backend = closing(StreamServer(("127.0.0.1", 0), lambda sock, _: self.handle(sock)))
            backend.stop_timeout = 0.0
            backend.start()
            self.between = closing(Front(("127.0.0.1", 0), entry(backend), **options))
        self.between.stop_timeout = 0.0
        self.between.start()

    def handle(self, sock: Any) -> None:
        first = sock.recv(1)  # The client says what is to be done, once it's served.
        try:
            if first == b"e":
                while chunk := sock.recv(65536):
                    sock.sendall(chunk)
            elif first:
                self.serve.pop()(sock)
        except OSError:
            pass

    def connect(self) -> Any:
        sock = self.closing(socket.create_connection(("127.0.0.1", port_of(self.between)), 30))
        if self.context is not None:
            sock = self.closing(self.context.wrap_socket(sock, server_hostname="127.0.0.1"))
        if isinstance(self.between, Front):
            line = b""
            while not line.endswith(b"\r\n"):
                line += sock.recv(1)
        return sock

    def end_half(self, sock: Any) -> None:
        """End a client's half."""
        if self.context is None:
            end_tcp(sock)
        else:
            sock.unwrap()

    def waiting(self) -> list[int]:
        """Return how many bytes wait in each direction of each pair."""
        return [len(flow.rest) for pump in self.between.pumps for flow in pump.flows]


@pytest.fixture(params=["front", "front, TLS", "relay", "relay, TLS"])
def ends(request: Any, closing: Closing, slot_server: Callable[..., SlotServer]) -> Ends:
    return Ends(request.param, closing, slot_server)


def wait_until_it_is_held_back(writer: Writer) -> None:
    """Wait until a writer has sent nothing for a while."""
    seen: list[int] = []

    def is_held_back() -> bool:
        seen.append(writer.sent)
        return len(seen) > 50 and len(set(seen[-50:])) == 1

    wait_until(is_held_back, timeout=30)


@contextmanager
def undisturbed(ends: Ends) -> Iterator[Callable[[], object]]:
    """Open a pair beside the others; give a function that sees that it works."""
    sock = ends.connect()
    sock.sendall(b"e")

    def echo() -> None:
        for size in (1, 1000, 300_000):
            said = size.to_bytes(8, "big") * (size // 8 + 1)
            sender = gevent.spawn(sock.sendall, said)
            got = bytearray()
            while len(got) < len(said):
                chunk = sock.recv(65536)
                assert chunk
                got += chunk
            assert got == said
            sender.get()

    echo()
    yield echo
    echo()


@pytest.mark.parametrize("speaker", ["client", "server"])
def test_a_side_that_does_not_read_holds_its_peer_back(ends: Ends, speaker: str) -> None:
    writer, reader = Writer(), Reader()
    client: Greenlet[..., None]
    with undisturbed(ends) as echo:
        sock = ends.connect()
        if speaker == "client":
            ends.serve.append(reader.run)
            sock.sendall(b"s")
            client = gevent.spawn(writer.run, sock, ends.end_half)
        else:
            ends.serve.append(lambda sock: writer.run(sock, end_tcp))
            sock.sendall(b"s")
            client = gevent.spawn(reader.run, sock)

        wait_until_it_is_held_back(writer)

        assert 0 < max(ends.waiting()) <= 65536
        assert sum(ends.waiting()) <= 65536
        echo()
        # Not a byte more was read for those who don't.
        assert sum(ends.waiting()) <= 65536
        writer.finish = True
        reader.begin.set()
        assert reader.done.wait(30)
        client.get(timeout=10)
        assert reader.read == writer.sent > 0
        assert reader.hash.digest() == writer.hash.digest()


def test_both_sides_may_hold_each_other_back_at_a_time(ends: Ends) -> None:
    up, down = (Writer(), Reader()), (Writer(), Reader())

    def serve(sock: Any) -> None:
        back = gevent.spawn(down[0].run, sock, end_behind_all)
        up[1].run(sock)
        back.get(timeout=30)

    def end_behind_all(sock: Any) -> None:
        """End the server's half once it has heard all."""
        wait_until(lambda: up[0].finish and up[1].read == up[0].sent, timeout=30)
        end_tcp(sock)

    def end_behind_the_server(sock: Any) -> None:
        down[1].done.wait(30)
        ends.end_half(sock)

    with undisturbed(ends) as echo:
        sock = ends.connect()
        ends.serve.append(serve)
        sock.sendall(b"s")
        # A TLS client that has ended its half could hear no more in Python: it ends last.
        speaking = gevent.spawn(up[0].run, sock, end_behind_the_server)
        hearing = gevent.spawn(down[1].run, sock)

        for writer, _ in (up, down):
            wait_until_it_is_held_back(writer)

        assert all(count <= 65536 for count in ends.waiting())
        assert sum(count > 0 for count in ends.waiting()) == 2
        echo()
        for writer, reader in (up, down):
            writer.finish = True
            reader.begin.set()
        for greenlet in (speaking, hearing):
            greenlet.get(timeout=30)
        assert up[1].done.wait(30)
        for writer, reader in (up, down):
            assert reader.read == writer.sent > 0
            assert reader.hash.digest() == writer.hash.digest()
