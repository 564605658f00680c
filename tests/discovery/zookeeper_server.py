"""A slot server that announces itself until it's told to stop, or dies.

Usage: zookeeper_server.py HOSTS PATH SESSION_TIMEOUT

It prints its port. SIGTERM stops the server alone; a line on its standard input ends the process,
and neither server nor announcement is stopped by hand.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import gevent
from gevent.fileobject import FileObject

from gevent_rover import SlotServer
from gevent_rover.discovery.announcing import announce


def handle(slot: int, socket: Any, address: Any) -> None:
    while socket.recv(1024):
        pass


hosts, path, timeout = sys.argv[1:]
server = SlotServer(("127.0.0.1", 0), handle)
server.start()
announcement = announce(server, hosts, path, session_timeout=float(timeout))
gevent.signal_handler(signal.SIGTERM, server.stop)
print(server.server_port, flush=True)
FileObject(sys.stdin.fileno(), "rb", close=False).readline()
