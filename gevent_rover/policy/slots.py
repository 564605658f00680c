"""``Slots``: hands out the lowest free number."""

from __future__ import annotations

from functools import partial
from heapq import heappop, heappush
from typing import Any, Final

from gevent_rover.checks import check_count, checked

# Leaves room for thousands of slots among the 19 digits that a slot line may have.
_MOST: Final = 10**15


def _check_limit(name: str, value: Any) -> int | None:
    return None if value is None else check_count(name, value)


class Slots:
    """The slots of one server: ``offset``, ``offset + stride``, ``offset + 2 * stride``, …

    :param stride: the distance between two slots. It weights a server with no
        change on the wire: one with stride 2 draws half the connections.
    :param offset: the lowest slot. Processes that share a port use
        ``offset=i, stride=n``, or every one of them hands out a slot 0.
    :param limit: how many slots may be taken at a time (default: any number).
    :raises ValueError: a stride or limit that isn't an int of at least 1, an offset below
        0, a stride or offset above 10**15. ``stride`` and ``limit`` may be assigned later
        and raise the same.

    Not for several native threads at a time. Neither method switches greenlets.
    """

    #: The distance between two slots.
    stride: int = checked(partial(check_count, most=_MOST), 1)
    #: How many slots may be taken at a time; None: any number.
    limit: int | None = checked(_check_limit, None)

    def __init__(self, *, stride: int = 1, offset: int = 0, limit: int | None = None) -> None:
        self._offset = check_count("offset", offset, least=0, most=_MOST)
        self.stride = stride
        self.limit = limit
        self._taken: set[int] = set()
        self._freed: list[int] = []  # a heap; every number in it is below _next
        self._next = offset

    def __repr__(self) -> str:
        limit = "" if self.limit is None else f"/{self.limit}"
        return f"<Slots stride={self.stride} offset={self.offset} taken={len(self._taken)}{limit}>"

    @property
    def offset(self) -> int:
        """The lowest slot."""
        return self._offset

    def __len__(self) -> int:
        """Return how many slots are taken."""
        return len(self._taken)

    def take(self) -> int | None:
        """Take the lowest free slot.

        :returns: the slot, or None when ``limit`` slots are taken.
        """
        if self.limit is not None and len(self._taken) >= self.limit:
            return None
        if self._freed:
            slot = heappop(self._freed)
        else:
            slot = self._next
            self._next += self.stride
        self._taken.add(slot)
        return slot

    def free(self, slot: int) -> None:
        """Give a taken slot back.

        :raises ValueError: ``slot`` isn't taken.
        """
        try:
            self._taken.remove(slot)
        except KeyError:
            raise ValueError(f"slot {slot!r} isn't taken") from None
        heappush(self._freed, slot)
