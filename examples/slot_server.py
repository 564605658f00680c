"""A slot server with a little protocol behind the slot line: a key/value store.

Usage: python examples/slot_server.py [PORT]

One request a line: ``GET key``, ``SET key value``, ``DEL key``, ``QUIT``; one answer a
line. SIGTERM or SIGINT ends it.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import gevent
from gevent.socket import socket as Socket

from gevent_rover import SlotServer

MAX_LINE = 1024

store: dict[str, str] = {}


def answer(line: str) -> str:
    """Carry out one request and return what to say."""
    match line.split(" ", 2):
        case ["GET", key]:
            return store.get(key, "ERROR no such key")
        case ["SET", key, value]:
            store[key] = value
            return "OK"
        case ["DEL", key]:
            return "OK" if store.pop(key, None) is not None else "ERROR no such key"
        case _:
            return "ERROR expected GET key, SET key value, DEL key or QUIT"


def handle(slot: int, socket: Socket, address: Any) -> None:
    """Serve one client; the slot line was sent already, and the server closes the socket."""
    with socket.makefile("rwb") as lines:
        while line := lines.readline(MAX_LINE):
            if not line.endswith(b"\n"):
                return  # too long, or cut off
            request = line.decode("utf-8", "replace").rstrip("\r\n")
            if request == "QUIT":
                return
            lines.write(answer(request).encode() + b"\r\n")
            lines.flush()


def main(port: int = 0) -> None:
    server = SlotServer(("127.0.0.1", port), handle)
    server.start()
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.close)
    server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
