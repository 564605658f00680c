"""``python -m benchmarks.metrics.worker FOLDER ALL PORTS SERVERS CONNECTIONS``: a worker to poll.

It shows itself at a socket in FOLDER, and, if ALL isn't empty, all workers of that folder at
the socket ALL. Each line of stdin is an order, ``{"leases": 100}``: make so many, and answer
with the CPU time so far, in seconds.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from time import process_time

from gevent.fileobject import FileObject

from benchmarks.loopback import registry
from gevent_rover import Rover, SlotPool
from gevent_rover.status import StatusServer, status_app
from gevent_rover.status.server import PageServer


def main(folder: str, all: str, ports: list[int], servers: int, connections: int) -> None:
    rover = Rover(registry([("127.0.0.1", port) for port in ports], servers), roving_interval=0.01)
    with ExitStack() as stack:
        pool = stack.enter_context(SlotPool(rover, max_slots=connections))
        stack.enter_context(rover)
        pool.wait_ready()
        rover.roving_interval = 3600.0  # Its attempts aren't what is measured.
        own = stack.enter_context(StatusServer(rover, pool, f"unix:{folder}/"))
        if all:
            app = status_app(rover, pool, workers=f"unix:{folder}/")
            stack.enter_context(PageServer(app, f"unix:{all}"))
        print(json.dumps(own.url.removeprefix("unix:")), flush=True)
        for line in FileObject(sys.stdin.fileno(), closefd=False):
            for _ in range(json.loads(line)["leases"]):
                pool.release(pool.acquire())
            print(json.dumps(process_time()), flush=True)


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
