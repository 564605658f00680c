"""A leased connection, for a ``with`` block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevent import socket as gevent_socket

from gevent_rover.errors import PoolError
from gevent_rover.pooled import Pooled

if TYPE_CHECKING:
    from gevent_rover.pool import SlotPool


class Lease:
    """A leased connection, for a ``with`` block; made by :meth:`SlotPool.lease`.

    It can be entered again after its exit, but not before.
    """

    __slots__ = ("_lease", "_pool", "_pooled", "_timeout")

    def __init__(self, pool: SlotPool, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._pooled: Pooled | None = None

    def __enter__(self) -> gevent_socket.socket:
        if self._pooled is not None:
            raise PoolError("this lease is entered already: call lease() once for each block")
        socket = self._pool.acquire(self._timeout)
        self._pooled = self._pool._by_socket[socket]
        self._lease = self._pooled.leases
        return socket

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        pooled, self._pooled = self._pooled, None
        assert pooled is not None
        if pooled.leases != self._lease or pooled.state in ("idle", "closed"):
            return  # Given back or discarded by hand, and perhaps leased again since.
        if kind is None:
            self._pool._release(pooled)
        else:
            self._pool._drop(pooled)
