"""The peers: each sends a request to one of the servers, in its own way, and returns the answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from random import Random
from time import monotonic
from typing import Protocol

from gevent import socket

from benchmarks.loopback import Address, registry
from benchmarks.peers.fleet import REQUEST
from gevent_rover import Rover, SlotPool


class Client(Protocol):
    """Somebody who makes requests, and knows of no other client's."""

    def request(self, data: bytes) -> bytes:
        """Return the answer; any exception is a failure, and isn't tried again."""

    def close(self) -> None:
        """Close all connections."""


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send a request and return its answer."""
    sock.sendall(data)
    answer = sock.recv(REQUEST.size)
    if len(answer) != REQUEST.size:
        raise ConnectionResetError("the connection ended before the answer")
    return answer


def connected(address: Address) -> socket.socket:
    """Return a new connection."""
    sock = socket.socket()
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


class Pooled:
    """Ours: a rover, and a pool with its default choice."""

    def __init__(
        self, servers: Sequence[Address], max_slots: int, roving_interval: float, timeout: float
    ) -> None:
        self._rover = Rover(registry([*servers]), roving_interval=roving_interval)
        self._pool = SlotPool(self._rover, max_slots=max_slots)
        self._timeout = timeout
        self._rover.start()

    def request(self, data: bytes) -> bytes:
        with self._pool.lease(self._timeout) as sock:
            return exchange(sock, data)

    def close(self) -> None:
        self._rover.stop()
        self._pool.close()


class KnownServer:
    """What the client by hand knows of a server."""

    __slots__ = ("address", "idle", "in_flight", "left_out_until")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.idle: list[socket.socket] = []
        self.in_flight = 0
        self.left_out_until = 0.0


class TwoChoices:
    """By hand: of two servers picked at random, the one with fewer requests of this client.

    :param servers: all there are.
    :param seed: the same one, the same picks.
    """

    #: Seconds that a server is left out after a connection to it failed.
    LEFT_OUT = 1.0

    def __init__(self, servers: Sequence[Address], seed: int | None = None) -> None:
        self.servers = [KnownServer(address) for address in servers]
        self._random = Random(seed)

    def request(self, data: bytes) -> bytes:
        server = self._choose()
        server.in_flight += 1
        try:
            sock = server.idle.pop() if server.idle else self._connect(server)
            try:
                answer = exchange(sock, data)
            except BaseException:
                sock.close()
                raise
            server.idle.append(sock)  # The one used last is the next to be used.
            return answer
        finally:
            server.in_flight -= 1

    def _choose(self) -> KnownServer:
        now = monotonic()
        servers = [each for each in self.servers if each.left_out_until <= now] or self.servers
        if len(servers) == 1:
            return servers[0]
        one, other = self._random.sample(servers, 2)
        return one if one.in_flight <= other.in_flight else other

    def _connect(self, server: KnownServer) -> socket.socket:
        try:
            return connected(server.address)
        except OSError:
            server.left_out_until = monotonic() + self.LEFT_OUT
            raise

    def close(self) -> None:
        for server in self.servers:
            while server.idle:
                server.idle.pop().close()


class KeptThroughProxy:
    """Connections through a proxy, which are kept: the one used last is the next to be used."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = cycle(addresses)
        self._idle: list[socket.socket] = []

    def request(self, data: bytes) -> bytes:
        sock = self._idle.pop() if self._idle else connected(next(self._addresses))
        try:
            answer = exchange(sock, data)
        except BaseException:
            sock.close()
            raise
        self._idle.append(sock)
        return answer

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class OnceThroughProxy:
    """A connection through a proxy for each request, so that it chooses anew for each."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = cycle(addresses)

    def request(self, data: bytes) -> bytes:
        sock = connected(next(self._addresses))
        try:
            return exchange(sock, data)
        finally:
            sock.close()

    def close(self) -> None:
        """Nothing is open between requests."""
