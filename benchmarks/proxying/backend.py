"""``python -m benchmarks.proxying.backend ADDRESS``: says what it's told, and else nothing.

Each line of stdin is answered by how many connections there are. It's a loop on ``epoll``
without greenlets, for it is to cost little.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys

from benchmarks.loopback import Address


def main(address: Address) -> None:
    listener = socket.create_server(tuple(address), backlog=1024)
    listener.setblocking(False)
    poll = select.epoll()
    for descriptor in (listener.fileno(), sys.stdin.fileno()):
        poll.register(descriptor, select.EPOLLIN)
    connections: set[int] = set()
    print(json.dumps("listening"), flush=True)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                _accept(listener, poll, connections)
            elif descriptor != sys.stdin.fileno():
                _answer(descriptor, connections)
            elif not os.read(descriptor, 4096):
                return
            else:
                print(json.dumps(len(connections)), flush=True)


def _accept(listener: socket.socket, poll: select.epoll, connections: set[int]) -> None:
    while True:
        try:
            descriptor, _ = listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        connections.add(descriptor)
        poll.register(descriptor, select.EPOLLIN)


def _answer(descriptor: int, connections: set[int]) -> None:
    try:
        data = os.read(descriptor, 4096)
        os.write(descriptor, data)
    except ConnectionError:
        data = b""
    if not data:
        connections.discard(descriptor)
        os.close(descriptor)


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
