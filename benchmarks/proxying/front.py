"""``python -m benchmarks.proxying.front ADDRESS BACKEND false``: a front that can be watched.

With ``false`` it says no slot lines, so that clients which can't read one speak through it:
its pump is what is measured then. It prints its process's id when it listens. Each line of
stdin is an order:

- ``{"watch": true}``: note from now on how late a greenlet comes that wants to run every
  millisecond;
- ``{"watch": false}``: note it no longer, and print p99 and the most, in ms.
"""

from __future__ import annotations

import json
import os
import sys
from time import monotonic
from typing import Any

import gevent
from gevent import socket as gevent_socket
from gevent.fileobject import FileObject

from benchmarks.loopback import Address
from benchmarks.measure import percentile
from gevent_rover.serving.front import Front

_EVERY = 0.001


class _Wordless(gevent_socket.socket):
    """A connection whose ``sendall`` sends nothing.

    Only the slot line is sent by that. The pump sends by the socket beneath.
    """

    __slots__ = ()

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Swallow the slot line."""


class WordlessFront(Front):
    """A front that takes slots, but says none."""

    def do_handle(self, socket: Any, address: Any) -> None:
        socket.__class__ = _Wordless
        super().do_handle(socket, address)


class _Lags:
    """How late a greenlet was that wanted to run every millisecond, in seconds."""

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._greenlet: Any = None

    def begin(self) -> None:
        self._lags = []
        self._greenlet = gevent.spawn(self._watch)

    def _watch(self) -> None:
        while True:
            due = monotonic() + _EVERY
            gevent.sleep(_EVERY)
            self._lags.append(monotonic() - due)

    def end(self) -> dict[str, float]:
        self._greenlet.kill()
        return {"p99": percentile(self._lags, 99) * 1e3, "most": max(self._lags) * 1e3}


def main(address: Address, backend: Address, says_slots: bool) -> None:
    host, port = backend
    kind = Front if says_slots else WordlessFront
    server = kind(tuple(address), {"host": host, "port": port}, backlog=1024)
    server.start()
    lags = _Lags()
    print(json.dumps(os.getpid()), flush=True)
    for line in FileObject(sys.stdin.fileno(), closefd=False):
        answer: dict[str, float] = {}
        if json.loads(line)["watch"]:
            lags.begin()
        else:
            answer = lags.end()
        print(json.dumps(answer), flush=True)
    server.stop(0)


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
