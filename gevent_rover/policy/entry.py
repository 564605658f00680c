"""A connection as the decisions see it: its slot, its server, and what state it is in."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from gevent_rover.models import Slot
from gevent_rover.policy.server_health import ServerHealth

#: ``preparing`` until it's idle for the first time; ``candidate`` while it's prepared and
#: has no place in the pool. ``resetting`` is the end of a lease: its user has given it
#: back. ``retired`` and ``ending`` are ``leased`` and ``resetting`` without a place: it is
#: closed then.
EntryState: TypeAlias = Literal[
    "preparing", "candidate", "idle", "leased", "resetting", "retired", "ending", "closed"
]


class Entry:
    """A connection of a pool, without its socket.

    :param slot: its slot; with a :class:`Slot` it's known whose.
    :param server: what this client knows of its server. Default: nothing yet.
    """

    __slots__ = (
        "failures",
        "lease_seconds",
        "leased_at",
        "leases",
        "note",
        "order",
        "server",
        "server_id",
        "slot",
        "state",
    )

    #: Only a :class:`Ranking` changes it.
    state: EntryState

    def __init__(self, slot: int, server: ServerHealth | None = None) -> None:
        self.slot = slot
        #: The id of its server; None if nobody said whose slot it is.
        self.server_id = slot.server_id if isinstance(slot, Slot) else None
        #: What this client knows of its server: one object for all connections to it.
        self.server = ServerHealth() if server is None else server
        #: Its slot, and a number that tells equal slots apart, in order of arrival.
        self.order: tuple[int, int] = slot, 0
        #: When its latest lease began, in monotonic seconds.
        self.leased_at = 0.0
        #: How often it was leased, which tells one lease from the next, too; the pool counts.
        self.leases = 0
        #: Seconds that its leases took which have ended,
        self.lease_seconds = 0.0
        #: and how many of them failed by the server's fault.
        self.failures = 0
        #: For the :class:`Choice`: whatever it likes to keep with a connection.
        self.note: Any = None
        self.state = "preparing"
