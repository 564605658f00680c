"""A connection as the decisions see it: its slot, its server, and what state it is in."""

from __future__ import annotations

from typing import Literal

from gevent_rover.models import Slot


class Entry:
    """A connection of a pool, without its socket."""

    __slots__ = ("number", "server_id", "since", "slot", "state")

    #: ``new`` until it's idle for the first time; ``retired`` while it's leased, and
    #: to be closed when it comes back. Only a :class:`Ranking` changes it.
    state: Literal["new", "idle", "leased", "retired", "closed"]

    def __init__(self, slot: int) -> None:
        self.slot = slot
        #: The id of its server; None if nobody said whose slot it is.
        self.server_id = slot.server_id if isinstance(slot, Slot) else None
        #: Tells equal slots apart, in order of arrival.
        self.number = 0
        #: For the :class:`Choice`: the place of an idle one among its equals.
        self.since = 0
        self.state = "new"
