"""A slot server that echoes, announces itself in ZooKeeper, and drains on SIGTERM.

Its arguments are the hosts and the path; it prints its id once it's announced.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import gevent
from gevent.event import Event

from gevent_rover import SlotServer
from gevent_rover.discovery import address_id, announce

#: Seconds that connections have to end after the server's node has gone.
DRAIN = 5.0


def echo(slot: int, sock: Any, address: Any) -> None:
    while data := sock.recv(1024):
        sock.sendall(data)


def main() -> None:
    hosts, path = sys.argv[1:]
    done = Event()
    gevent.signal_handler(signal.SIGTERM, done.set)
    server = SlotServer(("127.0.0.1", 0), echo)
    server.start()
    port = server.server_port
    assert port is not None
    with announce(server, hosts, path):
        print(json.dumps(address_id("127.0.0.1", port)), flush=True)
        done.wait()
        # Clients let go of its idle connections: each handler ends with its connection.
        server.stop(timeout=DRAIN)


if __name__ == "__main__":
    main()
