"""``python -m benchmarks.metrics.client FOLDER PORTS SERVERS CONNECTIONS``: a pool in a process.

With a FOLDER it's one of several processes for the client library of Prometheus, without
(an empty text) the only one. Each line of stdin is an order, answered by a line:

- ``{"instrumented": true, "greenlets": 20, "count": 20000}``: make so many requests of 32
  bytes, there and back, and say the CPU time of each, in µs;
- ``{"instrumented": true, "seconds": 2.0}``: do nothing, and say how much of the time that
  took, in %.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from time import monotonic, process_time
from typing import Any

import gevent
from gevent.fileobject import FileObject

from benchmarks.loopback import registry
from benchmarks.measure import cpu_of
from gevent_rover import Rover, SlotPool

#: There and back.
MESSAGE = b"x" * 32


def main(folder: str, ports: list[int], servers: int, connections: int) -> None:
    if folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    else:
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    # Only now: the client library looks at the environment as it's imported.
    from gevent_rover.metrics import instrument

    rover = Rover(registry([("127.0.0.1", port) for port in ports], servers), roving_interval=0.01)
    with rover, SlotPool(rover, max_slots=connections) as pool:
        pool.wait_ready()
        rover.roving_interval = 1.0  # the default
        print(json.dumps("ready"), flush=True)
        for line in FileObject(sys.stdin.fileno(), closefd=False):
            order = json.loads(line)
            with ExitStack() as stack:
                if order["instrumented"]:
                    stack.enter_context(instrument(rover, pool))
                rover.wake()  # The first attempt begins the looks.
                gevent.sleep(0.05)
                print(json.dumps(_measure(pool, order)), flush=True)


def _measure(pool: SlotPool, order: dict[str, Any]) -> float:
    if "seconds" in order:
        began, cpu = monotonic(), process_time()
        gevent.sleep(order["seconds"])
        return (process_time() - cpu) / (monotonic() - began) * 100

    def requests(count: int) -> None:
        for _ in range(count):
            with pool.lease() as socket:
                socket.sendall(MESSAGE)
                if len(socket.recv(len(MESSAGE))) != len(MESSAGE):
                    raise ConnectionError("the server hung up")

    def all_of_them(count: int) -> None:
        greenlets = order["greenlets"]
        gevent.joinall(
            [gevent.spawn(requests, count // greenlets) for _ in range(greenlets)],
            raise_error=True,
        )

    return cpu_of(all_of_them, order["count"])


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
