"""Who has a pool's connections: each method but one is a step without a switch."""

from __future__ import annotations

import logging
import weakref
from time import monotonic
from typing import Final

from gevent import socket as gevent_socket

from gevent_rover.errors import PoolClosed, PoolError, PoolTimeout
from gevent_rover.models import Slot
from gevent_rover.net.forks import Forkable, check_fork, same_process
from gevent_rover.net.sockets import is_closed
from gevent_rover.policy.choice import Choice, LeaseOutcome
from gevent_rover.pooling.connection import PooledConnection
from gevent_rover.pooling.holdings import Holdings
from gevent_rover.pooling.waiters import Waiters

_default_timeout: Final = gevent_socket.getdefaulttimeout

_log: Final = logging.getLogger("gevent_rover.pool")


class Stock(Holdings, Forkable):
    """The connections of a pool; what a rover knows as its demand.

    Its methods don't switch between choosing and marking; only :meth:`lend` waits.

    :param max_slots: how many connections to keep, leased ones included.
    :param choice: which idle one to lend next.
    :param failures: the exceptions that speak against the server of a lease.
    :param max_lifetime: seconds after which a connection is renewed; None: never.
    """

    def __init__(
        self,
        max_slots: int,
        choice: Choice,
        failures: tuple[type[BaseException], ...],
        max_lifetime: float | None,
    ) -> None:
        Holdings.__init__(self, max_slots, choice, max_lifetime)
        self.failures = failures
        self.waiters: Waiters[PooledConnection] = Waiters()
        #: What the latest offer was, and why it was refused; empty if it wasn't.
        self.refused = ""
        # The sockets that a fork took away from their users, in the child.
        self._lost: weakref.WeakSet[gevent_socket.socket] = weakref.WeakSet()
        Forkable.__init__(self)

    # Those who use connections

    def lend(self, timeout: float | None) -> PooledConnection:
        """Lease an idle connection; wait if there is none.

        :param timeout: seconds to wait; None: for ever, 0 or less: not at all.
        :raises PoolTimeout: none became idle in time.
        :raises PoolClosed: the pool is closed, or was meanwhile.
        """
        if not same_process[0]:
            check_fork()
        connection = self._lease()
        return self._wait(timeout) if connection is None else connection

    def take_back(self, connection: PooledConnection, outcome: LeaseOutcome = "answered") -> None:
        """End a lease: keep the connection, or close it if it can't be leased any more."""
        if connection.state == "retired" or not (
            self.is_surely_fit(connection) or self.is_fit(connection)
        ):
            self.drop(connection, outcome)
            return
        socket = connection.socket
        default = _default_timeout()
        if socket.timeout != default:
            socket.settimeout(default)
        connection.idle_since = now = monotonic()
        self.ranking.give_back(connection, now, outcome)
        if not connection.listed:
            self.watch.begin_later(connection)
        if self.waiters.queue:
            self._hand_on()

    def leased(self, socket: gevent_socket.socket) -> PooledConnection | None:
        """Return the connection that ``socket`` is; None if a fork took it away.

        :raises PoolError: it isn't leased from this pool.
        """
        if not same_process[0]:
            check_fork()
        connection = self.by_socket.get(socket)
        if connection is None or connection.state == "idle":
            if socket in self._lost:
                return None
            raise PoolError(f"not leased from this pool: {socket!r}")
        return connection

    # Those who bring connections

    def offer(self, slot: int, socket: gevent_socket.socket) -> bool:
        """Keep a connection, or close it; tell whether it's kept."""
        connection = None
        reason = self._reason_to_refuse(slot, socket)
        if reason is None:
            id = slot.server_id if isinstance(slot, Slot) else None
            connection = PooledConnection(slot, socket, self.health.of(id), self.max_lifetime)
            # Else a server that says a low slot and hangs up would cost a good
            # connection on every tick.
            reason = connection.disturbance()
        if connection is None or reason is not None:
            of = f" of {slot.server_id!r}" if isinstance(slot, Slot) else ""
            self.refused = f"slot {int(slot)}{of}: {reason}"
            _log.debug("refused %s", self.refused)
            if connection is None:
                socket.close()
            else:
                connection.close()
                self.suspect_if_young(connection)
            return False
        self.refused = ""
        self.by_socket[socket] = connection
        self.ranking.add(connection)
        self.give_up_excess()
        self.ranking.make_idle(connection)
        self.watch.begin(connection)
        if self.waiters.queue:
            self._hand_on()
        return True

    def resize(self, max_slots: int) -> None:
        """Keep so many from now on."""
        self.ranking.max_slots = max_slots
        self.give_up_excess()
        self.ask_for_more()

    def close(self) -> None:
        """Close the idle connections now, the leased ones when they come back."""
        if self.closed:
            return
        self.closed = True
        if self.supply is not None:
            self.supply.detach()
        for connection in self.ranking:
            self.give_up(connection)
        self.waiters.fail(PoolClosed("the pool was closed"))

    # Steps of these

    def _wait(self, timeout: float | None) -> PooledConnection:
        if self.closed:
            raise PoolClosed("the pool is closed")
        if self.wanted() > 0:
            self.ask_for_more()
        if timeout is not None and timeout <= 0:
            raise PoolTimeout(_explanation(self, 0.0))
        began = monotonic()
        connection = self.waiters.wait(timeout, self._take_back_unused)
        if connection is None:
            raise PoolTimeout(_explanation(self, monotonic() - began))
        return connection

    def _take_back_unused(self, connection: PooledConnection) -> None:
        """Take back what was handed to a greenlet that was killed before it could use it."""
        self.take_back(connection, "unknown")

    def _lease(self) -> PooledConnection | None:
        """Lease an idle connection that is fit for it; None if there is none."""
        while (connection := self.ranking.lease(monotonic())) is not None:
            if connection.watched:
                self.watch.end(connection)
            if self.is_surely_fit(connection) or self.keep_if_fit(connection):
                connection.leases += 1
                return connection
        return None

    def _hand_on(self) -> None:
        """Lease what has just become idle to who waits longest: nobody waits while one is idle."""
        connection = self._lease()
        if connection is not None:
            self.waiters.hand(connection)

    def _reason_to_refuse(self, slot: int, socket: gevent_socket.socket) -> str | None:
        if self.closed:
            return "the pool is closed"
        if is_closed(socket):
            return "its socket is closed"
        if self.is_gone(slot):
            return "its server left the registry, or changed in it"
        if not self.ranking.admits(slot):
            return f"the pool is full, and none of its {len(self.ranking)} slots is higher"
        return None

    def __repr__(self) -> str:
        kept, idle = len(self.ranking), self.ranking.idle
        closed = "closed " if self.closed else ""
        return (
            f"<SlotPool {closed}size={kept}/{self.ranking.max_slots} idle={idle}"
            f" leased={kept - idle} retired={len(self.by_socket) - kept}"
            f" waiting={len(self.waiters.queue)}>"
        )

    def _after_fork(self) -> None:
        """Close, in a forked child, its copies of all connections; forget the waiters."""
        for connection in self.by_socket.values():
            if connection.state != "idle":
                self._lost.add(connection.socket)
            connection.abandon()
        self.by_socket.clear()
        self.ranking.clear()
        self.health.forget_leases()
        self.watch.close()
        self.waiters.queue.clear()


def _explanation(stock: Stock, waited: float) -> str:
    """Return what helps to find out why there was no connection."""
    parts = [f"no connection within {waited:.3g} s", repr(stock)]
    if stock.supply is not None:
        parts.append(stock.supply.describe())
    if stock.refused:
        parts.append(f"latest offer refused: {stock.refused}")
    return "; ".join(parts)
