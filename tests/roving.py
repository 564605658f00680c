"""A process with a rover, and perhaps a pool, that does what it's told: for tests of the kernel.

It has one argument, as JSON: the rover's parameters; with ``max_slots`` it has a
pool, with that ``keepalive``, with ``descriptors`` no more than so many. Each line of its
input is a command; it prints a line of JSON for each attempt, for each lease, for each
connection that its pool closed, and where it's asked.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
import time
from typing import Any

import gevent
from gevent import socket
from gevent.fileobject import FileObject

from gevent_rover import Attempt, Rover, Slot, SlotPool, closed

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, leave no TIME_WAIT


class Roving:
    """The commands."""

    def __init__(
        self,
        max_slots: int = 0,
        descriptors: int = 0,
        keepalive: float | None = None,
        **parameters: Any,
    ) -> None:
        if descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
        self.taken: list[int] = []
        self.rover = Rover(**parameters)
        self.sockets: list[socket.socket] = []
        if max_slots:
            self.pool = SlotPool(self.rover, max_slots=max_slots, keepalive=keepalive)
            closed.connect(self.tell_end, sender=self.pool)
        else:
            self.rover.on("connection", self.keep)
        self.rover.on("error", lambda rover, error: None)
        self.rover.on("attempt", self.tell)

    def keep(self, rover: Rover, slot: Slot, socket: socket.socket) -> None:
        self.sockets.append(socket)

    def tell(self, rover: Rover, attempt: Attempt) -> None:
        failure = attempt.error
        cause = None if failure is None else failure.__cause__ or failure
        say(
            id=attempt.id,
            outcome=attempt.outcome,
            slot=attempt.slot,
            error=None if failure is None else type(failure).__name__,
            errno=getattr(cause, "errno", None),
            elapsed=attempt.elapsed,
        )

    def tell_end(self, pool: SlotPool, reason: str, **about: Any) -> None:
        say(closed=reason)

    def connect(self) -> None:
        """Make an attempt, beside those that are under way."""
        gevent.spawn(self.rover.connect)

    def start(self) -> None:
        self.rover.start()

    def stop(self) -> None:
        self.rover.stop()

    def what_time(self) -> None:
        say()

    def close(self) -> None:
        while self.sockets:
            self.sockets.pop().close()

    def reset(self) -> None:
        for sock in self.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()

    def take(self) -> None:
        """Leave not one descriptor to open."""
        try:
            while True:
                self.taken.append(os.dup(0))
        except OSError:
            say(taken=len(self.taken))

    def give(self) -> None:
        """Give all of them back."""
        while self.taken:
            os.close(self.taken.pop())
        gevent.sleep(0.001)  # In a patched process, the hub closes them.

    def lease(self) -> None:
        """Have a connection of the pool echo something, however long it takes."""
        gevent.spawn(self._lease)

    def _lease(self) -> None:
        with self.pool.lease(None) as sock:
            sock.sendall(b"ping")
            echoed = sock.recv(4).decode()
            say(echoed=echoed, address=sock.getsockname())


def say(**things: Any) -> None:
    things |= {"time": time.time(), "monotonic": time.monotonic()}
    print(json.dumps(things), flush=True)


def main() -> None:
    roving = Roving(**json.loads(sys.argv[1]))
    for line in FileObject(0, "r", closefd=False):
        getattr(roving, line.strip())()


if __name__ == "__main__":
    main()
