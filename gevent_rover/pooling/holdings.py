"""The connections that a pool keeps, from their arrival to their end; no method switches."""

from __future__ import annotations

import logging
import weakref
from time import monotonic
from typing import Final

from gevent import socket as gevent_socket
from gevent.event import Event

from gevent_rover.models import Slot
from gevent_rover.net.sockets import is_closed
from gevent_rover.policy.choice import Choice, LeaseOutcome
from gevent_rover.policy.health import Health
from gevent_rover.policy.newcomers import Newcomers
from gevent_rover.policy.ranking import Ranking
from gevent_rover.policy.unused import Unused
from gevent_rover.pooling.connection import PooledConnection, reason_of
from gevent_rover.pooling.idle_watch import IdleWatch, close_left_behind
from gevent_rover.pooling.options import Options
from gevent_rover.pooling.stats import CloseReason, Tally
from gevent_rover.pooling.tasks import Tasks
from gevent_rover.registry import server_gone
from gevent_rover.roving.supply import Supply
from gevent_rover.signals import closed as closed_signal
from gevent_rover.signals import deliver

#: Of how many connections one may be closed in an interval for its age, or because it
#: isn't needed; one in any pool.
_AT_A_TIME: Final = 10

#: Seconds that a hook may take where no rover says.
_TIMEOUT: Final = 5.0

_log: Final = logging.getLogger("gevent_rover.pool")
_log.addHandler(logging.NullHandler())


class Holdings:
    """The connections of a pool, and which of them can be leased.

    :param max_slots: how many connections to keep at most, leased ones included.
    :param min_slots: how many to keep if fewer are needed; ``max_idle`` says whether that counts.
    """

    def __init__(self, max_slots: int, min_slots: int, options: Options) -> None:
        self.options = options
        self.max_slots = max_slots
        self.min_slots = min_slots
        #: What is known of the servers; the rover's, once it's attached to one.
        self.health = Health()
        choice: Choice = options.choice
        #: How many connections aren't needed; None: they stay.
        self.unused: Unused | None = None
        if options.max_idle is not None:
            choice = self.unused = Unused(choice, options.max_idle, monotonic())
        #: What is kept, and how many of them: ``max_slots``, or fewer if no more are needed.
        self.ranking: Ranking[PooledConnection] = Ranking(max_slots, choice)
        if self.unused is not None:
            self.ranking.max_slots = min_slots
        #: All connections but the candidates: those that are retired, too.
        self.by_socket: dict[gevent_socket.socket, PooledConnection] = {}
        #: Those that are kept, and not set up yet; and those that aren't kept, either.
        self.preparing: dict[PooledConnection, None] = {}
        self.candidates: dict[PooledConnection, None] = {}
        self.newcomers = Newcomers()
        self.tally = Tally()
        self.tasks = Tasks()
        self.closed = False
        #: Set when there is more to use: a new connection, another size, the end.
        self.changed = Event()
        #: Where connections come from; None: from nowhere, but by :meth:`Stock.offer`.
        self.supply: Supply | None = None
        self.watch = IdleWatch(self.look_at)
        #: The pool itself, as the sender of its signals; only set where it's known.
        self.sender: weakref.ref[object] = weakref.ref(self)
        weakref.finalize(self, close_left_behind, self.by_socket, self.watch).atexit = False

    @property
    def seconds(self) -> float:
        """How long a hook may take: the rover's timeout."""
        return _TIMEOUT if self.supply is None else self.supply.timeout

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
        for connection in [*self.ranking, *self.candidates]:
            if self.is_gone(connection.slot):
                self.give_up(connection, "server gone")
            elif connection.state in ("preparing", "candidate"):
                continue
            else:
                if connection.server_id is not None and connection.arrived <= long_ago:
                    lasting.add(connection.server_id)
                if connection.expires <= now:
                    old.append(connection)
        for id in lasting:
            self.supply.lasted(id)
        # The oldest first, and never so many that those who want one have to wait.
        at_most = max(1, self.ranking.max_slots // _AT_A_TIME)
        old.sort(key=lambda connection: connection.expires)
        for connection in old[:at_most]:
            self.give_up(connection, "lifetime")
        if self.unused is not None:
            self._shrink(self.unused.tick(now), at_most - len(old))
        self._seek_newcomers()
        # A server whose connections are all closed stays for as long as it's known.
        self.tally.forget_all_but(self.health.ids())

    def _seek_newcomers(self) -> None:
        """Have a full pool find the low slots of servers that joined."""
        supply, health = self.supply, self.health
        assert supply is not None
        self.newcomers.tick(list(supply.servers), health.down)
        if self.wanted() <= 0 and not self.closed:
            for id in self.newcomers.to_seek(self.ranking.max_slots, health.suspects):
                supply.seek(id)

    def _shrink(self, unused: int, at_most: int) -> None:
        """Close connections that aren't needed, those with the highest slots."""
        fewer = min(unused, at_most, len(self.ranking) - self.min_slots)
        if fewer > 0:
            idle = [connection for connection in self.ranking if connection.state == "idle"]
            # First, or the rover would be asked for others.
            self.ranking.max_slots = max(self.min_slots, len(self.ranking) - fewer)
            for connection in idle[-fewer:]:
                self.give_up(connection, "idle")

    def grow(self, needed: int) -> None:
        """Keep more connections if so many are needed, and fewer were until now."""
        ranking = self.ranking
        if self.unused is not None and needed > ranking.max_slots:
            ranking.max_slots = min(needed, self.max_slots)

    def resize(self, max_slots: int, min_slots: int) -> None:
        """Keep so many from now on."""
        self.max_slots, self.min_slots = max_slots, min_slots
        ranking = self.ranking
        if self.unused is None:
            ranking.max_slots = max_slots
        else:
            ranking.max_slots = min(max(ranking.max_slots, min_slots), max_slots)
        self.give_up_excess("resized")
        self.ask_for_more()

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
        """Tell whether a connection can be leased; if it can't, it takes note of the reason."""
        if self.is_gone(connection.slot):
            connection.reason = "server gone"
            return False
        disturbance = connection.disturbance()
        if disturbance is None:
            return True
        connection.reason = reason_of(disturbance)
        _log.debug("closed %s: %s", connection, disturbance)
        return False

    def keep_if_fit(self, connection: PooledConnection) -> bool:
        """Tell whether a connection can be leased; close it if it can't."""
        if self.is_fit(connection):
            return True
        if connection.reason != "server gone":
            self.suspect_if_young(connection)
        self.drop(connection, connection.reason)
        return False

    def is_gone(self, slot: int) -> bool:
        if self.supply is None or not isinstance(slot, Slot):
            return False
        return server_gone(self.supply.servers, slot.server_id, slot.server)

    def look_at(self, connection: PooledConnection) -> None:
        """See what arrived on an idle connection; the hub calls it."""
        if connection.state == "idle":
            self.keep_if_fit(connection)

    # The end of one

    def give_up_excess(self, reason: CloseReason) -> None:
        while (connection := self.ranking.excess()) is not None:
            self.give_up(connection, reason)

    def give_up(self, connection: PooledConnection, reason: CloseReason) -> None:
        """Close a connection now, or, if it's in use, when it comes back."""
        connection.reason = reason
        if self.ranking.give_up(connection):
            self._close(connection, reason)

    def drop(
        self,
        connection: PooledConnection,
        reason: CloseReason,
        outcome: LeaseOutcome = "unknown",
        *,
        worked: bool = False,
    ) -> None:
        """Close a connection, whatever state it is in, and forget it.

        :param outcome: how its lease went, if it is leased.
        :param worked: whether its server did what was asked, however long that took.
        """
        kept = connection.state == "leased"
        self.ranking.remove(connection, monotonic(), outcome)
        if worked or outcome == "answered":
            connection.server.worked()  # Its connections needn't last.
            if kept:
                self._replace(connection)
        self._close(connection, reason)

    def _replace(self, connection: PooledConnection) -> None:
        """Seek another one of the same server.

        Were it any server's, those with long leases would gather the connections where
        each lease has one of its own, and the balance be lost.
        """
        supply, id = self.supply, connection.server_id
        if supply and id is not None and not (self.closed or self.is_gone(connection.slot)):
            supply.seek(id)

    def _close(self, connection: PooledConnection, reason: CloseReason) -> None:
        """Count, close and forget a connection that the ranking has forgotten."""
        self.by_socket.pop(connection.socket, None)  # Candidates aren't in it.
        self.tally.closed(connection, reason)
        self.let_go(connection, reason)
        self.ask_for_more()

    def let_go(self, connection: PooledConnection, reason: CloseReason) -> None:
        """Close a connection, and tell."""
        connection.close()
        if closed_signal.receivers:
            self.tasks.spawn(self.tell, connection, reason)

    def tell(self, connection: PooledConnection, reason: CloseReason) -> None:
        """Send the signal that a connection is closed; its receivers may switch."""
        sender = self.sender()
        if sender is not None:
            client = connection.socket if connection.client is None else connection.client
            for _ in deliver(
                closed_signal, sender, slot=connection.slot, client=client, reason=reason
            ):
                pass

    def ask_for_more(self) -> None:
        if self.supply is not None and not self.closed:
            self.supply.more_wanted()

    def suspect_if_young(self, connection: PooledConnection) -> None:
        """Tell the rover of a connection that died young, and was never leased."""
        if self.supply is None or connection.leases:
            return
        if monotonic() - connection.arrived < self.supply.interval:
            self.supply.suspect(connection.server_id)
