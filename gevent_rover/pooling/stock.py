"""The connections of a pool as a whole: those that are brought, its sizes, its end."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

from gevent import socket as gevent_socket
from gevent.event import Event

from gevent_rover.errors import PoolClosed, PoolTimeout
from gevent_rover.models import Slot
from gevent_rover.net.forks import Forkable, check_fork
from gevent_rover.net.sockets import is_closed, keep_alive
from gevent_rover.pooling.connection import PooledConnection
from gevent_rover.pooling.lending import Lending, explanation
from gevent_rover.pooling.options import Options
from gevent_rover.pooling.stats import Tally

_log: Final = logging.getLogger("gevent_rover.pool")


class Stock(Lending, Forkable):
    """The connections of a pool; what a rover knows as its demand.

    Only :meth:`lend`, :meth:`wait` and :meth:`wait_ready` wait.

    :param max_slots: how many connections to keep at most, leased ones included.
    :param min_slots: how many to keep if fewer are needed.
    """

    def __init__(self, max_slots: int, min_slots: int, options: Options) -> None:
        Lending.__init__(self, max_slots, min_slots, options)
        Forkable.__init__(self)

    # Those who bring connections

    def has(self, socket: gevent_socket.socket) -> bool:
        """Tell whether it's the socket of one of these connections."""
        return socket in self.by_socket

    def offer(self, slot: int, socket: gevent_socket.socket) -> bool:
        """Keep a connection, or close it; tell whether it's kept."""
        connection = None
        reason = self.reason_to_refuse(slot, socket)
        if reason is None:
            id = slot.server_id if isinstance(slot, Slot) else None
            record = self.health.of(id)
            connection = PooledConnection(slot, socket, record, self.options.max_lifetime)
            reason = self.what_is_wrong(connection)
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
        if self.options.keepalive is not None:
            keep_alive(socket, self.options.keepalive)
        self.tally.opened(connection)
        self.take_in(connection)
        return True

    def reason_to_refuse(self, slot: int, socket: gevent_socket.socket) -> str | None:
        """Return why an offer isn't taken, in words; None: it is."""
        if self.closed:
            return "the pool is closed"
        if is_closed(socket):
            return "its socket is closed"
        if self.is_gone(slot):
            return "its server left the registry, or changed in it"
        if not self.ranking.admits(slot):
            if isinstance(slot, Slot):
                self.newcomers.has_enough(slot.server_id)
            return f"the pool is full, and none of its {len(self.ranking)} slots is higher"
        return None

    def what_is_wrong(self, connection: PooledConnection) -> str | None:
        """Return why a new connection can't be kept, in words; None: it can.

        Else a server that says a low slot and hangs up would cost a good connection on
        every tick.
        """
        return connection.disturbance()

    def take_in(self, connection: PooledConnection) -> None:
        """Keep a connection that is ready for use."""
        self.by_socket[connection.socket] = connection
        self.ranking.add(connection)
        self.give_up_excess("replaced")
        self.make_idle(connection)

    def make_idle(self, connection: PooledConnection) -> None:
        """Have a connection leased from now on that is kept."""
        self.refused = ""
        self.ranking.make_idle(connection)
        self.watch.begin(connection)
        if self.waiters.queue:
            self.hand_on()
        self.changed.set()

    # The pool as a whole

    def resize(self, max_slots: int, min_slots: int) -> None:
        """Keep so many from now on."""
        super().resize(max_slots, min_slots)
        self.changed.set()

    def wait_ready(self, count: int | None, timeout: float | None) -> None:
        """Wait until so many are kept and set up; None: as many as the pool is to keep.

        :param timeout: seconds; None: for ever.
        :raises PoolTimeout: they weren't in time.
        :raises PoolClosed: the pool is closed, or was meanwhile.
        """
        check_fork()
        began = monotonic()
        if count is not None:
            self.grow(count)
        self.ask_for_more()
        while not self.closed:
            ready = len(self.ranking) - len(self.preparing)
            wanted = self.ranking.max_slots if count is None else count
            if ready >= wanted:
                return
            waited = monotonic() - began
            if timeout is not None and waited >= timeout:
                what = f"{ready} of {wanted} connections ready"
                raise PoolTimeout(explanation(self, what, waited))
            self.changed.clear()
            self.changed.wait(None if timeout is None else timeout - waited)
        raise PoolClosed("the pool is closed")

    def close(self) -> None:
        """Close the idle connections now, the leased ones when they come back."""
        if self.closed:
            return
        self.closed = True
        if self.supply is not None:
            self.supply.detach()
        for connection in [*self.ranking, *self.candidates]:
            self.give_up(connection, "closed")
        self.watch.close()
        self.waiters.fail(PoolClosed("the pool was closed"))
        self.changed.set()

    def __repr__(self) -> str:
        kept, idle, preparing = len(self.ranking), self.ranking.idle, len(self.preparing)
        closed = "closed " if self.closed else ""
        being_set_up = f" preparing={preparing}" if preparing else ""
        return (
            f"<SlotPool {closed}size={kept}/{self.max_slots} idle={idle}"
            f" leased={kept - idle - preparing}{being_set_up}"
            f" retired={len(self.by_socket) - kept} waiting={len(self.waiters.queue)}>"
        )

    def _after_fork(self) -> None:
        """Close, in a forked child, its copies of all connections; forget the waiters."""
        for connection in self.by_socket.values():
            if connection.state != "idle":
                self.lost.add(connection.socket)
            connection.abandon()
        self.by_socket.clear()
        self.ranking.clear()
        self.health.forget_leases()
        self.watch.close()
        self.waiters.queue.clear()
        self.tasks.abandon()
        self.tally = Tally()
        self.changed = Event()
