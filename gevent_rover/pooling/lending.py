"""Who has a pool's connections, and who waits for one."""

from __future__ import annotations

import weakref
from time import monotonic
from typing import Final

from gevent import socket as gevent_socket

from gevent_rover.errors import PoolClosed, PoolError, PoolFull, PoolTimeout
from gevent_rover.net.forks import check_fork, same_process
from gevent_rover.policy.choice import LeaseOutcome
from gevent_rover.pooling.connection import PooledConnection
from gevent_rover.pooling.holdings import Holdings
from gevent_rover.pooling.options import Options
from gevent_rover.pooling.waiters import Waiters

_default_timeout: Final = gevent_socket.getdefaulttimeout


class Lending(Holdings):
    """The connections of a pool, with those who use them.

    Its methods don't switch between choosing and marking; only :meth:`lend` and
    :meth:`wait` wait.

    :param max_slots: how many connections to keep at most, leased ones included.
    :param min_slots: how many to keep if fewer are needed.
    """

    def __init__(self, max_slots: int, min_slots: int, options: Options) -> None:
        super().__init__(max_slots, min_slots, options)
        self.waiters: Waiters[PooledConnection] = Waiters()
        #: Why the latest connection couldn't be had; empty if it could.
        self.refused = ""
        #: The sockets that a fork took away from their users, in the child.
        self.lost: weakref.WeakSet[gevent_socket.socket] = weakref.WeakSet()

    def lend(self, timeout: float | None) -> PooledConnection:
        """Lease an idle connection; wait if there is none.

        :param timeout: seconds to wait; None: for ever, 0 or less: not at all.
        :raises PoolTimeout: none became idle in time.
        :raises PoolFull: too many wait already.
        :raises PoolClosed: the pool is closed, or was meanwhile.
        """
        if not same_process[0]:
            check_fork()
        connection = self.take()
        return self.wait(timeout) if connection is None else connection

    def put_back(self, connection: PooledConnection, outcome: LeaseOutcome = "answered") -> None:
        """End a lease: keep the connection, or close it if it can't be leased any more."""
        if connection.state == "retired" or not (
            self.is_surely_fit(connection) or self.is_fit(connection)
        ):
            self.drop(connection, connection.reason, outcome)
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
            self.hand_on()

    #: The same, as users do it: they may have hooks.
    take_back = put_back

    def discard(self, connection: PooledConnection, *, failed: bool, worked: bool = False) -> None:
        """End a lease by closing its connection.

        :param failed: whether that speaks against the server; else it says nothing.
        :param worked: whether it speaks for the server.
        """
        if failed:
            self.drop(connection, "failed", "failed")
        else:
            self.drop(connection, "discarded", worked=worked)

    def leased(self, thing: object) -> PooledConnection | None:
        """Return the connection that a user has; None if a fork took it away.

        :param thing: its client or its socket.
        :raises PoolError: it isn't leased from this pool.
        """
        if not same_process[0]:
            check_fork()
        connection = self.find(thing)
        if connection is None or connection.state not in ("leased", "retired"):
            if self.is_lost(thing):
                return None
            raise PoolError(f"not leased from this pool: {thing!r}")
        return connection

    def find(self, thing: object) -> PooledConnection | None:
        """Return the connection that has this client or socket."""
        return self.by_socket.get(thing) if isinstance(thing, gevent_socket.socket) else None

    def is_lost(self, thing: object) -> bool:
        """Tell whether a fork took it away from its user."""
        return isinstance(thing, gevent_socket.socket) and thing in self.lost

    # Steps of these

    def take(self) -> PooledConnection | None:
        """Lease an idle connection that is fit for it; None if there is none."""
        while (connection := self.ranking.lease(monotonic())) is not None:
            if connection.watched:
                connection.stop_watching()
            if self.is_surely_fit(connection) or self.keep_if_fit(connection):
                connection.leases += 1
                return connection
        return None

    def wait(
        self, timeout: float | None, turn: int = 0, *, again: bool = False
    ) -> PooledConnection:
        """Wait for a connection, after :meth:`take` found none.

        :param turn: of the :attr:`waiters`; 0: a new one.
        :param again: whether the greenlet had one already, which was no good.
        """
        if self.closed:
            raise PoolClosed("the pool is closed")
        waiting = len(self.waiters.queue)
        self.grow(len(self.ranking) - len(self.preparing) - self.ranking.idle + waiting + 1)
        if self.wanted() > 0:
            self.ask_for_more()
        if timeout is not None and timeout <= 0:
            raise self.timed_out(0.0)
        at_most = self.options.max_waiting
        if at_most is not None and waiting >= at_most and not again:
            self.tally.rejected += 1
            raise PoolFull(f"{waiting} wait for a connection, and no more may: {self!r}")
        began = monotonic()
        try:
            connection = self.waiters.wait(timeout, self._take_back_unused, turn)
        finally:
            self.tally.waited(monotonic() - began)
        if connection is None:
            raise self.timed_out(monotonic() - began)
        return connection

    def timed_out(self, waited: float) -> PoolTimeout:
        """Count a lease that had no connection in time, and return its error."""
        self.tally.timeouts += 1
        return PoolTimeout(explanation(self, "no connection", waited))

    def _take_back_unused(self, connection: PooledConnection) -> None:
        """Take back what was handed to a greenlet that was killed before it could use it."""
        self.put_back(connection, "unknown")

    def hand_on(self) -> None:
        """Lease what has just become idle to who waits longest: nobody waits while one is idle."""
        connection = self.take()
        if connection is not None:
            self.waiters.hand(connection)


def explanation(stock: Lending, what: str, waited: float) -> str:
    """Return what helps to find out why there was no connection."""
    parts = [f"{what} within {waited:.3g} s", repr(stock)]
    if stock.supply is not None:
        parts.append(stock.supply.describe())
    if stock.refused:
        parts.append(f"latest offer refused: {stock.refused}")
    return "; ".join(parts)
