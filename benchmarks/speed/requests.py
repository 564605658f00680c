"""What a request pays for the pool: a lease for each, beside sockets of one's own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import gevent
from gevent import socket as gevent_socket

from benchmarks.child import python
from benchmarks.loopback import registry
from benchmarks.measure import Row, compare, cpu_of, in_turn
from gevent_rover import Rover, SlotPool

#: There and back.
MESSAGE = b"x" * 32

_SERVERS = 4
#: Greenlets that make requests, and what a request through the pool may cost then.
_GREENLETS = {1: 1.15, 20: 1.25}


def measure(rounds: int, *, quick: bool) -> list[Row]:
    count = 200 if quick else 20_000
    with ExitStack() as stack:
        echo = stack.enter_context(python("speed.echo", _SERVERS))
        addresses = [("127.0.0.1", port) for port in echo.receive()]
        measures: dict[str, Callable[[], float]] = {}
        for greenlets in _GREENLETS:
            pool = _full_pool(stack, addresses, greenlets)
            own = [_connected(stack, addresses, number) for number in range(greenlets)]
            measures[_through_pool(greenlets)] = _measure(_leasing(pool), greenlets, count)
            measures[_through_own(greenlets)] = _measure(_popping(own), greenlets, count)
        figures = in_turn(rounds, measures)
    return [
        compare("request", figures, _through_pool(greenlets), _through_own(greenlets), target)
        for greenlets, target in _GREENLETS.items()
    ]


def _through_pool(greenlets: int) -> str:
    return f"request through a pool, {_count(greenlets)}"


def _through_own(greenlets: int) -> str:
    return f"through a socket of its own, {_count(greenlets)}"


def _count(greenlets: int) -> str:
    return "1 greenlet" if greenlets == 1 else f"{greenlets} greenlets"


def _full_pool(stack: ExitStack, addresses: list[tuple[str, int]], greenlets: int) -> SlotPool:
    """Return a pool with a connection for each greenlet, of a rover that only ticks."""
    rover = Rover(registry(addresses), roving_interval=0.01)
    pool = stack.enter_context(SlotPool(rover, max_slots=greenlets))
    rover.start()
    stack.callback(rover.stop)
    while pool.deficit:
        gevent.sleep(0.001)
    rover.roving_interval = 3600
    gevent.sleep(0.05)
    return pool


def _connected(
    stack: ExitStack, addresses: list[tuple[str, int]], number: int
) -> gevent_socket.socket:
    sock = stack.enter_context(gevent_socket.create_connection(addresses[number % len(addresses)]))
    while sock.recv(1) != b"\n":
        pass  # The slot line.
    return sock


def _leasing(pool: SlotPool) -> Callable[[int], None]:
    def work(count: int) -> None:
        for _ in range(count):
            with pool.lease() as sock:
                sock.sendall(MESSAGE)
                _receive(sock)

    return work


def _popping(sockets: list[gevent_socket.socket]) -> Callable[[int], None]:
    def work(count: int) -> None:
        for _ in range(count):
            sock = sockets.pop()
            try:
                sock.sendall(MESSAGE)
                _receive(sock)
            except BaseException:
                sock.close()
                raise
            sockets.append(sock)

    return work


def _receive(sock: gevent_socket.socket) -> None:
    if len(sock.recv(len(MESSAGE))) != len(MESSAGE):
        raise ConnectionError("the server hung up")


def _measure(work: Callable[[int], None], greenlets: int, count: int) -> Callable[[], float]:
    """Return a measure of CPU per request, made by so many greenlets side by side."""

    def all_of_it(count: int) -> None:
        gevent.joinall(
            [gevent.spawn(work, count // greenlets) for _ in range(greenlets)], raise_error=True
        )

    return lambda: cpu_of(all_of_it, count)
