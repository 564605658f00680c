"""A slot server with a little protocol behind the slot line: a key/value store.

Usage: python examples/slot_server.py [--port PORT]

One request a line: ``GET key``, ``SET key value``, ``DEL key``, ``QUIT``; one answer a
line. Lines end with CRLF. SIGTERM or SIGINT ends it.
"""

from __future__ import annotations

import argparse
import signal
from typing import Any

import gevent
from gevent.socket import socket as Socket

from gevent_rover import SlotServer

# With its CRLF. Without a limit, a client that never ends its line takes all memory.
MAX_LINE = 1024

store: dict[bytes, bytes] = {}


def answer(request: bytes) -> bytes:
    """Carry out one request and return what to say."""
    match request.split(b" ", 2):
        case [b"GET", key] if key:
            return store.get(key, b"ERROR no such key")
        case [b"SET", key, value] if key:
            store[key] = value
            return b"OK"
        case [b"DEL", key] if key:
            return b"OK" if store.pop(key, None) is not None else b"ERROR no such key"
        case _:
            return b"ERROR expected GET key, SET key value, DEL key or QUIT"


def handle(slot: int, socket: Socket, address: Any) -> None:
    """Serve one client; the slot line was sent already, and the server closes the socket."""
    try:
        with socket.makefile("rwb") as lines:
            while line := lines.readline(MAX_LINE):
                if line == b"QUIT\r\n":
                    return
                if line.endswith(b"\r\n"):
                    lines.write(answer(line[:-2]) + b"\r\n")
                elif line.endswith(b"\n"):
                    lines.write(b"ERROR a line ends with CRLF\r\n")
                elif len(line) == MAX_LINE:
                    # Where the next request begins is anyone's guess: hang up.
                    lines.write(b"ERROR a line has at most %d bytes\r\n" % MAX_LINE)
                    return
                else:
                    return  # the client hung up within a line
                lines.flush()
    except OSError:
        pass  # The client is gone. That's no error: its slot is free again.


def main() -> None:
    parser = argparse.ArgumentParser(description="A key/value store behind a slot line.")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    server = SlotServer(("127.0.0.1", parser.parse_args().port), handle)
    server.start()
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.close)
    server.serve_forever()


if __name__ == "__main__":
    main()
