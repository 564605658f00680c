"""A pool's connections, and who has them: each method but one is a step without a switch."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from gevent import socket as gevent_socket

from gevent_rover.errors import PoolClosed, PoolError, PoolTimeout
from gevent_rover.models import Slot
from gevent_rover.net.forks import Forkable, check_fork, same_process
from gevent_rover.net.sockets import is_closed
from gevent_rover.policy.choice import Choice
from gevent_rover.policy.ranking import Ranking
from gevent_rover.pooling.connection import PooledConnection
from gevent_rover.pooling.waiters import Waiters
from gevent_rover.registry import server_gone
from gevent_rover.roving.supply import Supply

_default_timeout: Final = gevent_socket.getdefaulttimeout

_log: Final = logging.getLogger("gevent_rover.pool")
_log.addHandler(logging.NullHandler())


class Stock(Forkable):
    """The connections of a pool; what a rover knows as its demand.

    Its methods don't switch between choosing and marking; only :meth:`lend` waits.

    :param max_slots: how many connections to keep, leased ones included.
    :param choice: which idle one to lend next.
    """

    def __init__(self, max_slots: int, choice: Choice) -> None:
        self.ranking: Ranking[PooledConnection] = Ranking(max_slots, choice)
        self.by_socket: dict[gevent_socket.socket, PooledConnection] = {}  # retired ones, too
        self.waiters: Waiters[PooledConnection] = Waiters()
        self.closed = False
        #: Where connections come from; None: from nowhere, but by :meth:`offer`.
        self.supply: Supply | None = None
        #: What the latest offer was, and why it was refused; empty if it wasn't.
        self.refused = ""
        # The sockets that a fork took away from their users, in the child.
        self._lost: weakref.WeakSet[gevent_socket.socket] = weakref.WeakSet()
        self._on_readable = _weak_caller(self)
        super().__init__()
        weakref.finalize(self, _close_idle, self.by_socket).atexit = False

    # What the rover asks and says

    def wanted(self) -> int:
        """Return how many connections are missing."""
        return 0 if self.closed else self.ranking.max_slots - len(self.ranking)

    def tick(self) -> None:
        """Let go of servers that left; tell of which servers a connection has lasted."""
        assert self.supply is not None
        long_ago = monotonic() - self.supply.interval
        lasting: set[str] = set()
        for connection in self.ranking:
            if self._is_gone(connection.slot):
                self._give_up(connection)
            elif connection.server_id is not None and connection.arrived <= long_ago:
                lasting.add(connection.server_id)
        for id in lasting:
            self.supply.lasted(id)

    # Those who use connections

    def lend(self, timeout: float | None) -> PooledConnection:
        """Lease an idle connection; wait if there is none.

        :param timeout: seconds to wait; None: for ever, 0 or less: not at all.
        :raises PoolTimeout: none became idle in time.
        :raises PoolClosed: the pool is closed, or was meanwhile.
        """
        if not same_process[0]:
            check_fork()
        while (connection := self.ranking.lease()) is not None:
            connection.watcher.stop()
            if self.supply is not None and self._is_gone(connection.slot):
                self.drop(connection)
                continue
            disturbance = connection.disturbance()
            if disturbance is None:
                connection.leases += 1
                return connection
            self._lose(connection, disturbance)
        return self._wait(timeout)

    def take_back(self, connection: PooledConnection) -> None:
        """End a lease: keep the connection, or close it if it can't be leased any more."""
        if (
            connection.state == "retired"
            or (self.supply is not None and self._is_gone(connection.slot))
            or connection.disturbance() is not None
        ):
            self.drop(connection)
            return
        socket = connection.socket
        default = _default_timeout()
        if socket.timeout != default:
            socket.settimeout(default)
        self.ranking.make_idle(connection)
        if self.waiters.queue:
            self._hand_on()
        else:
            connection.watcher.start(self._on_readable, connection)

    def drop(self, connection: PooledConnection) -> None:
        """Close a connection, whatever state it is in, and forget it."""
        self.ranking.remove(connection)
        self._close(connection)

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
            connection = PooledConnection(slot, socket)
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
                self._suspect_if_young(connection)
            return False
        self.refused = ""
        self.by_socket[socket] = connection
        self.ranking.add(connection)
        self._give_up_excess()
        self.ranking.make_idle(connection)
        if self.waiters.queue:
            self._hand_on()
        else:
            connection.watcher.start(self._on_readable, connection)
        return True

    def resize(self, max_slots: int) -> None:
        """Keep so many from now on."""
        self.ranking.max_slots = max_slots
        self._give_up_excess()
        self._ask_for_more()

    def close(self) -> None:
        """Close the idle connections now, the leased ones when they come back."""
        if self.closed:
            return
        self.closed = True
        if self.supply is not None:
            self.supply.detach()
        for connection in self.ranking:
            self._give_up(connection)
        self.waiters.fail(PoolClosed("the pool was closed"))

    # Steps of these

    def _wait(self, timeout: float | None) -> PooledConnection:
        if self.closed:
            raise PoolClosed("the pool is closed")
        if self.wanted() > 0:
            self._ask_for_more()
        if timeout is not None and timeout <= 0:
            raise PoolTimeout(_explanation(self, 0.0))
        began = monotonic()
        connection = self.waiters.wait(timeout, self.take_back)
        if connection is None:
            raise PoolTimeout(_explanation(self, monotonic() - began))
        return connection

    def _hand_on(self) -> None:
        """Lease what has just become idle to who waits longest: nobody waits while one is idle."""
        connection = self.ranking.lease()
        assert connection is not None
        connection.leases += 1
        self.waiters.hand(connection)

    def _give_up_excess(self) -> None:
        while (connection := self.ranking.excess()) is not None:
            self._give_up(connection)

    def _give_up(self, connection: PooledConnection) -> None:
        """Close a connection now, or, if it's leased, when it comes back."""
        if self.ranking.give_up(connection):
            self._close(connection)

    def _close(self, connection: PooledConnection) -> None:
        del self.by_socket[connection.socket]
        connection.close()
        self._ask_for_more()

    def _ask_for_more(self) -> None:
        if self.supply is not None and not self.closed:
            self.supply.more_wanted()

    def _lose(self, connection: PooledConnection, disturbance: str) -> None:
        """Close a connection that can't be leased."""
        _log.debug("closed %s: %s", connection, disturbance)
        self._suspect_if_young(connection)
        self.drop(connection)

    def look_at(self, connection: PooledConnection) -> None:
        """See what arrived on an idle connection; the hub calls it."""
        if connection.state == "idle":
            disturbance = connection.disturbance()
            if disturbance is not None:
                self._lose(connection, disturbance)

    def _reason_to_refuse(self, slot: int, socket: gevent_socket.socket) -> str | None:
        if self.closed:
            return "the pool is closed"
        if is_closed(socket):
            return "its socket is closed"
        if self._is_gone(slot):
            return "its server left the registry, or changed in it"
        if not self.ranking.admits(slot):
            return f"the pool is full, and none of its {len(self.ranking)} slots is higher"
        return None

    def _is_gone(self, slot: int) -> bool:
        if self.supply is None or not isinstance(slot, Slot):
            return False
        return server_gone(self.supply.servers, slot.server_id, slot.server)

    def _suspect_if_young(self, connection: PooledConnection) -> None:
        """Tell the rover of a connection that died young, and was never leased."""
        if self.supply is None or connection.leases:
            return
        if monotonic() - connection.arrived < self.supply.interval:
            self.supply.suspect(connection.server_id)

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
        self.waiters.queue.clear()


def _explanation(stock: Stock, waited: float) -> str:
    """Return what helps to find out why there was no connection."""
    parts = [f"no connection within {waited:.3g} s", repr(stock)]
    if stock.supply is not None:
        parts.append(stock.supply.describe())
    if stock.refused:
        parts.append(f"latest offer refused: {stock.refused}")
    return "; ".join(parts)


def _close_idle(by_socket: dict[gevent_socket.socket, PooledConnection]) -> None:
    """Close what a pool that was collected leaves behind; leased ones are their users'."""
    for connection in by_socket.values():
        if connection.state == "idle":
            connection.close()
        else:
            connection.watcher.close()
    by_socket.clear()


def _weak_caller(stock: Stock) -> Callable[[PooledConnection], None]:
    """Return what the hub calls when an idle connection is readable; it keeps no pool alive."""
    reference: Any = weakref.ref(stock)

    def call(connection: PooledConnection) -> None:
        stock = reference()
        if stock is not None:
            stock.look_at(connection)

    return call
