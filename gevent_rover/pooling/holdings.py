"""The connections that a pool keeps, from their arrival to their end; no method switches."""

from __future__ import annotations

import logging
import weakref
from time import monotonic
from typing import Final

from gevent import socket as gevent_socket

from gevent_rover.models import Slot
from gevent_rover.net.sockets import is_closed
from gevent_rover.policy.choice import Choice, LeaseOutcome
from gevent_rover.policy.health import Health
from gevent_rover.policy.ranking import Ranking
from gevent_rover.pooling.connection import PooledConnection
from gevent_rover.pooling.idle_watch import IdleWatch, close_left_behind
from gevent_rover.registry import server_gone
from gevent_rover.roving.supply import Supply

#: Of how many connections one may be renewed in an interval; one in any pool.
_AT_A_TIME: Final = 10

_log: Final = logging.getLogger("gevent_rover.pool")
_log.addHandler(logging.NullHandler())


class Holdings:
    """The connections of a pool, and which of them can be leased.

    :param max_slots: how many connections to keep, leased ones included.
    :param choice: which idle one to lend next.
    :param max_lifetime: seconds after which a connection is renewed; None: never.
    """

    def __init__(self, max_slots: int, choice: Choice, max_lifetime: float | None) -> None:
        self.max_lifetime = max_lifetime
        #: What is known of the servers; the rover's, once it's attached to one.
        self.health = Health()
        self.ranking: Ranking[PooledConnection] = Ranking(max_slots, choice)
        self.by_socket: dict[gevent_socket.socket, PooledConnection] = {}  # retired ones, too
        self.closed = False
        #: Where connections come from; None: from nowhere, but by :meth:`Stock.offer`.
        self.supply: Supply | None = None
        self.watch = IdleWatch(self.look_at)
        weakref.finalize(self, close_left_behind, self.by_socket, self.watch).atexit = False

    # What the rover asks and says

    def wanted(self) -> int:
        """Return how many connections are missing."""
        return 0 if self.closed else self.ranking.max_slots - len(self.ranking)

    def tick(self) -> None:
        """Let go of servers that left; tell which servers' connections last; renew old ones."""
        assert self.supply is not None
        now = monotonic()
        long_ago = now - self.supply.interval
        lasting: set[str] = set()
        old = []
        for connection in self.ranking:
            if self.is_gone(connection.slot):
                self.give_up(connection)
                continue
            if connection.server_id is not None and connection.arrived <= long_ago:
                lasting.add(connection.server_id)
            if connection.expires <= now:
                old.append(connection)
        for id in lasting:
            self.supply.lasted(id)
        # The oldest first, and never so many that those who want one have to wait.
        old.sort(key=lambda connection: connection.expires)
        for connection in old[: max(1, self.ranking.max_slots // _AT_A_TIME)]:
            self.give_up(connection)

    # Whether one can be leased

    def is_surely_fit(self, connection: PooledConnection) -> bool:
        """Tell, quickly, that a connection can be leased. What isn't sure takes longer to tell."""
        supply = self.supply
        return (
            (supply is None or supply.servers.get(connection.server_id) is connection.entry)  # type: ignore[arg-type]
            and connection.plain
            and not connection.poll(0)
            and not is_closed(connection.socket)
        )

    def is_fit(self, connection: PooledConnection) -> bool:
        """Tell whether a connection can be leased."""
        return not self.is_gone(connection.slot) and connection.disturbance() is None

    def keep_if_fit(self, connection: PooledConnection) -> bool:
        """Tell whether a connection can be leased; close it if it can't."""
        if self.is_gone(connection.slot):
            self.drop(connection)
            return False
        disturbance = connection.disturbance()
        if disturbance is not None:
            self._lose(connection, disturbance)
            return False
        return True

    def is_gone(self, slot: int) -> bool:
        if self.supply is None or not isinstance(slot, Slot):
            return False
        return server_gone(self.supply.servers, slot.server_id, slot.server)

    def look_at(self, connection: PooledConnection) -> None:
        """See what arrived on an idle connection; the hub calls it."""
        if connection.state == "idle":
            disturbance = connection.disturbance()
            if disturbance is not None:
                self._lose(connection, disturbance)

    # The end of one

    def give_up_excess(self) -> None:
        while (connection := self.ranking.excess()) is not None:
            self.give_up(connection)

    def give_up(self, connection: PooledConnection) -> None:
        """Close a connection now, or, if it's leased, when it comes back."""
        if self.ranking.give_up(connection):
            self._close(connection)

    def drop(self, connection: PooledConnection, outcome: LeaseOutcome = "unknown") -> None:
        """Close a connection, whatever state it is in, and forget it.

        :param outcome: how its lease went, if it is leased.
        """
        self.ranking.remove(connection, monotonic(), outcome)
        self._close(connection)

    def _lose(self, connection: PooledConnection, disturbance: str) -> None:
        """Close a connection that can't be leased."""
        _log.debug("closed %s: %s", connection, disturbance)
        self.suspect_if_young(connection)
        self.drop(connection)

    def _close(self, connection: PooledConnection) -> None:
        del self.by_socket[connection.socket]
        connection.close()
        self.ask_for_more()

    def ask_for_more(self) -> None:
        if self.supply is not None and not self.closed:
            self.supply.more_wanted()

    def suspect_if_young(self, connection: PooledConnection) -> None:
        """Tell the rover of a connection that died young, and was never leased."""
        if self.supply is None or connection.leases:
            return
        if monotonic() - connection.arrived < self.supply.interval:
            self.supply.suspect(connection.server_id)
