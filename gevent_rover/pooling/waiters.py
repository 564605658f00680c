"""The greenlets that wait for a connection."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from gevent.event import AsyncResult

_Thing = TypeVar("_Thing")


class Waiters(Generic[_Thing]):
    """Greenlets that wait for one thing each, first come first served."""

    def __init__(self) -> None:
        #: Who waits longest comes first. Anybody may leave, at no cost that grows
        #: with their number.
        self.queue: OrderedDict[AsyncResult[_Thing], None] = OrderedDict()

    def wait(self, timeout: float | None, give_back: Callable[[_Thing], object]) -> _Thing | None:
        """Wait until a thing is handed over; None: it wasn't, in time.

        :param timeout: seconds; None: for ever.
        :param give_back: called with what was handed to a greenlet that was killed
            before it could take it.
        :raises Exception: what :meth:`fail` says.
        """
        waiter: AsyncResult[_Thing] = AsyncResult()
        self.queue[waiter] = None
        try:
            waiter.wait(timeout)
        except BaseException:
            handed = waiter.get_nowait() if waiter.successful() else None
            if handed is not None:
                give_back(handed)
            raise
        finally:
            self.queue.pop(waiter, None)  # A fork drops them.
        return waiter.get_nowait() if waiter.ready() else None

    def hand(self, thing: _Thing) -> None:
        """Wake the greenlet that waits longest with what it waits for. Doesn't switch."""
        waiter, _ = self.queue.popitem(last=False)
        waiter.set(thing)

    def fail(self, failure: Exception) -> None:
        """Raise ``failure`` in all of them. Doesn't switch."""
        while self.queue:
            self.queue.popitem(last=False)[0].set_exception(failure)
