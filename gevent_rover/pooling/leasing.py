"""How a pool is used: leases, in a block or in pieces."""

from __future__ import annotations

from time import monotonic
from typing import Final, Generic

from gevent import socket as gevent_socket

from gevent_rover.checks import check_count, check_timeout
from gevent_rover.net.forks import same_process
from gevent_rover.pooling.client import Client
from gevent_rover.pooling.lease import Lease
from gevent_rover.pooling.state import PoolState
from gevent_rover.pooling.stock import Stock

# Seconds to wait for a connection unless it's said. It needs no check: hence the name.
_WAIT: Final = 5.0

# Seconds to wait for all of them.
_READY: Final = 30.0


class Leasing(PoolState, Generic[Client]):
    """What a pool's users call."""

    _stock: Stock

    def lease(self, timeout: float | None = _WAIT) -> Lease[Client]:
        """Lease the idle connection that the choice picks, for a ``with`` block.

        ::

            with pool.lease() as socket:
                socket.sendall(b"PING\\r\\n")

        After a normal exit the connection is idle again; after any exception
        (a kill and a :class:`gevent.Timeout`, too) it is closed, since nobody
        knows what is still under way on it. Those that are ``failures`` count against
        the server, and so does :meth:`Lease.fail`.

        :param timeout: as for :meth:`acquire`, which raises what this raises.
        """
        if timeout is not _WAIT:
            timeout = check_timeout("timeout", timeout)
        return Lease(self._stock, timeout)

    def acquire(self, timeout: float | None = _WAIT) -> Client:
        """Lease an idle connection; give it back with :meth:`release`.

        Which one is the choice's decision. If none is idle, the greenlet waits, first
        come first served, and is woken by a connection that is released or offered, by
        :meth:`close`, or by the timeout.

        :param timeout: seconds to wait; None: for ever, 0 or less: not at all.
        :raises PoolTimeout: none became idle in time; its message says what the
            pool, its rover and the latest attempt are up to, and why the pool refused
            the latest connection, if it did.
        :raises PoolFull: ``max_waiting`` greenlets wait already.
        :raises PoolClosed: the pool is closed, or was while the greenlet waited.
        :raises ValueError: ``timeout`` isn't a number.
        """
        if timeout is not _WAIT:
            timeout = check_timeout("timeout", timeout)
        return self._stock.lend(timeout).client  # type: ignore[no-any-return]

    def release(self, client: Client | gevent_socket.socket, *, failed: bool = False) -> None:
        """Give a leased connection back. Doesn't switch.

        :param client: what :meth:`acquire` gave, or its socket.

        Closed instead of kept: one that was retired, that is closed already,
        that has unread bytes, or whose server left the registry. Its timeout
        is reset, to what ``setup`` made it if there is one. In a forked child, one that
        the parent leased is closed already, and nothing happens.

        :param failed: whether the request failed by the server's fault.
        :raises PoolError: it isn't leased from this pool.
        """
        stock = self._stock
        try:
            leased = stock.by_socket.get(client)  # type: ignore[arg-type]
        except TypeError:  # a client that isn't hashable
            leased = None
        if leased is None or leased.state != "leased" or not same_process[0]:
            leased = stock.leased(client)  # Says what is wrong, if anything is.
            if leased is None:
                return
        stock.take_back(leased, "failed" if failed else "answered")

    def answered(self, client: Client | gevent_socket.socket, seconds: float) -> None:
        """Count an answer within a lease of many: how slow the server is, is judged by these.

        For leases that end with ``discard(…, worked=True)``. Another end would count the
        whole lease as one answer more. Doesn't switch.

        :param client: what :meth:`acquire` gave, or its socket.
        :param seconds: how long the answer took.
        :raises PoolError: it isn't leased from this pool.
        """
        leased = self._stock.leased(client)
        if leased is not None:
            leased.server.answered(seconds, monotonic())

    def discard(
        self,
        client: Client | gevent_socket.socket,
        *,
        failed: bool = False,
        worked: bool = False,
    ) -> None:
        """Close a leased connection instead of giving it back. Doesn't switch.

        :param client: what :meth:`acquire` gave, or its socket.
        :param failed: whether the request failed by the server's fault. Else it says
            nothing about the server,
        :param worked: unless the server did what it was asked, and only the connection is
            of no more use: then failures before are forgotten. How long the lease
            took doesn't count.
        :raises PoolError: it isn't leased from this pool; as for :meth:`release`.
        """
        leased = self._stock.leased(client)
        if leased is not None:
            self._stock.discard(leased, failed=failed, worked=worked)

    def wait_ready(self, count: int | None = None, timeout: float | None = _READY) -> None:
        """Wait until the pool keeps so many connections that are set up.

        It is woken by new connections, by other sizes, and by :meth:`close`.

        :param count: how many. Default: as many as the pool is to keep: ``max_slots``, or
            with ``max_idle`` no more than are needed, ``min_slots`` at first.
        :param timeout: seconds to wait; None: for ever, 0 or less: not at all.
        :raises PoolTimeout: they weren't there in time; its message is as for :meth:`acquire`.
        :raises PoolClosed: the pool is closed, or was meanwhile.
        :raises ValueError: ``count`` isn't an int from 0 to ``max_slots``, or ``timeout``
            isn't a number.
        """
        if count is not None:
            check_count("count", count, least=0, most=self.max_slots)
        self._stock.wait_ready(count, check_timeout("timeout", timeout))
