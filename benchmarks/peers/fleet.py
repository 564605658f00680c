"""``python -m benchmarks.peers.fleet PORTS 4 1``: a process of servers with 4 workers, on core 1.

Each server listens twice: at the first of its two ports it says a slot line first,
at the second one it doesn't. Whoever comes, by whichever port, gets the same workers
and the same queue, first come first served.

A request is 32 bytes, the first 8 of them a float: the seconds of work in it. The answer
is the same 32 bytes, at once if there is no work, else after a worker has slept so long.
It is a loop on ``epoll`` without greenlets, for a server has to be cheap: it
shares its core with HAProxy.

Each line of stdin is an order, and is answered by the CPU time so far:

- ``{"slow": [4, 1]}``: how many times longer each server works;
- ``{"listen": false}``: let go of all connections, and refuse others (true: serve).
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
from collections import deque
from heapq import heappop, heappush
from itertools import count
from time import monotonic, process_time

from gevent_rover import Slots

REQUEST = struct.Struct("d24x")


class Connection:
    """One of a server's connections."""

    __slots__ = ("descriptor", "server", "slot")

    def __init__(self, server: QueueingServer, descriptor: int, slot: int | None) -> None:
        self.server = server
        self.descriptor: int | None = descriptor
        self.slot = slot  # None: from the port without slots

    def answer(self, request: bytes) -> None:
        if self.descriptor is None:
            return  # The client is gone.
        try:
            os.write(self.descriptor, request)
        except ConnectionError:
            self.close()

    def close(self) -> None:
        if self.descriptor is not None:
            self.server.loop.forget(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = None
            self.server.connections.discard(self)
            if self.slot is not None:
                self.server.slots.free(self.slot)


class QueueingServer:
    """A server with few workers, which listens at two ports."""

    def __init__(self, loop: Loop, ports: list[int], workers: int) -> None:
        self.loop = loop
        self.slots = Slots()
        self.connections: set[Connection] = set()
        self.slowness = 1.0
        self._ports = ports
        self._listeners: list[socket.socket] = []
        self._idle_workers = workers
        self._queue: deque[tuple[float, Connection, bytes]] = deque()

    def listen(self) -> None:
        self._listeners = [socket.create_server(("127.0.0.1", port)) for port in self._ports]
        for listener, says_slots in zip(self._listeners, (True, False), strict=True):
            listener.setblocking(False)
            self.loop.listen(listener, self, says_slots)

    def stop(self) -> None:
        for listener in self._listeners:
            self.loop.forget(listener.fileno())
            listener.close()
        self._listeners = []
        for connection in [*self.connections]:
            connection.close()

    def accept(self, listener: socket.socket, says_slots: bool) -> None:
        while True:
            try:
                # Descriptors, not sockets: they cost less.
                descriptor, _ = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            slot = self.slots.take() if says_slots else None
            connection = Connection(self, descriptor, slot)
            self.connections.add(connection)
            self.loop.serve(descriptor, connection)
            if slot is not None:
                connection.answer(b"%d\r\n" % slot)

    def read(self, connection: Connection) -> None:
        assert connection.descriptor is not None
        try:
            request = os.read(connection.descriptor, REQUEST.size)
        except ConnectionError:
            request = b""
        if len(request) != REQUEST.size:
            connection.close()
            return
        (work,) = REQUEST.unpack(request)
        if not work:
            connection.answer(request)
        elif self._idle_workers:
            self._idle_workers -= 1
            self.loop.sleep(work * self.slowness, connection, request)
        else:
            self._queue.append((work, connection, request))

    def finish(self, connection: Connection, request: bytes) -> None:
        """Answer, and let the worker begin with the next one in the queue."""
        connection.answer(request)
        if self._queue:
            work, connection, request = self._queue.popleft()
            self.loop.sleep(work * self.slowness, connection, request)
        else:
            self._idle_workers += 1


class Loop:
    """What each descriptor belongs to, and which workers sleep until when."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._listeners: dict[int, tuple[socket.socket, QueueingServer, bool]] = {}
        self._connections: dict[int, Connection] = {}
        self._sleeping: list[tuple[float, int, Connection, bytes]] = []
        self._order = count()

    def listen(self, listener: socket.socket, server: QueueingServer, says_slots: bool) -> None:
        self._listeners[listener.fileno()] = listener, server, says_slots
        self._epoll.register(listener, select.EPOLLIN)

    def serve(self, descriptor: int, connection: Connection) -> None:
        self._connections[descriptor] = connection
        self._epoll.register(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._listeners.pop(descriptor, None)
        self._connections.pop(descriptor, None)

    def sleep(self, seconds: float, connection: Connection, request: bytes) -> None:
        heappush(self._sleeping, (monotonic() + seconds, next(self._order), connection, request))

    def run(self, servers: list[QueueingServer]) -> None:
        """Serve until stdin ends."""
        orders = sys.stdin.fileno()
        self._epoll.register(orders, select.EPOLLIN)
        connections, sleeping = self._connections, self._sleeping
        while True:
            timeout = max(0.0, sleeping[0][0] - monotonic()) if sleeping else None
            for descriptor, _ in self._epoll.poll(timeout):
                connection = connections.get(descriptor)
                if connection is not None:
                    connection.server.read(connection)
                elif descriptor in self._listeners:
                    listener, server, says_slots = self._listeners[descriptor]
                    server.accept(listener, says_slots)
                elif descriptor == orders:
                    line = os.read(orders, 65536)  # whole: each waits for its answer
                    if not line:
                        return
                    _obey(json.loads(line), servers)
            now = monotonic() if sleeping else 0.0
            while sleeping and sleeping[0][0] <= now:
                _, _, connection, request = heappop(sleeping)
                connection.server.finish(connection, request)


def _obey(order: dict[str, list[float] | bool], servers: list[QueueingServer]) -> None:
    slow = order.get("slow")
    if isinstance(slow, list):
        for server, slowness in zip(servers, slow, strict=True):
            server.slowness = slowness
    if "listen" in order:
        for server in servers:
            (server.listen if order["listen"] else server.stop)()
    print(json.dumps(process_time()), flush=True)


def main(ports: list[list[int]], workers: int, core: int) -> None:
    os.sched_setaffinity(0, {core})
    loop = Loop()
    servers = [QueueingServer(loop, each, workers) for each in ports]
    for server in servers:
        server.listen()
    print(json.dumps(process_time()), flush=True)
    loop.run(servers)


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
