"""``python -m benchmarks.proxying.delaying ADDRESS SERVER 0.005``: what makes a server slow.

It passes on what either side says; what the server says, so many seconds late.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import gevent
from gevent import socket
from gevent.fileobject import FileObject
from gevent.server import StreamServer

from benchmarks.loopback import Address


class Delaying(StreamServer):
    """A proxy that passes a server's answers on late.

    Each connection has a delay of its own, so the server is slow, but not busy.
    """

    def __init__(self, address: Address, server: Address, delay: float) -> None:
        super().__init__(address, backlog=1024)
        self._server = server
        self._delay = delay

    def handle(self, client: socket.socket, address: Any) -> None:
        with socket.create_connection(self._server) as server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = gevent.spawn(self._pass_on, server, client, self._delay)
            try:
                self._pass_on(client, server, 0)
            finally:
                back.kill()

    def _pass_on(self, source: socket.socket, target: socket.socket, delay: float) -> None:
        try:
            while data := source.recv(65536):
                if delay:
                    gevent.sleep(delay)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # Either side has gone.


def main(address: Address, server: Address, delay: float) -> None:
    (host, port), (server_host, server_port) = address, server  # JSON knows lists alone.
    proxy = Delaying((host, port), (server_host, server_port), delay)
    proxy.start()
    print(json.dumps("listening"), flush=True)
    for _ in FileObject(sys.stdin.fileno(), closefd=False):
        pass
    proxy.stop(0)


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
