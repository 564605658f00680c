"""A proxy between clients and one server that spoils what goes through it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import gevent
from gevent import socket
from gevent.pool import Group
from gevent.server import StreamServer

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


@dataclass(frozen=True)
class Fault:
    """What a proxy does; with the defaults it does no harm."""

    #: Seconds that each chunk is late.
    latency: float = 0.0
    #: Bytes that are passed on at a time.
    slice: int = 65536
    #: Bytes a second.
    bandwidth: float = 0.0
    #: Nothing is passed on any more, and nothing is closed.
    stalled: bool = False
    #: Bytes of the server's until the client is reset; None: never.
    reset_after: int | None = None
    #: Bytes of the server's until both sides are closed; None: never.
    limit: int | None = None
    #: Seconds from one side's end to the other side's.
    slow_close: float = 0.0
    #: New connections are closed at once.
    refusing: bool = False


class FaultProxy(StreamServer):
    """Passes on what clients and a server say to each other, as ``fault`` has it.

    A change of ``fault`` counts at once, for open connections, too.
    """

    def __init__(self, port: int | None) -> None:
        super().__init__(("127.0.0.1", 0), self.pass_on, spawn=1000)
        assert port is not None
        self.target = ("127.0.0.1", port)
        self.fault = Fault()
        self.stop_timeout = 0.0

    def pass_on(self, client: socket.socket, address: object) -> None:
        if self.fault.refusing:
            return
        pumps = Group()
        try:
            with socket.create_connection(self.target) as server:
                for sock in (client, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pumps.spawn(self.pump, client, server, counts=False)
                pumps.spawn(self.pump, server, client, counts=True)
                try:
                    pumps.join()
                finally:
                    pumps.kill()
        except OSError:
            pass

    def pump(self, source: socket.socket, sink: socket.socket, *, counts: bool) -> None:
        """Pass on one direction; ``counts``: it's the one that the limits are for."""
        passed = 0
        try:
            while chunk := source.recv(65536):
                while chunk:
                    fault = self.fault
                    if fault.stalled:
                        gevent.sleep(0.005)
                        if self.gone(source, sink):
                            return
                        continue
                    piece, chunk = chunk[: fault.slice], chunk[fault.slice :]
                    gevent.sleep(fault.latency)
                    if fault.bandwidth:
                        gevent.sleep(len(piece) / fault.bandwidth)
                    for limit, reset in ((fault.reset_after, True), (fault.limit, False)):
                        if counts and limit is not None and passed + len(piece) > limit:
                            sink.sendall(piece[: max(0, limit - passed)])
                            self.end(source, sink, reset=reset)
                            return
                    sink.sendall(piece)
                    passed += len(piece)
            gevent.sleep(self.fault.slow_close)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # One side was reset: so is the other.
            self.end(source, sink, reset=True)

    def gone(self, *socks: socket.socket) -> bool:
        return self.closed or any(sock.fileno() < 0 for sock in socks)

    def end(self, *socks: socket.socket, reset: bool) -> None:
        for sock in socks:
            if sock.fileno() >= 0:
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                sock.close()

    def entry(self) -> Any:
        """Return the registry entry of the proxy."""
        return {"host": "127.0.0.1", "port": self.server_port}
