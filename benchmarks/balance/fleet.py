"""``python -m benchmarks.balance.fleet 9 4``: a process of 9 slot servers with 4 workers each.

A request is a float, the seconds of work in it. A worker sleeps for so long, and
the answer is one byte. Requests that find no worker free queue up, first come
first served. Each line of stdin is an order, and is answered by a line:

- ``{"slow": [4, 1]}``: how many times longer each server works;
- ``{"listen": false}``: let go of all connections, and refuse others (true: serve);
- ``{}``: nothing but the answer.
"""

from __future__ import annotations

import json
import struct
import sys
from time import process_time
from typing import Any

import gevent
from gevent.event import Event
from gevent.fileobject import FileObject
from gevent.queue import Queue

from gevent_rover import SlotServer

WORK = struct.Struct("d")


class QueueingServer:
    """A slot server with few workers."""

    def __init__(self, workers: int, port: int) -> None:
        self.slowness = 1.0
        self.received = 0
        self._queue: Queue[tuple[float, Event]] = Queue()
        self.server = SlotServer(("127.0.0.1", port), self._handle, backlog=1024)
        self.server.stop_timeout = 0.0
        self._workers = [gevent.spawn(self._work) for _ in range(workers)]

    def _handle(self, slot: int, sock: gevent.socket.socket, address: Any) -> None:
        try:
            while request := sock.recv(WORK.size):
                self.received += 1
                (work,) = WORK.unpack(request)
                done = Event()
                self._queue.put((work, done))
                done.wait()
                sock.sendall(b"!")
        except ConnectionError:
            pass  # The client is gone.

    def _work(self) -> None:
        while True:
            work, done = self._queue.get()
            gevent.sleep(work * self.slowness)
            done.set()


def main(count: int, workers: int, ports: list[int]) -> None:
    servers = [QueueingServer(workers, port) for port in ports or [0] * count]
    for each in servers:
        each.server.start()
    print(json.dumps([each.server.server_port for each in servers]), flush=True)
    for line in FileObject(sys.stdin.fileno(), closefd=False):
        order = json.loads(line)
        for each, slowness in zip(servers, order.get("slow", ()), strict=False):
            each.slowness = slowness
        if "listen" in order:
            for each in servers:
                (each.server.start if order["listen"] else each.server.stop)()
        print(json.dumps([process_time(), [each.received for each in servers]]), flush=True)
    for each in servers:
        each.server.stop()


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
