"""The server's side of a connection: accept, slot line, slot back.

``python -m benchmarks.speed.servers '"slot"'`` (or ``'"bare"'``) is the measured process.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle
from time import process_time
from typing import Any

import gevent.socket
from gevent.fileobject import FileObject
from gevent.server import StreamServer

from benchmarks.child import Child, node, python
from benchmarks.loopback import ADDRESSES
from benchmarks.measure import Row, compare, in_turn
from gevent_rover import SlotServer

IN_FLIGHT = 50
_PEERS = {"bare StreamServer": 1.1, "Node net": 0.9}


def measure(rounds: int, *, quick: bool) -> list[Row]:
    count = 200 if quick else 4000
    with ExitStack() as stack:
        servers: dict[str, Child | None] = {
            "SlotServer": stack.enter_context(python("speed.servers", "slot")),
            "bare StreamServer": stack.enter_context(python("speed.servers", "bare")),
            "Node net": stack.enter_context(node("speed/server.js")),
        }
        measures: dict[str, Callable[[], float]] = {}
        for name, server in servers.items():
            if server is not None:
                measures[name] = _measure_of(server, count)
        figures = in_turn(rounds, measures)
    rows = []
    for peer, target in _PEERS.items():
        if peer in figures:
            rows.append(compare("server", figures, "SlotServer", peer, target))
        else:
            reason = "there is no node command"
            rows.append(Row("server", "SlotServer", "µs", target, "ratio", peer, skipped=reason))
    return rows


def _measure_of(server: Child, count: int) -> Callable[[], float]:
    port = int(server.receive())

    def measure() -> float:
        before = float(server.ask("cpu"))
        _visit(port, count)
        return (float(server.ask("cpu")) - before) / count

    return measure


def _visit(port: int, count: int) -> None:
    """Connect ``count`` times, 50 at a time, read the slot line and hang up.

    From 20 addresses: one alone would soon have all its ports in TIME_WAIT.
    """
    sources = cycle(ADDRESSES)
    poll = select.epoll()
    visits: dict[int, socket.socket] = {}
    begun = done = 0
    while done < count:
        while begun < count and len(visits) < IN_FLIGHT:
            sock = socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.bind((next(sources), 0))
            sock.connect_ex(("127.0.0.1", port))
            poll.register(sock.fileno(), select.EPOLLIN)
            visits[sock.fileno()] = sock
            begun += 1
        for descriptor, _ in poll.poll():
            sock = visits.pop(descriptor)
            assert sock.recv(64).endswith(b"\r\n")
            sock.close()
            done += 1
    poll.close()


def _hold(slot: int, sock: gevent.socket.socket, address: Any) -> None:
    sock.recv(64)


def _greet(sock: gevent.socket.socket, address: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(b"7\r\n")
    sock.recv(64)


def _serve(kind: str) -> None:
    server: StreamServer
    if kind == "slot":
        server = SlotServer(("127.0.0.1", 0), _hold, backlog=1024)
    else:
        server = StreamServer(("127.0.0.1", 0), _greet, backlog=1024)
    server.start()
    print(json.dumps(server.server_port), flush=True)
    for _ in FileObject(sys.stdin.fileno(), closefd=False):
        print(json.dumps(process_time() * 1e6), flush=True)
    server.stop(0)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
