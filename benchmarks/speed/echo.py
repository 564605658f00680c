"""``python -m benchmarks.speed.echo 4``: slot servers that send back what they receive.

It polls while there is something to do: a server that sleeps has to be woken, which is
charged to the client whose packet arrives.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from itertools import count

_LISTEN = select.EPOLLIN


def main(servers: int) -> None:
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=256) for _ in range(servers)]
    print(json.dumps([listener.getsockname()[1] for listener in listeners]), flush=True)
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    slots = {listener.fileno(): count() for listener in listeners}
    for listener in listeners:
        sockets[listener.fileno()] = listener
        poll.register(listener, _LISTEN)
    poll.register(sys.stdin, _LISTEN)
    idle = 0
    while True:
        ready = poll.poll(0 if idle < 20_000 else -1)
        idle = 0 if ready else idle + 1
        for descriptor, _ in ready:
            if descriptor == sys.stdin.fileno():
                return
            sock = sockets[descriptor]
            if descriptor in slots:
                connected, _ = sock.accept()
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connected.sendall(b"%d\r\n" % next(slots[descriptor]))
                sockets[connected.fileno()] = connected
                poll.register(connected, _LISTEN)
                continue
            try:
                data = sock.recv(65536)
            except ConnectionError:
                data = b""
            if data:
                sock.sendall(data)
            else:
                poll.unregister(sock)
                del sockets[descriptor]
                sock.close()


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
