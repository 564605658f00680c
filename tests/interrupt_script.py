"""A process that stops its rover, pool and server on a POSIX signal, at random moments.

Its arguments: how the signal is handled (``signal.signal``, ``gevent.signal_handler``, or ``in
the hub``: by ``signal.signal`` right before the hub calls somebody back), a seed, and the
number of rounds. Each round has all three at work, with leases under way, and a timer that
sends SIGALRM. After each round everything has ended, and as many
descriptors and greenlets are left as before; else it ends with a traceback. It prints a
line of JSON: in how many rounds the handler interrupted a step, and so was put off.
"""

from __future__ import annotations

import _thread
import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import gevent
from conftest import entry, living_greenlets, open_descriptors, wait_until
from gevent import socket

from gevent_rover import PoolClosed, PoolTimeout, Rover, SlotPool, SlotServer


def echo(slot: int, sock: socket.socket, address: Any) -> None:
    while data := sock.recv(1024):
        sock.sendall(data)


def use(pool: SlotPool, pause: float = 0) -> None:
    """Lease again and again, until the pool is closed."""
    while True:
        try:
            with pool.lease(1) as sock:
                sock.sendall(b"hello")
                gevent.sleep(pause)
                if sock.recv(5) != b"hello":
                    raise ConnectionResetError
        except PoolClosed:
            return
        except (PoolTimeout, OSError):
            gevent.sleep(0)


class Round:
    """A server, a rover and a pool at work, until a signal ends them."""

    def __init__(self, chance: random.Random) -> None:
        self.server = SlotServer(("127.0.0.1", 0), echo)
        self.server.stop_timeout = chance.choice([0, 0.01])
        self.server.start()
        numbers = entry(self.server)
        named = {**numbers, "host": "localhost"}
        # Names are looked up and dialled in greenlets, numbers by the hub.
        servers = {"numbers": numbers, "name": named, "nobody": {"path": "/nosuch/socket"}}
        self.rover = Rover(servers, roving_interval=0.001)  # type: ignore[arg-type]
        self.rover.on("error", lambda rover, error: None)
        self.pool = SlotPool(self.rover, max_slots=4)
        self.users = [gevent.spawn(use, self.pool, pause) for pause in (0, 0, 0.001)]
        self.ends = [self.rover.stop, self.pool.close, self.server.stop]
        chance.shuffle(self.ends)
        self.handled = self.put_off = False

    @property
    def ended(self) -> bool:
        return not self.rover.started and self.pool.closed and not self.server.started

    def handle(self, *args: object) -> None:
        """End all three: what a handler of the signal does."""
        try:
            for end in self.ends:
                end()
        except BaseException:  # It may be in anybody's greenlet.
            traceback.print_exc()
            os._exit(1)
        self.put_off = not self.ended
        self.handled = True

    def run(self, send_later: Callable[[float], object], delay: float) -> None:
        with self.rover:
            send_later(delay)
            use(self.pool)  # Steps in the main greenlet are interrupted, too.
            wait_until(lambda: self.handled and self.ended)
        gevent.joinall(self.users, raise_error=True)
        wait_until(lambda: not len(self.server.slots) and not self.rover.pending)
        assert (self.pool.size, self.pool.retired, self.pool.waiting) == (0, 0, 0), self.pool


def by_signal_signal(handle: Callable[..., None]) -> Callable[[], object]:
    previous = signal.signal(signal.SIGALRM, handle)
    return lambda: signal.signal(signal.SIGALRM, previous)


def by_gevent(handle: Callable[..., None]) -> Callable[[], object]:
    handler: Any = gevent.signal_handler(signal.SIGALRM, handle)
    return handler.cancel  # type: ignore[no-any-return]


def send_later(delay: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, delay)


def send_in_the_hub(delay: float) -> None:
    # A function in C: no bytecode is run in between, so the handler runs when the hub
    # looks for signals, before it calls the next one.
    gevent.get_hub().loop.timer(delay).start(_thread.interrupt_main, signal.SIGALRM)


WAYS = {
    "signal.signal": (by_signal_signal, send_later),
    "gevent.signal_handler": (by_gevent, send_later),
    "in the hub": (by_signal_signal, send_in_the_hub),
}


def see_that_nothing_is_left(
    descriptors: set[int], greenlets: set[gevent.Greenlet[..., Any]], what: str
) -> None:
    """Wait until there are no others; fail when there still are after 5 seconds."""
    try:
        wait_until(lambda: open_descriptors() <= descriptors)
        wait_until(lambda: living_greenlets() <= greenlets)
    except AssertionError as exc:
        left = open_descriptors() - descriptors, living_greenlets() - greenlets
        raise AssertionError(f"{what}, left: {left}") from exc


def run_one(way: str, chance: random.Random) -> bool:
    """Run a round, and tell whether the handler was put off."""
    one = Round(chance)
    handle_by, send = WAYS[way]
    forget = handle_by(one.handle)
    one.run(send, chance.uniform(1e-5, 0.015))
    forget()
    return one.put_off


def main(way: str, seed: str, rounds: str) -> None:
    chance = random.Random(seed)
    # Some things are opened once, whoever asks first: threads that look up names, say.
    run_one(way, chance)
    descriptors, greenlets = open_descriptors(), living_greenlets()
    put_off = 0
    for number in range(int(rounds)):
        was_put_off = run_one(way, chance)
        put_off += was_put_off
        what = f"round {number}, put off: {was_put_off}"
        see_that_nothing_is_left(descriptors, greenlets, what)
    print(json.dumps({"put off": put_off}))


if __name__ == "__main__":
    main(*sys.argv[1:])
