"""How long it takes to fill a pool, and to refill it after a server died.

``python -m benchmarks.speed.fills 10`` is a process with 10 slot servers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event
from gevent.fileobject import FileObject

from benchmarks.child import python
from benchmarks.loopback import registry
from benchmarks.measure import Row, Spread, in_turn
from gevent_rover import Rover, Slot, SlotPool, SlotServer

_FILL = "filling a pool of {} from 10 servers"
_REFILL = "refilling it after one of four servers died"


def measure(rounds: int, *, quick: bool) -> list[Row]:
    size = 20 if quick else 100
    fill = _FILL.format(size)
    measures = {fill: lambda: _fill(size), _REFILL: lambda: _refill(size)}
    figures = in_turn(rounds, measures)
    return [
        Row("fill", what, "ms", 50, "figure", figure=Spread.of(figures[what]))
        for what in (fill, _REFILL)
    ]


def _fill(size: int) -> float:
    with ExitStack() as stack:
        servers = stack.enter_context(python("speed.fills", 10)).receive()
        rover = Rover(registry([(host, port) for host, port in servers]))
        pool = stack.enter_context(SlotPool(rover, max_slots=size))
        full = _when(rover, lambda: pool.size == size)
        began = monotonic()
        stack.enter_context(rover)
        full.wait()
        return (monotonic() - began) * 1e3


def _refill(size: int) -> float:
    with ExitStack() as stack:
        children = [stack.enter_context(python("speed.fills", 1)) for _ in range(4)]
        rover = Rover(
            registry([(host, port) for [[host, port]] in (c.receive() for c in children)])
        )
        pool = stack.enter_context(SlotPool(rover, max_slots=size))
        full = _when(rover, lambda: pool.size == size)
        stack.enter_context(rover)
        full.wait()
        # Halfway between two ticks, neither of which is to help, and older than one
        # interval: a server whose fresh connections die is one to stay away from.
        gevent.sleep(1.5 * rover.roving_interval)
        first = next(iter(rover.servers))
        refilled = _when(rover, lambda: pool.size == size and first not in _servers_of(pool))
        began = monotonic()
        children[0].kill()
        refilled.wait()
        return (monotonic() - began) * 1e3


def _servers_of(pool: SlotPool) -> set[str]:
    return {slot.server_id for slot, _ in pool.slots() if isinstance(slot, Slot)}


def _when(rover: Rover, predicate: Callable[[], bool]) -> Event:
    """Return an event that is set by the first attempt after which ``predicate`` holds."""
    event = Event()

    def look(rover: Rover, attempt: object) -> None:
        if predicate():
            event.set()
            rover.off("attempt", look)

    rover.on("attempt", look)
    return event


def _hold(slot: int, sock: gevent.socket.socket, address: Any) -> None:
    sock.recv(64)


def _serve(count: int) -> None:
    servers = [SlotServer(("127.0.0.1", 0), _hold, backlog=1024) for _ in range(count)]
    for server in servers:
        server.start()
    print(json.dumps([("127.0.0.1", server.server_port) for server in servers]), flush=True)
    for _ in FileObject(sys.stdin.fileno(), closefd=False):
        pass
    for server in servers:
        server.stop(0)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
