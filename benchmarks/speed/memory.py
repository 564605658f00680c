"""Memory of an attempt that is pending at a silent server.

``python -m benchmarks.speed.memory '"rover"' ADDRESSES COUNT`` (or ``'"bare"'``) is the measured
process.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import choice

import gevent
import gevent.socket

from benchmarks.child import python
from benchmarks.loopback import Address, descriptors, hang, registry, silent_servers
from benchmarks.measure import Row, Spread, compare, in_turn
from gevent_rover import Rover

_OURS = "memory of an attempt pending"
_BARE = "bare gevent connect + recv"


def measure(rounds: int, *, quick: bool) -> list[Row]:
    count = 100 if quick else descriptors(5000)
    note = f"{count:,} of them"
    figures = in_turn(
        rounds, {_OURS: lambda: _of("rover", count), _BARE: lambda: _of("bare", count)}
    )
    return [
        Row("memory", _OURS, "kB", 8, "figure", figure=Spread.of(figures[_OURS]), note=note),
        compare("memory", figures, _OURS, _BARE, 0.85, "kB", note),
    ]


def _of(kind: str, count: int) -> float:
    with silent_servers() as addresses, python("speed.memory", kind, addresses, count) as child:
        return float(child.receive())


def _resident() -> int:
    """Return the bytes of this process's own that are in memory: without files and shared ones."""
    gc.collect()
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _pending_attempts(addresses: list[Address], count: int) -> Callable[[], object]:
    rover = Rover(registry(addresses), timeout=600, max_pending=count)
    rover.start()
    hang(rover, count)
    return rover.stop


def _pending_receives(addresses: list[Address], count: int) -> Callable[[], object]:
    waiting = 0

    def wait() -> None:
        nonlocal waiting
        sock = gevent.socket.socket()
        sock.connect(choice(addresses))
        waiting += 1
        sock.recv(64)

    greenlets = [gevent.spawn(wait) for _ in range(count)]
    while waiting < count:
        gevent.sleep(0.01)
    return lambda: gevent.killall(greenlets)


def _main(kind: str, addresses: list[Address], count: int) -> None:
    descriptors(count)
    pend = _pending_attempts if kind == "rover" else _pending_receives
    addresses = [(host, port) for host, port in addresses]
    pend(addresses, 1)()  # What is allocated once doesn't count.
    before = _resident()
    with gevent.Timeout(60):
        end = pend(addresses, count)
    print(json.dumps((_resident() - before) / count / 1e3), flush=True)
    end()


if __name__ == "__main__":
    _main(*map(json.loads, sys.argv[1:]))
