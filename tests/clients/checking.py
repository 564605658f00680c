"""What the checks of all recipes need: load, kills, and what must hold of a pool after them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import SimpleNamespace
from typing import Any

import gevent

from gevent_rover import PoolStats, Rover, Server, SlotPool

#: Many times as many greenlets as slots.
GREENLETS = 20
SLOTS = 3

rng = random.Random(13)


def wait_until(
    predicate: Callable[[], object], timeout: float = 10.0, state: Callable[[], object] = str
) -> None:
    """Return as soon as ``predicate`` holds.

    :param state: what to say if it never does.
    """
    deadline = gevent.Timeout(timeout)
    try:
        with deadline:
            while not predicate():
                gevent.sleep(0.005)
    except gevent.Timeout as exc:
        if exc is not deadline:
            raise
        raise AssertionError(f"waited {timeout} s in vain: {state()}") from None


@contextmanager
def raises(
    kinds: type[BaseException] | tuple[type[BaseException], ...], text: str = ""
) -> Iterator[SimpleNamespace]:
    """See that the block raises an exception that has a text; it's the ``value`` of what it gives.

    pytest's would do, if importing it weren't so much work for a process that is monkey-patched.
    """
    caught = SimpleNamespace()
    try:
        yield caught
    except kinds as exc:
        if text not in str(exc):
            raise
        # Its traceback has the frame that has it: a circle, and what is in it.
        caught.value = exc.with_traceback(None)
    else:
        raise AssertionError(f"it raised none of {kinds}")


def rover_of(ports: Iterable[int]) -> Rover:
    """Make a rover of slot servers at these ports."""
    servers: dict[str, Server] = {
        f"front{port}": {"host": "127.0.0.1", "port": port} for port in ports
    }
    return Rover(servers, roving_interval=0.1, timeout=2.0)


def at_most(seconds: float) -> gevent.Timeout:
    """Return what ends its block after some time, without an error."""
    return gevent.Timeout(seconds, False)  # type: ignore[arg-type]  # gevent's documentation has it


# What must hold


def check_whole(pool: SlotPool[Any]) -> None:
    """Wait until all connections of a pool are idle, and see that its counts agree."""

    def counts() -> tuple[int, ...]:
        return pool.size, pool.idle, pool.leased, pool.retired, pool.waiting

    expected = pool.max_slots, pool.max_slots, 0, 0, 0
    wait_until(lambda: counts() == expected, state=lambda: pool)
    stats = pool.stats()
    closed = sum(stats.closed.values())
    assert stats.opened == closed + stats.size + stats.retired + stats.candidates, stats


def wait_for_both(pool: SlotPool[Any]) -> None:
    """Wait until a pool has connections to both servers: it may have filled up at the first."""
    wait_until(
        lambda: [server.size > 0 for server in pool.stats().servers.values()] == [True, True],
        state=pool.stats,
    )


def lost(stats: PoolStats) -> int:
    """Count the connections that were closed, but for those that lower slots replaced."""
    return sum(stats.closed.values()) - stats.closed["replaced"]


def descriptors() -> int:
    """Count the open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def no_descriptor_leaks() -> Iterator[None]:
    """See that after the block no more descriptors are open than before it."""
    gevent.sleep(0.01)  # The hub opens its own.
    before = descriptors()
    yield
    wait_until(lambda: descriptors() <= before, state=lambda: (descriptors(), before))


class Ticker:
    """Runs every 5 ms while its block does; tells how often, and for how long it couldn't."""

    def __init__(self) -> None:
        self.ticks = 0
        self.longest = 0.0

    def __enter__(self) -> Ticker:
        self._latest = monotonic()
        self._task = gevent.spawn(self._tick)
        return self

    def __exit__(self, *args: object) -> None:
        self._measure()
        self._task.kill()

    def _tick(self) -> None:
        while True:
            gevent.sleep(0.005)
            self._measure()
            self.ticks += 1

    def _measure(self) -> None:
        now = monotonic()
        self.longest = max(self.longest, now - self._latest)
        self._latest = now


# Load


def side_by_side(work: Callable[[], object], times: int = 1) -> None:
    """Do something in each of many greenlets, so many times; an error of any is raised."""

    def repeat() -> None:
        for _ in range(times):
            work()

    gevent.joinall([gevent.spawn(repeat) for _ in range(GREENLETS)], raise_error=True)


def interrupt(request: Callable[[], object], careless: Callable[[], object], seconds: float) -> int:
    """Kill greenlets, and have deadlines pass, at random moments; return how many.

    :param request: done again and again until then.
    :param careless: goes on with a client after a deadline within its lease.
    :param seconds: the longest deadline of a request; that of a kill is a third of it.
    """
    interrupted = 0

    def victim() -> None:
        while True:
            request()

    def late() -> None:
        with at_most(rng.uniform(0, seconds)):
            victim()

    for _ in range(15):
        victims = [gevent.spawn(victim) for _ in range(GREENLETS // 2)]
        others = [gevent.spawn(late) for _ in range(GREENLETS // 2)] + [gevent.spawn(careless)]
        for each in victims:
            gevent.sleep(rng.uniform(0, seconds / 3))
            each.kill()
            each.get()  # It had no wrong answer.
        gevent.joinall(others, raise_error=True)
        interrupted += len(victims) + len(others)
    return interrupted


class Load:
    """Requests of many greenlets, until the end of the block; whoever fails tries again.

    :param failures: what a request may raise; anything else is raised at the end.
    """

    def __init__(
        self, request: Callable[[], object], failures: tuple[type[BaseException], ...]
    ) -> None:
        self.asked = self.answered = self.failed = 0
        self._request = request
        self._failures = failures
        self._over = False

    def __enter__(self) -> Load:
        self._tasks = [gevent.spawn(self._ask) for _ in range(GREENLETS)]
        return self

    def __exit__(self, *args: object) -> None:
        self._over = True
        try:
            gevent.joinall(self._tasks, timeout=15, raise_error=True)
        finally:
            gevent.killall(self._tasks)
        # Each of them came to an end.
        assert self.asked == self.answered + self.failed, vars(self)

    def wait_for_answers(self, more: int) -> None:
        """Wait until so many more were answered."""
        least = self.answered + more
        wait_until(lambda: self.answered >= least, state=lambda: vars(self))

    def wait_for_failures(self, more: int) -> None:
        """Wait until so many more failed."""
        least = self.failed + more
        wait_until(lambda: self.failed >= least, state=lambda: vars(self))

    def _ask(self) -> None:
        while not self._over:
            self.asked += 1
            try:
                self._request()
            except self._failures:
                self.failed += 1
                gevent.sleep(0.01)
            else:
                self.answered += 1
