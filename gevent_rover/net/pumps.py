"""All pairs of connections between which a server passes bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gevent_rover.net.pump import CHUNK, AnswerClock, Flow, Pump


class Pumps:
    """The pumps of one server, which share a buffer."""

    def __init__(self) -> None:
        self._buffer = bytearray(CHUNK)
        self._running: set[Pump] = set()

    def __len__(self) -> int:
        """Return how many pairs of connections there are."""
        return len(self._running)

    def __iter__(self) -> Iterator[Pump]:
        """Iterate over them."""
        return iter(self._running)

    def run(self, near: Any, far: Any, tell: Callable[[float], object] | None = None) -> Pump:
        """Pass on what two connections say, until that's over; see :meth:`Pump.run`.

        :param tell: called with the seconds of each answer, as for :class:`AnswerClock`.
        """
        pump = Pump(near, far, self._buffer, _kind_of(near, far))
        if tell is not None:
            pump.measure(AnswerClock(tell))
        self._running.add(pump)
        try:
            pump.run()
        finally:
            self._running.discard(pump)
        return pump

    def stop_unused(self) -> None:
        """Stop those over which nothing has passed yet."""
        for pump in list(self._running):
            if not pump.carried:
                pump.cut()

    def abandon(self) -> None:
        """Let go of all of them, in a forked child."""
        running, self._running = self._running, set()
        for pump in running:
            pump.abandon()


def _kind_of(near: Any, far: Any) -> type[Flow]:
    if any(hasattr(side, "do_handshake") for side in (near, far)):
        # Imported late: most processes never need it.
        from gevent_rover.net.tls_flow import TLSFlow

        return TLSFlow
    return Flow
