"""What the servers of the corpus do: the phases of a case, played on real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gevent
import trustme
from certificates import ServerSide, long_ago, server_context, server_flight
from conftest import RESET, Listener
from gevent import socket, ssl
from gevent.server import StreamServer
from gevent.socket import wait_write

from gevent_rover import Server


class Tls:
    """What a case says of its server's TLS."""

    def __init__(
        self,
        authority: trustme.CA,
        *,
        certificate: str = "trusted",
        version: str = "1.3",
        tickets: int = 2,
        asks: bool = False,
        slice: int = 65536,
        every: float = 0.0,
    ) -> None:
        name, not_after = "127.0.0.1", None
        if certificate == "untrusted":
            authority = trustme.CA()
        elif certificate == "wrong name":
            name = "127.0.0.2"
        elif certificate == "expired":
            not_after = long_ago()
        else:
            assert certificate == "trusted", f"no such certificate: {certificate!r}"
        self.context = server_context(authority.issue_cert(name, not_after=not_after))
        self.context.maximum_version = ssl.TLSVersion[f"TLSv{version.replace('.', '_')}"]
        self.context.num_tickets = tickets
        if asks:
            self.context.verify_mode = ssl.CERT_REQUIRED
            authority.configure_trust(self.context)
        self.slice = slice
        self.every = every

    def send(self, sock: Listener, data: bytes) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin in range(0, len(data), self.slice):
            sock.sendall(data[begin : begin + self.slice])
            gevent.sleep(self.every)


class Connection:
    """A server's connection, and what its phases do with it: plainly, or through TLS."""

    def __init__(self, sock: Listener, tls: Tls) -> None:
        self.sock = sock
        self.tls = tls
        self.secure: ServerSide | None = None

    def send(self, data: bytes) -> None:
        if self.secure is None:
            self.sock.sendall(data)
        else:
            self.secure.write(data)

    def receive(self, size: int) -> bytes:
        if self.secure is None:
            return read_exactly(self.sock, size)
        return self.secure.read(size)

    def play(self, phase: Any) -> None:
        match phase:
            case {"send": str(text), "times": int(times), "every": float() | int() as pause}:
                for _ in range(times):
                    gevent.sleep(pause)
                    self.send(text.encode())
            case {"send": str(text), "times": int(times)}:
                self.send(text.encode() * times)
            case {"send": str(text)}:
                self.send(text.encode())
            case {"hex": str(digits)}:
                self.sock.sendall(bytes.fromhex(digits))
            case {"receive": str(text)}:
                received = self.receive(len(text.encode()))
                assert received == text.encode()
            case {"wait": float() | int() as seconds}:
                gevent.sleep(seconds)
            case "hello":
                assert self.sock.recv(16384)[:1] == b"\x16"
            case {"flight": int(size)}:
                flight = server_flight(self.tls.context, self.sock.recv(16384))
                self.tls.send(self.sock, flight[:size])
            case {"records": int(count)}:
                flight = server_flight(self.tls.context, self.sock.recv(16384))
                end = 0
                for _ in range(count):
                    end += 5 + int.from_bytes(flight[end + 3 : end + 5], "big")
                self.tls.send(self.sock, flight[:end])
            case "handshake":
                self.secure = ServerSide(
                    self.tls.context,
                    lambda data: self.tls.send(self.sock, data),
                    lambda: self.sock.recv(16384),
                )
                self.secure.shake_hands()
            case "goodbye":
                assert self.secure is not None
                self.secure.say_goodbye()
            case "half-close":
                self.sock.shutdown(socket.SHUT_WR)
            case "close":
                self.sock.close()
            case "reset":
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self.sock.close()
            case _:
                raise AssertionError(f"no such phase: {phase!r}")


class Script:
    """What a server does with each of its connections."""

    def __init__(self, phases: list[Any], tls: Tls) -> None:
        self.phases = phases
        self.tls = tls
        self.accepted = self.played = self.ended = 0
        self.failures: list[AssertionError] = []

    def __call__(self, sock: Listener, address: object) -> None:
        self.accepted += 1
        connection = Connection(sock, self.tls)
        try:
            try:
                for phase in self.phases:
                    connection.play(phase)
                self.played += 1
            except ssl.SSLError:
                pass  # The client has refused to go on, as it may.
            while sock.fileno() >= 0 and sock.recv(65536):
                pass
        except AssertionError as exc:
            self.failures.append(exc)
        except (OSError, EOFError):
            pass  # The client hung up on it, as it may.
        finally:
            self.ended += 1


@contextmanager
def served(kind: str, script: Script, path: str) -> Iterator[Server]:
    """Run a server of that kind, and give its entry of the registry."""
    who, _, unix = kind.partition(", ")
    with ExitStack() as stack:
        listener = stack.enter_context(
            socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
        )
        listener.bind(path if unix else ("127.0.0.1", 0))
        if who != "nobody":
            listener.listen(0 if who in ("full", "drops the SYN") else 100)
        if who == "accepts":
            server = StreamServer(listener, script, spawn=1000)
            server.start()
            stack.callback(server.stop, timeout=0)
        elif who in ("full", "drops the SYN"):
            fill(listener, stack)
        else:
            assert who in ("nobody", "never accepts"), f"no such server: {kind!r}"
        address = listener.getsockname()
        yield {"path": path} if unix else {"host": address[0], "port": address[1]}


def fill(listener: Listener, stack: ExitStack) -> None:
    """Connect to a listener until there's no place in its queue any more."""
    for _ in range(20):
        sock = stack.enter_context(socket.socket(listener.family, socket.SOCK_STREAM))
        sock.setblocking(False)
        try:
            sock.connect(listener.getsockname())
        except BlockingIOError:  # EAGAIN is a Unix socket's
            if listener.family == socket.AF_UNIX:
                return
            try:
                # On loopback the handshake is over before connect() returns.
                wait_write(sock.fileno(), timeout=0.1, timeout_exc=TimeoutError)
            except TimeoutError:
                return
    raise AssertionError("the listener's queue doesn't fill up")


def read_exactly(sock: Listener, size: int) -> bytes:
    """Read ``size`` bytes, or to the end if that comes first."""
    data = bytearray()
    while len(data) < size and (chunk := sock.recv(size - len(data))):
        data += chunk
    return bytes(data)
