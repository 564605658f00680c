"""Checking connections before a lease, resetting them after it, and tearing them down."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any, Final

from gevent import Timeout

from gevent_rover.errors import PoolClosed
from gevent_rover.net.forks import check_fork, same_process
from gevent_rover.policy.choice import LeaseOutcome
from gevent_rover.policy.pacing import HANGS_AFTER
from gevent_rover.pooling.connection import PooledConnection
from gevent_rover.pooling.hooks import HookTimeout, call_hook
from gevent_rover.pooling.options import Options
from gevent_rover.pooling.preparing import PreparingStock
from gevent_rover.pooling.stats import CloseReason

_log: Final = logging.getLogger("gevent_rover.pool")


class HookedStock(PreparingStock):
    """A stock that calls its user's hooks.

    ``check`` runs in the greenlet that leases, which has the connection meanwhile. The
    others run in greenlets of the pool's own.
    """

    def __init__(self, max_slots: int, min_slots: int, options: Options) -> None:
        super().__init__(max_slots, min_slots, options)
        # Forgotten otherwise, but not closed before their teardown is over.
        self._tearing_down: dict[PooledConnection, None] = {}
        self._lost_clients: list[Any] = []

    # Before a lease

    def lend(self, timeout: float | None) -> PooledConnection:
        if self.options.check is None:
            return super().lend(timeout)
        if not same_process[0]:
            check_fork()
        began = monotonic()
        ends = None if timeout is None or timeout <= 0 else began + timeout
        turn = self.waiters.take_turn()
        for tried in range(self.max_slots):
            connection = self.take()
            if connection is None:
                left = timeout if ends is None else max(0.0, ends - monotonic())
                connection = self.wait(left, turn, again=tried > 0)
            seconds = self.seconds
            if ends is not None:
                seconds = min(seconds, max(0.0, ends - monotonic()))
            if self._passes(connection, seconds):
                return connection
            if ends is not None and monotonic() >= ends:
                break
        raise self.timed_out(monotonic() - began)

    def _passes(self, connection: PooledConnection, seconds: float) -> bool:
        """Tell whether a leased connection can be used; close it if it can't.

        :param seconds: how long its check may take.
        """
        assert self.options.check is not None
        if monotonic() - connection.idle_since < self.options.check_after:
            return True
        outcome: LeaseOutcome = "unknown"
        try:
            result = call_hook("check", seconds, self.options.check, connection.client)
            # Some return nothing, and raise if need be.
            why = "" if result is None or result else f"it returned {result!r}"
        except Exception as exc:
            why = f"{type(exc).__name__}: {exc}"
            # With that little time left it could show nothing.
            in_vain = isinstance(exc, HookTimeout) and seconds < HANGS_AFTER
            if isinstance(exc, self.options.failures) and not in_vain:
                outcome = "failed"
        except BaseException:
            self._drop_unused(connection, "discarded")
            raise
        if connection.state == "closed":  # By a fork: it was the parent's.
            return False
        if self.closed:
            self._drop_unused(connection, "closed")
            raise PoolClosed("the pool was closed")
        if why:
            self.refused = f"{connection}: its check failed: {why}"
            _log.debug("closed %s", self.refused)
            self._drop_unused(connection, "check", outcome)
            return False
        if not self.is_fit(connection):
            self._drop_unused(connection, connection.reason)
            return False
        connection.leased_at = monotonic()
        return True

    def _drop_unused(
        self, connection: PooledConnection, reason: CloseReason, outcome: LeaseOutcome = "unknown"
    ) -> None:
        if connection.state != "closed":
            connection.leases -= 1  # It wasn't leased to anybody.
            self.drop(connection, reason, outcome)

    # After a lease

    def take_back(self, connection: PooledConnection, outcome: LeaseOutcome = "answered") -> None:
        if self.options.reset is None or connection.state == "retired":
            self.put_back(connection, outcome)
            return
        self.ranking.reset(connection)
        self.tasks.spawn(self._reset, connection, outcome, monotonic())

    def _reset(self, connection: PooledConnection, outcome: LeaseOutcome, since: float) -> None:
        assert self.options.reset is not None
        failed = True
        try:
            call_hook("reset", self.seconds, self.options.reset, connection.client)
            failed = False
        except (Exception, Timeout) as exc:
            _log.debug("closed %s: its reset failed: %r", connection, exc)
        finally:
            if connection.state != "closed":  # By a fork: it was the parent's.
                # What the lease took is what its user took.
                connection.leased_at += monotonic() - since
                if failed or connection.state == "ending":
                    reason: CloseReason = "reset" if failed else connection.reason
                    self.drop(connection, reason, outcome)
                else:
                    self.put_back(connection, outcome)

    # The end

    def let_go(self, connection: PooledConnection, reason: CloseReason) -> None:
        if self.options.teardown is None or connection.client is None:
            super().let_go(connection, reason)
        else:
            self.forget(connection)
            connection.stop_watching()
            self._tearing_down[connection] = None
            self.tasks.spawn(self._tear_down, connection, reason)

    def _tear_down(self, connection: PooledConnection, reason: CloseReason) -> None:
        try:
            self._call_teardown(connection, connection.client)
        finally:
            if connection in self._tearing_down:  # Else a fork has closed it.
                del self._tearing_down[connection]
                connection.close()
        self.tell(connection, reason)

    def _call_teardown(self, connection: PooledConnection, client: Any) -> None:
        assert self.options.teardown is not None
        try:
            call_hook("teardown", self.seconds, self.options.teardown, client)
        except (Exception, Timeout) as exc:
            _log.debug("the teardown of %s failed: %r", connection, exc)

    def has_come_late(self, connection: PooledConnection, client: Any) -> None:
        if self.options.teardown is not None:
            # Not in the setup's greenlet, whose kill may be yet to come.
            self.tasks.spawn(self._call_teardown, connection, client)

    # Forks

    def is_lost(self, thing: object) -> bool:
        return super().is_lost(thing) or any(thing is lost for lost in self._lost_clients)

    def _after_fork(self) -> None:
        for connection in self._tearing_down:
            connection.abandon()
        self._tearing_down.clear()
        self._lost_clients += [
            connection.client
            for connection in self.by_socket.values()
            if connection.state != "idle" and connection.client is not connection.socket
        ]
        super()._after_fork()
