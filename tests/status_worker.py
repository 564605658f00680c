"""A worker process of an app: a rover, a pool that is used, and a status server in a folder.

``python status_worker.py FOLDER ID=HOST:PORT…``
"""

from __future__ import annotations

import sys
from typing import Any

import gevent

from gevent_rover import Rover, SlotPool, parse_server
from gevent_rover.status import StatusServer


def main(folder: str, *servers: str) -> None:
    rover = Rover(dict(map(parse_server, servers)), roving_interval=0.05)
    rover.on("error", lambda rover, error: None)
    with (
        rover,
        SlotPool[Any](rover, max_slots=4) as pool,
        StatusServer(rover, pool, f"unix:{folder}/"),
    ):
        pool.wait_ready()
        print("ready", flush=True)
        while True:
            with pool.lease() as sock:
                sock.sendall(b"x")
                sock.recv(1)
            gevent.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
