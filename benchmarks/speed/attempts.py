"""One attempt: pick at random, connect, read the slot line, publish to one receiver, close."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from random import choice
from typing import Any

import gevent
import gevent.socket
from gevent.event import Event

from benchmarks.child import node, python
from benchmarks.loopback import Address, registry
from benchmarks.measure import Row, compare, cpu_of, in_turn
from gevent_rover import Rover, Slot

IN_FLIGHT = 50

#: The peers, and what the rover's attempt may cost at most as a multiple of theirs.
_PEERS = {
    "blocking loop": 1.4,
    "Node net": 0.85,
    "asyncio streams": 0.55,
    "gevent create_connection": 0.6,
}
_VARIANTS = {"with an attempt receiver": 1.1, "through connect()": 1.05, "10,000 servers": 1.3}


def measure(rounds: int, *, quick: bool) -> list[Row]:
    count = 200 if quick else 4000
    with python("speed.slot_server") as server:
        addresses = [(host, port) for host, port in server.receive()]
        with node("speed/attempts.js", addresses) as script:

            def rover(**options: Any) -> Callable[[], float]:
                return lambda: cpu_of(lambda n: _flat_out(addresses, n, **options), count)

            measures: dict[str, Callable[[], float]] = {
                "attempt": rover(),
                "blocking loop": lambda: cpu_of(lambda n: _blocking(addresses, n), count),
                "asyncio streams": lambda: cpu_of(
                    lambda n: asyncio.run(_tasks(addresses, n)), count
                ),
                "gevent create_connection": lambda: cpu_of(
                    lambda n: _in_greenlets(lambda: _create_connection(addresses), n), count
                ),
                "with an attempt receiver": rover(watched=True),
                "through connect()": lambda: cpu_of(lambda n: _connect(addresses, n), count),
                "10,000 servers": rover(servers=10_000),
            }
            if script is not None:
                measures["Node net"] = lambda: float(script.ask(count)) / count
            figures = in_turn(rounds, measures)
    rows = []
    for peer, target in _PEERS.items():
        if peer in figures:
            rows.append(compare("attempts", figures, "attempt", peer, target))
        else:
            reason = "there is no node command"
            rows.append(Row("attempts", "attempt", "µs", target, "ratio", peer, skipped=reason))
    for variant, target in _VARIANTS.items():
        rows.append(compare("attempts", figures, variant, "attempt", target))
    return rows


def _flat_out(
    addresses: list[Address], count: int, *, watched: bool = False, servers: int = 0
) -> None:
    rover = Rover(registry(addresses, servers), max_pending=IN_FLIGHT)
    left = count
    done = Event()

    def close(rover: Rover, slot: Slot, socket: gevent.socket.socket) -> None:
        nonlocal left
        left -= 1
        socket.close()
        if left <= 0:
            done.set()

    rover.on("connection", close)
    if watched:
        rover.on("attempt", lambda rover, attempt: None)
    rover.wanted = lambda: min(IN_FLIGHT, left)  # No attempt more than count.
    with rover:
        done.wait()


def _connect(addresses: list[Address], count: int) -> None:
    rover = Rover(registry(addresses))
    rover.on("connection", lambda rover, slot, socket: socket.close())
    _in_greenlets(rover.connect, count)


def _blocking(addresses: list[Address], count: int) -> None:
    """Make the bare system calls, one attempt after the other: nobody can do with less."""
    for _ in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(choice(addresses))
        line = b""
        while not line.endswith(b"\r\n"):
            line += sock.recv(64)
        int(line)
        sock.close()


def _create_connection(addresses: list[Address]) -> None:
    sock = gevent.socket.create_connection(choice(addresses), 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line = b""
    while not line.endswith(b"\r\n"):
        line += sock.recv(64)
    int(line)
    sock.close()


def _in_greenlets(attempt: Callable[[], object], count: int) -> None:
    left = count

    def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            attempt()

    gevent.joinall([gevent.spawn(work) for _ in range(IN_FLIGHT)], raise_error=True)


async def _tasks(addresses: list[Address], count: int) -> None:
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            reader, writer = await asyncio.open_connection(*choice(addresses))  # sets TCP_NODELAY
            int(await reader.readuntil(b"\r\n"))
            writer.close()
            await writer.wait_closed()

    await asyncio.gather(*[work() for _ in range(IN_FLIGHT)])
