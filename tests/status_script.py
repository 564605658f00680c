"""Processes to look at on the page: servers, a worker that leases, or an app that says anything.

The first argument is one of these roles, the second one its parameters, as JSON. Each line of
the input is a command, as JSON: ``{"do": NAME, …}``. Each line of output is JSON, too: the
first one when all is ready.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from random import expovariate
from time import time
from typing import Any

import gevent
from gevent import socket
from gevent.fileobject import FileObject

from gevent_rover import PoolError, Rover, SlotPool, SlotServer
from gevent_rover.status import PageServer, StatusApp, StatusServer, snapshot


def say(**things: Any) -> None:
    print(json.dumps(things), flush=True)


class Servers:
    """Slot servers that answer each line, and can die, be slow, or hang up instead.

    :param names: of the servers.
    """

    def __init__(self, names: list[str]) -> None:
        self._seconds = dict.fromkeys(names, 0.0015)
        self._failing: set[str] = set()
        self._held: list[socket.socket] = []
        self._servers = {name: self._server(name) for name in names}
        for name in names:
            self.revive(name)
        say(ports={name: server.server_port for name, server in self._servers.items()})

    def _server(self, name: str) -> SlotServer:
        # Bound by this one, too, which never listens: no other process gets the port
        # while the server is dead.
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        self._held.append(held)
        server = SlotServer(held.getsockname(), partial(self._handle, name))
        server.stop_timeout = 0.0
        return server

    def _handle(self, name: str, slot: int, sock: socket.socket, address: object) -> None:
        while sock.recv(1024):
            if name in self._failing:
                return
            seconds = self._seconds[name]
            gevent.sleep(seconds / 2 + expovariate(2 / seconds))
            sock.sendall(b"pong\n")

    def die(self, name: str) -> None:
        self._servers[name].stop()

    def revive(self, name: str) -> None:
        self._servers[name].start()

    def take(self, name: str, seconds: float) -> None:
        """Have a server take so many seconds for an answer."""
        self._seconds[name] = seconds

    def fail(self, name: str) -> None:
        self._failing.add(name)

    def heal(self, name: str) -> None:
        self._failing.discard(name)


class Worker:
    """A worker of an app: it leases all the time, and shows what it's up to in a folder.

    It says each change of a server's state, and when it knew.

    :param ports: where servers listen, by their ids.
    :param sockets: the folder for its socket.
    :param max_slots: of its pool.
    :param greenlets: so many lease, rest for some milliseconds, and lease again.
    """

    def __init__(
        self, ports: dict[str, int], sockets: str, max_slots: int, greenlets: int = 6
    ) -> None:
        self.rover = Rover(roving_interval=0.2)
        self.rover.on("error", lambda rover, error: None)
        for id, port in ports.items():
            self.add(id, port)
        self.pool: SlotPool[Any] = SlotPool(self.rover, max_slots=max_slots)
        self._server = StatusServer(self.rover, self.pool, f"unix:{sockets}/")
        self._states: dict[str | None, str] = {}
        self.rover.start()
        self.pool.wait_ready()
        self._server.start()
        for _ in range(greenlets):
            gevent.spawn(self._lease_for_ever)
        gevent.spawn(self._watch)
        say(ready=True)

    def _lease_for_ever(self) -> None:
        while True:
            self._lease()
            gevent.sleep(expovariate(1 / 0.02))

    def _lease(self) -> None:
        try:
            with self.pool.lease(1) as sock, gevent.Timeout(2):
                sock.sendall(b"ping\n")
                if not sock.recv(1024):
                    raise EOFError("hung up instead of an answer")
        except (OSError, EOFError, PoolError, gevent.Timeout):
            pass

    def _watch(self) -> None:
        while True:
            for server in snapshot(self.rover, self.pool)["servers"]:
                id, state = server["id"], server["state"]
                if self._states.get(id) != state:
                    self._states[id] = state
                    say(id=id, state=state, time=time())
            gevent.sleep(0.01)

    def add(self, id: str, port: int) -> None:
        self.rover.add_server(id, {"host": "127.0.0.1", "port": port})

    def drop(self, id: str) -> None:
        self.rover.drop_server(id)

    def lease(self, count: int) -> None:
        """Lease so many times more, at once."""
        for _ in range(count):
            gevent.spawn(self._lease)

    def offer(self, port: int) -> None:
        """Offer the pool a connection, and don't say whose it is."""
        sock = socket.create_connection(("127.0.0.1", port))
        sock.recv(100)  # a high slot, so that another one would soon take its place
        self.pool.max_slots += 1
        self.pool.offer(0, sock)


class Lines:
    """An app that says what a file says.

    :param file: its lines are those of workers.
    """

    def __init__(self, file: str) -> None:
        app = StatusApp(lambda: Path(file).read_bytes().splitlines())
        self._server = PageServer(app, "127.0.0.1:0")
        self._server.start()
        say(url=self._server.url)


_ROLES: dict[str, Any] = {"servers": Servers, "worker": Worker, "lines": Lines}


def main() -> None:
    role = _ROLES[sys.argv[1]](**json.loads(sys.argv[2]))
    for line in FileObject(0, "r", closefd=False):
        command = json.loads(line)
        getattr(role, command.pop("do"))(**command)
        say(done=True)


if __name__ == "__main__":
    main()
