"""One checkout's pool, measured: see :mod:`benchmarks.speed.versions`.

It uses nothing but what a checkout of any age has.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

FOLDER = Path(sys.argv[1])
sys.path.insert(0, str(FOLDER))

import gevent  # noqa: E402
from gevent import socket  # noqa: E402

import gevent_rover  # noqa: E402

MESSAGE = b"x" * 32


def full_pool(ports: list[int], max_slots: int) -> Any:
    """Return a pool that is full, of a rover that only ticks."""
    servers: Any = {str(port): {"host": "127.0.0.1", "port": port} for port in ports}
    rover = gevent_rover.Rover(servers, roving_interval=0.01)
    pool = gevent_rover.SlotPool(rover, max_slots=max_slots)
    rover.start()
    while pool.deficit:
        gevent.sleep(0.001)
    rover.roving_interval = 3600
    gevent.sleep(0.05)
    return pool


def leases(pool: Any, count: int) -> None:
    for _ in range(count):
        pool.release(pool.acquire())


def requests(pool: Any, greenlets: int, count: int) -> None:
    def work() -> None:
        for _ in range(count // greenlets):
            with pool.lease() as sock:
                sock.sendall(MESSAGE)
                if len(sock.recv(len(MESSAGE))) != len(MESSAGE):
                    raise ConnectionError("the server hung up")

    gevent.joinall([gevent.spawn(work) for _ in range(greenlets)], raise_error=True)


def main() -> None:
    assert Path(gevent_rover.__file__).is_relative_to(FOLDER), gevent_rover.__file__
    ports = json.loads(sys.argv[2])
    lone = gevent_rover.SlotPool(max_slots=100)
    pairs = [socket.socketpair() for _ in range(100)]
    for slot, (mine, _) in enumerate(pairs):
        lone.offer(slot, mine)
    one, twenty = full_pool(ports, 1), full_pool(ports, 20)
    works: dict[str, Callable[[int], None]] = {
        "acquire + release": lambda count: leases(lone, count),
        "request, 1 greenlet": lambda count: requests(one, 1, count),
        "request, 20 greenlets": lambda count: requests(twenty, 20, count),
    }
    for line in sys.stdin:
        asked = json.loads(line)
        began = process_time()
        works[asked["kind"]](asked["count"])
        print((process_time() - began) / asked["count"] * 1e6, flush=True)


if __name__ == "__main__":
    main()
