"""Instrumenting a rover and its pool: from the first attempt to the end of both."""

from __future__ import annotations

import os
import weakref
from time import thread_time
from typing import Any, Final

import gevent
from gevent import Greenlet, get_hub, getcurrent
from prometheus_client import REGISTRY, CollectorRegistry

from gevent_rover.checks import check_count
from gevent_rover.metrics.families import Families, families_of
from gevent_rover.metrics.labels import Labels
from gevent_rover.metrics.recording import Recorder, folder
from gevent_rover.models import Attempt
from gevent_rover.net.forks import Forkable, check_fork, kill_copy
from gevent_rover.net.threads import get_ident, in_thread_of
from gevent_rover.pooling.pool import SlotPool
from gevent_rover.roving.rover import Rover
from gevent_rover.status.snapshot import snapshot

# Seconds from one look at the pool to the next, if looks take little; the part of the time
# that they may take, as with hundreds of servers each takes milliseconds; and after how many
# seconds one comes in any case.
_EVERY: Final = 0.25
_SHARE: Final = 0.01
_AT_MOST: Final = 1.0


def instrument(
    rover: Rover,
    pool: SlotPool[Any] | None = None,
    *,
    name: str = "pool",
    registry: CollectorRegistry | None = None,
    per_server: bool = True,
    max_servers: int = 200,
) -> Instruments:
    """Export what a rover and its pool are up to, and count from now on, for Prometheus.

    It starts nothing, and may be called at import, before a fork: each process counts for
    itself, from its rover's first attempt on. Rover and pool live no longer for it.

    :param pool: the rover's; None: only what the rover does is exported.
    :param name: the label ``pool``: one for each pool of a process.
    :param registry: where the instruments are. Default: the client library's own.
    :param per_server: whether servers have a label each; else they are summed up.
    :param max_servers: how many of them; the others share the label ``other``.
    :returns: for who wants to end it before rover and pool end.
    :raises ValueError: the name is taken in the registry, or rover or pool are instrumented
        there; or ``max_servers`` isn't an int of at least 1.
    :raises FileNotFoundError: the folder isn't there that the environment names for the
        values of several processes.
    """
    check_count("max_servers", max_servers)
    values = folder()
    if values is not None and not os.path.isdir(values):
        # The first attempt would find that out, too late to be noticed.
        raise FileNotFoundError(f"PROMETHEUS_MULTIPROC_DIR is {values!r}: there's no such folder")
    families = families_of(REGISTRY if registry is None else registry)
    return Instruments(families, rover, pool, name, Labels(per_server, max_servers))


class Instruments(Forkable):
    """What :func:`instrument` returns: carries over what a pool counts anyway.

    Leases pay nothing for it. A greenlet of its own looks at the pool a few times a second,
    and writes what has changed; so does each scrape of the registry in this thread. The
    greenlet begins with the first attempt in a process, and ends when the rover is stopped
    and the pool closed and empty.

    In a forked child it begins anew, as the pool does there.
    """

    def __init__(
        self,
        families: Families,
        rover: Rover,
        pool: SlotPool[Any] | None,
        name: str,
        labels: Labels,
    ) -> None:
        #: The label of the pool.
        self.name = name
        self.closed = False
        self._families = families
        self._rover = weakref.ref(rover)
        self._pool = None if pool is None else weakref.ref(pool)
        self._greenlet: Greenlet[..., Any] | None = None
        # That of the greenlet; and until there is one, whose thread may look at the pool.
        self._hub: Any = None
        self._thread = get_ident()
        self._busy = False
        things = [thing for thing in (rover, pool) if thing is not None]
        families.add(self, *things)
        self._recorder = Recorder(families, name, labels, snapshot(rover, pool, name=name))
        super().__init__()
        rover.on("attempt", self._attempted)

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<Instruments {state}{self.name!r} servers={len(self._recorder)}>"

    def __enter__(self) -> Instruments:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def watches(self, *things: object) -> bool:
        """Tell whether one of these is its rover or its pool."""
        return any(thing is not None and thing in things for thing in self._things())

    @property
    def left_behind(self) -> bool:
        """Whether rover and pool are gone."""
        return self._things() == (None, None)

    def carry_over(self) -> None:
        """Write what has changed, now. While another thread has the pool it does nothing."""
        if self.closed or self._busy or not self._may_look():
            return
        check_fork()
        # Another thread may have the lock of an instrument, and so let others run here.
        self._busy = True
        try:
            self._carry_over()
        finally:
            self._busy = False

    def close(self) -> None:
        """Carry over what is left, and count no more. Idempotent.

        Counters stay as they are, and gauges are 0. The name is free again.
        """
        if self.closed:
            return
        if not self.left_behind:
            self.carry_over()
        self.closed = True
        self._families.remove(self)
        rover, _ = self._things()
        if rover is not None:
            rover.off("attempt", self._attempted)
        self._recorder.clear()
        greenlet, self._greenlet = self._greenlet, None
        # In another thread it sees soon that this is over.
        if greenlet not in (None, getcurrent()) and self._hub is get_hub():
            greenlet.kill(block=False)

    # Steps of these

    def _things(self) -> tuple[Rover | None, SlotPool[Any] | None]:
        return self._rover(), None if self._pool is None else self._pool()

    @property
    def _in_use(self) -> bool:
        """Whether something may happen still."""
        rover, pool = self._things()
        if rover is not None and rover.started:
            return True
        return pool is not None and not (pool.closed and pool.size + pool.retired == 0)

    def _may_look(self) -> bool:
        """Tell whether this thread is the pool's, or that one has ended."""
        here = get_ident()
        if self._hub is None:
            return self._thread == here
        called: list[int] = []
        in_thread_of(self._hub, lambda: called.append(get_ident()))
        return called == [here]

    def _carry_over(self) -> None:
        rover, pool = self._things()
        source = pool if rover is None else rover
        if source is None:
            self.close()
            return
        health = source.health
        seen = snapshot(rover, pool, name=self.name)
        self._recorder.record(seen, in_use=self._in_use)
        self._recorder.forget_servers(seen, lambda id: health.get(id) is not None)

    def _attempted(self, rover: Rover, attempt: Attempt) -> None:
        self._recorder.attempted(attempt)
        if self._greenlet is None or self._hub is not get_hub():
            # The first one in this process, or another thread roves.
            self._hub = get_hub()
            self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        greenlet = getcurrent()
        try:
            while self._greenlet is greenlet:
                began = thread_time()
                self.carry_over()
                if self.closed or not self._in_use:
                    return
                gevent.sleep(pause_after(thread_time() - began), ref=False)
        finally:
            if self._greenlet is greenlet:
                self._greenlet = None

    def _after_fork(self) -> None:
        kill_copy(self._greenlet)
        self._greenlet = self._hub = None
        self._thread = get_ident()
        self._busy = False
        self._recorder.forget()


def pause_after(took: float) -> float:
    """Return how long to wait for the next look, in seconds.

    :param took: how long the latest one took, in CPU seconds.
    """
    return min(_AT_MOST, max(_EVERY, took / _SHARE))
