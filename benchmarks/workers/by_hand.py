"""What somebody without a rover would write: two choices, on sockets that stay open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import sample

from gevent import socket

from gevent_rover import Server

Socket = socket.socket


class TwoChoices:
    """Of two servers picked at random, leases a socket of the one with fewer requests of ours.

    It takes the place of the example's pool and of its rover.
    """

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self._addresses = {id: (each["host"], each["port"]) for id, each in servers.items()}
        self._idle: dict[str, list[Socket]] = {id: [] for id in servers}
        self._under_way: Counter[str] = Counter()

    def start(self) -> None:
        """Connect to each server, so that one sees from there when a worker is up."""
        for id, idle in self._idle.items():
            idle.append(self._connect(id))

    def stop(self) -> None:
        """Do what a rover does: nothing, here."""

    def close(self) -> None:
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    @contextmanager
    def lease(self) -> Iterator[Socket]:
        two = sample(list(self._idle), 2)
        id = min(two, key=self._under_way.__getitem__)
        self._under_way[id] += 1
        try:
            sock = self._idle[id].pop() if self._idle[id] else self._connect(id)
            try:
                yield sock
            except BaseException:
                sock.close()
                raise
            self._idle[id].append(sock)  # the one used last comes first
        finally:
            self._under_way[id] -= 1

    def _connect(self, id: str) -> Socket:
        sock = socket.create_connection(self._addresses[id])
        while not sock.recv(1).endswith(b"\n"):
            pass  # The slot line, which is nobody's business here.
        return sock
