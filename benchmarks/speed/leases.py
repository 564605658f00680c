"""``acquire`` and ``release`` with the live check, with few and with many sockets in the pool."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack

import gevent.socket
from gevent.queue import LifoQueue

from benchmarks.loopback import Address, descriptors, silent_servers
from benchmarks.measure import Row, compare, cpu_of, in_turn
from gevent_rover import SlotPool


def measure(rounds: int, *, quick: bool) -> list[Row]:
    count = 500 if quick else 100_000
    few, many = (10, 100) if quick else (100, descriptors(10_000))
    note = "" if quick or many == 10_000 else "as many as the descriptor limit permits"
    with ExitStack() as stack:
        addresses = stack.enter_context(silent_servers())
        measures: dict[str, Callable[[], float]] = {}
        pools = {}
        for size in (few, many):
            sockets = [_connected(addresses, number) for number in range(size)]
            pools[size] = stack.enter_context(SlotPool(max_slots=size))
            queue: LifoQueue[socket.socket] = LifoQueue()
            for slot, sock in enumerate(sockets):
                pools[size].offer(slot, sock)
                # The peer has no gevent around its sockets: the very same descriptors.
                bare = socket.socket(fileno=sock.fileno())
                stack.callback(bare.detach)
                bare.setblocking(False)
                queue.put(bare)
            measures[f"acquire + release, {size:,} sockets"] = _pool_measure(pools[size], count)
            measures[f"LifoQueue, {size:,} sockets"] = _queue_measure(queue, count)
        figures = in_turn(rounds, measures)
    rows = [
        compare(
            "lease",
            figures,
            f"acquire + release, {size:,} sockets",
            f"LifoQueue, {size:,} sockets",
            1.5,
            note=note if size == many else "",
        )
        for size in (few, many)
    ]
    flat = [f"acquire + release, {size:,} sockets" for size in (many, few)]
    return [*rows, compare("lease", figures, flat[0], flat[1], 1.2, note=note)]


def _connected(addresses: list[Address], number: int) -> gevent.socket.socket:
    sock = gevent.socket.socket()
    sock.connect(addresses[number % len(addresses)])
    return sock


def _pool_measure(pool: SlotPool, count: int) -> Callable[[], float]:
    def work(count: int) -> None:
        for _ in range(count):
            pool.release(pool.acquire())

    return lambda: cpu_of(work, count)


def _queue_measure(queue: LifoQueue[socket.socket], count: int) -> Callable[[], float]:
    def work(count: int) -> None:
        for _ in range(count):
            sock = queue.get()
            try:
                sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                queue.put(sock)  # Nothing to read, not even the end: it's alive.
            else:
                raise AssertionError("a silent server said something")

    return lambda: cpu_of(work, count)
