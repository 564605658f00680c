"""``Slots``: hands out the lowest free number."""

from __future__ import annotations

from heapq import heappop, heappush


class Slots:
    """The slots of one server: ``offset``, ``offset + stride``, ``offset + 2 * stride``, …

    :param stride: the distance between two slots. It weights a server with no
        change on the wire: one with stride 2 draws half the connections.
    :param offset: the lowest slot. Processes that share a port use
        ``offset=i, stride=n``, or every one of them hands out a slot 0.
    :param limit: how many slots may be taken at a time (default: any number).
    :raises ValueError: a stride or limit below 1, an offset below 0.

    Not for several native threads at a time. Neither method switches greenlets.
    """

    def __init__(self, *, stride: int = 1, offset: int = 0, limit: int | None = None) -> None:
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride!r}")
        if offset < 0:
            raise ValueError(f"offset must be at least 0, got {offset!r}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1 or None, got {limit!r}")
        self.stride = stride
        self.offset = offset
        self.limit = limit
        self._taken: set[int] = set()
        self._freed: list[int] = []  # a heap; every number in it is below _next
        self._next = offset

    def __repr__(self) -> str:
        limit = "" if self.limit is None else f"/{self.limit}"
        return f"<Slots stride={self.stride} offset={self.offset} taken={len(self._taken)}{limit}>"

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
