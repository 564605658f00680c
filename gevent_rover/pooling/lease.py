"""A leased connection, for a ``with`` block."""

from __future__ import annotations

from time import monotonic
from typing import Generic

from gevent_rover.errors import PoolError
from gevent_rover.net.forks import check_fork, same_process
from gevent_rover.policy.trouble import in_words
from gevent_rover.pooling.client import Client
from gevent_rover.pooling.connection import PooledConnection
from gevent_rover.pooling.stock import Stock


class Lease(Generic[Client]):
    """A leased connection, for a ``with`` block; made by :meth:`SlotPool.lease`.

    It can be entered again after its exit, but not before.
    """

    __slots__ = ("_connection", "_failed", "_number", "_stock", "_timeout")

    def __init__(self, stock: Stock, timeout: float | None) -> None:
        self._stock = stock
        self._timeout = timeout
        self._connection: PooledConnection | None = None

    def fail(self) -> None:
        """Say that the request failed by the server's fault. Doesn't switch.

        The connection is fine, and goes back as ever. The server is set aside if that
        happens three times in a row.

        :raises PoolError: the lease isn't entered.
        """
        if self._connection is None:
            raise PoolError("this lease isn't entered: fail() belongs into its `with` block")
        self._failed = True

    def __enter__(self) -> Client:
        if self._connection is not None:
            raise PoolError("this lease is entered already: call lease() once for each block")
        self._connection = connection = self._stock.lend(self._timeout)
        self._number = connection.leases
        self._failed = False
        return connection.client  # type: ignore[no-any-return]

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: object) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        if not same_process[0]:
            check_fork()
        if connection.leases != self._number or connection.state not in ("leased", "retired"):
            return  # Given back or discarded by hand, and perhaps leased again since.
        stock = self._stock
        if kind is None:
            stock.take_back(connection, "failed" if self._failed else "answered")
        else:
            failed = self._failed or issubclass(kind, stock.options.failures)
            stock.discard(connection, failed=failed)
            if failed and isinstance(value, BaseException):
                connection.server.went_wrong("lease", in_words(value), monotonic())
