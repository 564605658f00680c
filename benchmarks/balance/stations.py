"""Servers as queueing theory has them, on a clock that jumps from event to event."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from benchmarks.balance.fleets import SimulatedClient
from gevent_rover import Entry

#: Seconds that a server needs to say that it fails.
FAILURE = 0.001


class Events:
    """What is to happen, in order of time, and the time, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, seconds: float, do: Callable[..., None], *arguments: Any) -> None:
        self._count += 1  # Of two at the same time, the one that was said first comes first.
        heappush(self._heap, (self.now + seconds, self._count, do, arguments))

    def run(self) -> None:
        """Let everything happen, until nothing is left."""
        heap = self._heap
        while heap:
            self.now, _, do, arguments = heappop(heap)
            do(*arguments)


class Request:
    """A request, from when it came until it's answered."""

    __slots__ = ("arrived", "client", "counts", "entry", "failed", "work")

    def __init__(self, arrived: float, client: SimulatedClient, work: float, counts: bool) -> None:
        self.arrived = arrived
        self.client = client
        #: Seconds, for a server that isn't slow.
        self.work = work
        self.counts = counts
        self.failed = False
        self.entry: Entry | None = None


class Station:
    """A server: workers and a queue, first come first served.

    :param answer: is called with each request that is through.
    """

    def __init__(
        self, events: Events, workers: int, slowness: float, answer: Callable[[Request], None]
    ) -> None:
        self.slowness = slowness
        #: Whether it fails at once whatever comes.
        self.fails = False
        self._events = events
        self._free = workers
        self._queue: deque[Request] = deque()
        self._answer = answer
        self._stalled = False
        self._held: list[Request] = []  # through, but for the stall

    def receive(self, request: Request) -> None:
        if self.fails:
            request.failed = True
            self._events.after(FAILURE, self._answer, request)
        elif self._free:
            self._free -= 1
            self._begin(request)
        else:
            self._queue.append(request)

    def stall(self) -> None:
        """Answer nothing until :meth:`resume`."""
        self._stalled = True

    def resume(self) -> None:
        self._stalled = False
        held, self._held = self._held, []
        for request in held:
            self._end(request)

    def _begin(self, request: Request) -> None:
        self._events.after(request.work * self.slowness, self._end, request)

    def _end(self, request: Request) -> None:
        if self._stalled:
            self._held.append(request)
            return
        if self._queue:
            self._begin(self._queue.popleft())
        else:
            self._free += 1
        self._answer(request)
