"""Who publishes the attempts that are over: as few greenlets as their receivers allow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from gevent import get_hub, getcurrent, sleep
from gevent.pool import Group

from gevent_rover.publishing import Flight

# Seconds that attempts are published and begun in one go, before timers, sockets
# and other greenlets have their turn.
_SLICE: Final = 0.002


class Couriers:
    """Greenlets that publish what has landed, in order.

    One of them carries all of it, as long as no receiver blocks; what lands
    while one does is for another. Afterwards the first that is free waits for
    more: that takes a tenth of what a new one does.

    :param publish: publishes one attempt; may block.
    :param afterwards: called after attempts were published, before any switch.
    """

    def __init__(
        self, publish: Callable[[Flight], object], afterwards: Callable[[], object]
    ) -> None:
        self._publish = publish
        self._afterwards = afterwards
        self._landed: deque[Flight] = deque()
        self._group = Group()
        self._free: Any = None  # the one that waits
        self._summoned: Any = None  # one that was told of what has landed
        self._shift = object()  # ends with dismiss()

    @property
    def greenlets(self) -> list[Any]:
        """The greenlets there are, the one that waits included."""
        return list(self._group.greenlets)

    def take(self, flight: Flight) -> None:
        """Have an attempt published. Doesn't switch; the hub may call it."""
        self._landed.append(flight)
        if self._summoned is None or self._summoned.dead:
            self._summon()

    def dismiss(self) -> None:
        """Publish nothing more of what has landed, and have all of them end.

        Who is publishing an attempt finishes that first. Doesn't switch. What
        is taken afterwards, perhaps in another thread, is for others.
        """
        self._landed.clear()
        self._shift = object()
        if self._free is not None:
            # It may never run again, if the hub of its thread is destroyed.
            self._group.discard(self._free)
            if self._summoned is None:
                self._summon()
        self._free = self._summoned = None

    def abandon(self) -> None:
        """Let go of the parent's greenlets, in a forked child."""
        self._landed.clear()
        greenlets, self._group = self.greenlets, Group()
        self._free = self._summoned = None
        self._shift = object()
        for greenlet in greenlets:
            if greenlet is not getcurrent():
                greenlet.kill(block=False)

    def _summon(self) -> None:
        if self._free is None:
            self._summoned = self._group.spawn(self._run)
        else:
            self._summoned = self._free
            get_hub().loop.run_callback(self._free.switch)

    def _run(self) -> None:
        courier, hub, shift = getcurrent(), get_hub(), self._shift
        try:
            while True:
                if self._summoned is courier:
                    self._summoned = None
                if self._free is courier:
                    self._free = None
                self._carry()
                if self._free is not None or self._shift is not shift:
                    return
                self._free = courier
                hub.switch()  # until it's summoned
        finally:
            if self._summoned is courier:
                self._summoned = None
            if self._free is courier:
                self._free = None
            if self._landed and self._summoned is None:  # This one was killed.
                self._summon()

    def _carry(self) -> None:
        until = monotonic() + _SLICE
        while self._landed:
            while self._landed and monotonic() < until:
                self._publish(self._landed.popleft())
            self._afterwards()
            if self._landed:
                # Not sleep(0): that comes back before timers and sockets.
                sleep(1e-6)
                until = monotonic() + _SLICE
