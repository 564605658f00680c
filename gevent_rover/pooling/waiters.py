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
        #: Who came first is first, and each has the number of its turn. Anybody may
        #: leave, at no cost that grows with their number.
        self.queue: OrderedDict[AsyncResult[_Thing], int] = OrderedDict()
        self._turns = 0

    def take_turn(self) -> int:
        """Return the number of a turn, for one who may have to wait later, perhaps repeatedly."""
        self._turns += 1
        return self._turns

    def wait(
        self, timeout: float | None, give_back: Callable[[_Thing], object], turn: int = 0
    ) -> _Thing | None:
        """Wait until a thing is handed over; None: it wasn't, in time.

        :param timeout: seconds; None: for ever.
        :param give_back: called with what was handed to a greenlet that was killed
            before it could take it.
        :param turn: what :meth:`take_turn` returned, to wait before those that came
            later; 0: as one that comes now.
        :raises Exception: what :meth:`fail` says.
        """
        waiter: AsyncResult[_Thing] = AsyncResult()
        self._enter(waiter, turn or self.take_turn())
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

    def _enter(self, waiter: AsyncResult[_Thing], turn: int) -> None:
        queue = self.queue
        overtaken = bool(queue) and next(reversed(queue.values())) > turn
        later = [each for each in queue if queue[each] > turn] if overtaken else []
        queue[waiter] = turn
        for each in later:
            queue.move_to_end(each)

    def hand(self, thing: _Thing) -> None:
        """Wake the greenlet that waits longest with what it waits for. Doesn't switch."""
        waiter, _ = self.queue.popitem(last=False)
        waiter.set(thing)

    def fail(self, failure: Exception) -> None:
        """Raise ``failure`` in all of them. Doesn't switch."""
        while self.queue:
            self.queue.popitem(last=False)[0].set_exception(failure)
