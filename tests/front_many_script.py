"""One of two processes around many connections through a front, which says JSON line by line.

``front PORT``: a front to that port. ``peers PAIRS``: the backend, and the clients. What
either is to do next is a line of its standard input.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import gevent
from conftest import living_greenlets, open_descriptors, wait_until
from gevent import socket
from gevent.fileobject import FileObjectThread
from gevent.pool import Pool
from gevent.server import StreamServer

from gevent_rover import Front

#: Bytes that the busy pair echoes at a time, and how often.
BURST = 65536
BURSTS = 500

_commands: Any = FileObjectThread(sys.stdin.fileno(), "rb", closefd=False)


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def hear() -> str:
    """Return the next command; the hub runs meanwhile."""
    line = _commands.readline()
    if not line:
        sys.exit("the test is gone")
    return str(line.decode().strip())


def front(port: str) -> None:
    front = Front(("127.0.0.1", 0), {"host": "127.0.0.1", "port": int(port)}, backlog=1000)
    front.start()
    say(port=front.server_port)
    assert hear() == "remember"  # One connection came and went.
    descriptors, greenlets = open_descriptors(), living_greenlets()
    say(remembered=True)
    assert hear() == "count"
    say(slots=len(front.slots), pumps=len(front.pumps))
    assert hear() == "end"
    wait_until(lambda: not len(front.slots) and not len(front.pumps), timeout=20)
    wait_until(lambda: open_descriptors() <= descriptors)
    wait_until(lambda: living_greenlets() <= greenlets)
    assert front.slots.take() == 0
    front.stop()
    say(ended=True)


class Peers:
    """The clients, and the backend."""

    def __init__(self) -> None:
        self.open = 0
        self.backend = StreamServer(("127.0.0.1", 0), self.echo, backlog=1000)
        self.backend.start()
        self.slots: dict[socket.socket, int] = {}
        self.port = 0

    def echo(self, sock: socket.socket, address: object) -> None:
        self.open += 1
        try:
            while chunk := sock.recv(65536):
                sock.sendall(chunk)
        finally:
            self.open -= 1

    def connect(self, number: int) -> None:
        sock = socket.create_connection(("127.0.0.1", self.port), 30)
        line = b""
        while not line.endswith(b"\r\n"):
            byte = sock.recv(1)
            assert byte, f"the connection ended after {line!r}"
            line += byte
        self.slots[sock] = int(line)

    def echo_one(self, sock: socket.socket) -> None:
        byte = b"%c" % (self.slots[sock] % 256)
        sock.sendall(byte)
        assert sock.recv(2) == byte

    def be_busy(self) -> int:
        """Echo much through one pair, in order; return how much."""
        sock = next(iter(self.slots))
        for number in range(BURSTS):
            said = number.to_bytes(8, "big") * (BURST // 8)
            sock.sendall(said)
            got = bytearray()
            while len(got) < BURST:
                chunk = sock.recv(BURST - len(got))
                assert chunk
                got += chunk
            assert got == said
        return BURSTS * BURST


def each(what: Any, items: Any) -> None:
    """Do something for each, some at a time."""
    pool = Pool(100)
    for greenlet in [pool.spawn(what, item) for item in items]:
        greenlet.get()


def peers(pairs: str) -> None:
    peers = Peers()
    say(port=peers.backend.server_port)
    peers.port = int(hear())
    peers.connect(0)
    sock = next(iter(peers.slots))
    peers.echo_one(sock)
    sock.close()
    peers.slots.clear()
    wait_until(lambda: not peers.open)
    say(tried=True)
    assert hear() == "connect"
    each(peers.connect, range(int(pairs)))
    wait_until(lambda: peers.open == int(pairs), timeout=20)
    say(connected=len(peers.slots), highest=max(peers.slots.values()))
    assert hear() == "use"
    busy = gevent.spawn(peers.be_busy)
    say(busy=busy.get())
    each(peers.echo_one, list(peers.slots))
    say(echoed=len(peers.slots))
    assert hear() == "end"
    for sock in peers.slots:
        sock.close()
    wait_until(lambda: not peers.open, timeout=20)
    say(ended=True)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    {"front": front, "peers": peers}[sys.argv[1]](sys.argv[2])
