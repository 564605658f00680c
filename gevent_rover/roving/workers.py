"""Who publishes the attempts that are over: as few greenlets as their receivers allow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from gevent import get_hub, getcurrent, sleep
from gevent.pool import Group

from gevent_rover.net.forks import kill_copy

# Seconds that attempts are published and begun in one go, before timers, sockets
# and other greenlets have their turn.
_SLICE: Final = 0.002

_Work = TypeVar("_Work")


class Workers(Generic[_Work]):
    """Greenlets that work off what is submitted, in order.

    One of them does all of it, as long as the work doesn't block; what is in the queue
    when it does, or is submitted then, is for another. Afterwards the first that is free
    waits for more: that takes a tenth of what a new one does.

    :param work: works off one piece; may block, and mustn't raise an ``Exception``.
    :param afterwards: called after pieces were worked off, before any switch.
    """

    def __init__(self, work: Callable[[_Work], object], afterwards: Callable[[], object]) -> None:
        self._work = work
        self._afterwards = afterwards
        self._queue: deque[_Work] = deque()
        self._group = Group()
        self._free: Any = None  # the one that waits
        self._called: Any = None  # one that was told to look at the queue
        self._looks = False  # whether the hub will look, once nobody works or somebody blocks
        self._resting: set[Any] = set()  # those that let others have their turn, and go on then
        self._shift = object()  # ends with stop()

    @property
    def greenlets(self) -> list[Any]:
        """The greenlets there are, the one that waits included."""
        return list(self._group.greenlets)

    def submit(self, work: _Work) -> None:
        """Have a piece worked off. Doesn't switch; the hub may call it."""
        self._queue.append(work)
        if self._called is None or self._called.dead:
            self._call()

    def stop(self) -> None:
        """Drop what is in the queue, and have all greenlets end.

        Each finishes what it has begun first. Doesn't switch. What is submitted
        afterwards, perhaps in another thread, is for others.
        """
        self._queue.clear()
        self._looks = False
        self._shift = object()
        if self._free is not None:
            # It may never run again, if the hub of its thread is destroyed.
            self._group.discard(self._free)
            if self._called is not self._free and not self._free.dead:
                self._call()
        self._free = self._called = None

    def abandon(self) -> None:
        """Let go of the parent's greenlets, in a forked child."""
        self._queue.clear()
        greenlets, self._group = self.greenlets, Group()
        self._free = self._called = None
        self._looks = False
        self._resting.clear()
        self._shift = object()
        for greenlet in greenlets:
            kill_copy(greenlet)

    def _call(self) -> None:
        if self._free is None:
            self._called = self._group.spawn(self._run, self._shift)
        else:
            self._called = self._free
            get_hub().loop.run_callback(self._free.switch)

    def _run(self, shift: object) -> None:
        worker, hub = getcurrent(), get_hub()
        try:
            while True:
                if self._called is worker:
                    self._called = None
                if self._free is worker:
                    self._free = None
                self._drain()
                if self._free is not None or self._shift is not shift:
                    return
                self._free = worker
                hub.switch()  # until it's called
        finally:
            if self._called is worker:
                self._called = None
            if self._free is worker:
                self._free = None
            if self._queue and self._called is None:  # This one was killed.
                self._call()

    def _drain(self) -> None:
        until = monotonic() + _SLICE
        while self._queue:
            while self._queue and monotonic() < until:
                work = self._queue.popleft()
                if self._queue and not self._looks:
                    self._looks = True
                    get_hub().loop.run_callback(self._look)
                self._work(work)
            self._afterwards()
            if self._queue:
                worker = getcurrent()
                self._resting.add(worker)
                try:
                    # Not sleep(0): that comes back before timers and sockets.
                    sleep(1e-6)
                finally:
                    self._resting.discard(worker)
                until = monotonic() + _SLICE

    def _look(self) -> None:
        """Have another one work if the one that did blocks; the hub calls it."""
        self._looks = False
        called = self._called is not None and not self._called.dead
        if self._queue and not called and not self._resting:
            self._call()
