"""``python -m benchmarks.workers.servers 4 5``: a process of 4 slot servers with 5 workers each.

A request is a line with the milliseconds of work in it, behind a slash: an app's
path. A worker sleeps for so long, and the answer is a line, too. Requests that find
no worker free wait, first come first served. Each line of stdin is an order, and is
answered by a line: CPU time so far, each server's requests, and its connections.

- ``{"slow": [4, 1]}``: how many times longer each server works;
- ``{"failing": [true, false]}``: which servers answer with an error, at once;
- ``{"reset": true}``: count the requests from 0;
- ``{}``: nothing but the answer.
"""

from __future__ import annotations

import json
import sys
from time import process_time
from typing import Any

import gevent
from gevent.fileobject import FileObject
from gevent.lock import BoundedSemaphore

from gevent_rover import SlotServer

ERROR = b"ERROR\r\n"


class WorkingServer:
    """A slot server that works on few requests at a time."""

    def __init__(self, workers: int) -> None:
        self.slowness = 1.0
        self.failing = False
        self.received = 0
        self._workers = BoundedSemaphore(workers)
        self.server = SlotServer(("127.0.0.1", 0), self._handle, backlog=1024)
        self.server.stop_timeout = 0.0

    def _handle(self, slot: int, sock: gevent.socket.socket, address: Any) -> None:
        try:
            while request := sock.recv(1024):  # whole: a client has one at a time
                self.received += 1
                sock.sendall(self._answer(request))
        except ConnectionError:
            pass  # The client is gone.

    def _answer(self, request: bytes) -> bytes:
        if self.failing:
            return ERROR
        with self._workers:
            gevent.sleep(float(request[1:]) / 1e3 * self.slowness)
        return b"done\r\n"


def main(count: int, workers: int) -> None:
    servers = [WorkingServer(workers) for _ in range(count)]
    for each in servers:
        each.server.start()
    print(json.dumps([each.server.server_port for each in servers]), flush=True)
    for line in FileObject(sys.stdin.fileno(), closefd=False):
        order = json.loads(line)
        for each, slowness in zip(servers, order.get("slow", ()), strict=False):
            each.slowness = slowness
        for each, failing in zip(servers, order.get("failing", ()), strict=False):
            each.failing = failing
        if order.get("reset"):
            for each in servers:
                each.received = 0
        received = [each.received for each in servers]
        connections = [len(each.server.slots) for each in servers]
        print(json.dumps([process_time(), received, connections]), flush=True)
    for each in servers:
        each.server.stop()


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
