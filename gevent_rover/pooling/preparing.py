"""Setting new connections up before they are leased, in greenlets of the pool's own."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any, Final

from gevent import GreenletExit, Timeout, get_hub, getcurrent
from gevent import socket as gevent_socket

from gevent_rover.errors import PoolError
from gevent_rover.models import Slot
from gevent_rover.policy.choice import LeaseOutcome
from gevent_rover.policy.pacing import HANGS_AFTER
from gevent_rover.pooling.connection import PooledConnection
from gevent_rover.pooling.hooks import call_hook
from gevent_rover.pooling.options import Options
from gevent_rover.pooling.stats import CloseReason
from gevent_rover.pooling.stock import Stock

_log: Final = logging.getLogger("gevent_rover.pool")


class PreparingStock(Stock):
    """A stock whose connections are set up first.

    One that is being set up is kept, or the rover would go on looking for others. It's a
    candidate only, without a place, if the pool is full, or if it takes unusually long: a
    server whose setups fail or hang mustn't cost good connections.
    """

    def __init__(self, max_slots: int, min_slots: int, options: Options) -> None:
        super().__init__(max_slots, min_slots, options)
        # By the id() of the client, which needn't be hashable.
        self._by_client: dict[int, PooledConnection] = {}

    # What the stock asks

    def find(self, thing: object) -> PooledConnection | None:
        return self._by_client.get(id(thing)) or super().find(thing)

    def has(self, socket: gevent_socket.socket) -> bool:
        return super().has(socket) or any(each.socket is socket for each in self.candidates)

    def reason_to_refuse(self, slot: int, socket: gevent_socket.socket) -> str | None:
        reason = super().reason_to_refuse(slot, socket)
        if reason is None and isinstance(slot, Slot):
            id = slot.server_id
            others = [*self.candidates]
            if self.health.of(id).suspect:
                others += self.preparing
            if any(other.server_id == id for other in others):
                # Else attempts at it would go on and on.
                if self.supply is not None:
                    self.supply.hangs(id)
                reason = "another one of its server is being set up, and must be ready first"
        return reason

    def what_is_wrong(self, connection: PooledConnection) -> str | None:
        # What has arrived is for the setup to read.
        return super().what_is_wrong(connection) if self.options.setup is None else None

    def take_in(self, connection: PooledConnection) -> None:
        if self.options.setup is None:
            super().take_in(connection)
            return
        connection.client = None
        if self.wanted() > 0:
            self.by_socket[connection.socket] = connection
            self.ranking.add(connection)
            self.preparing[connection] = None
        else:
            self.ranking.add_candidate(connection)
            self.candidates[connection] = None
        connection.task = self.tasks.spawn(self._set_up, connection)

    def put_back(self, connection: PooledConnection, outcome: LeaseOutcome = "answered") -> None:
        super().put_back(connection, outcome)
        if connection.state != "closed" and self.options.setup is not None:
            connection.socket.settimeout(connection.timeout)

    take_back = put_back

    def let_go(self, connection: PooledConnection, reason: CloseReason) -> None:
        self.forget(connection)
        super().let_go(connection, reason)

    def forget(self, connection: PooledConnection) -> None:
        """Forget a connection that is to be closed; end its setup."""
        self.preparing.pop(connection, None)
        self.candidates.pop(connection, None)
        if self._by_client.get(id(connection.client)) is connection:
            del self._by_client[id(connection.client)]
        if connection.task is not None and connection.task is not getcurrent():
            connection.task.kill(block=False)

    # The greenlet of a setup

    def _set_up(self, connection: PooledConnection) -> None:
        assert self.options.setup is not None
        timer = get_hub().loop.timer(HANGS_AFTER)
        timer.start(self._hangs, connection, update=True)
        try:
            client = call_hook(
                "setup", self.seconds, self.options.setup, connection.socket, connection.slot
            )
        except BaseException as exc:
            connection.task = None
            self._has_failed(connection, exc)
            if not isinstance(exc, (Exception, GreenletExit, Timeout)):
                raise
        else:
            connection.task = None
            self._is_set_up(connection, connection.socket if client is None else client)
        finally:
            timer.close()

    def _hangs(self, connection: PooledConnection) -> None:
        """Look for others instead of a connection whose setup takes long; the hub calls it."""
        if connection.state == "preparing":
            del self.by_socket[connection.socket], self.preparing[connection]
            self.ranking.lay_aside(connection)
            self.candidates[connection] = None
        if connection.state == "candidate":
            if self.supply is not None and connection.server_id is not None:
                self.supply.hangs(connection.server_id)
            self.ask_for_more()

    def _has_failed(self, connection: PooledConnection, failure: BaseException) -> None:
        """Close a connection whose setup failed, and take note that its server is no good."""
        if connection.state == "closed":  # Given up, which killed the setup.
            return
        if not isinstance(failure, GreenletExit):
            why = f"its setup failed: {type(failure).__name__}: {failure}"
            self.refused = f"{connection}: {why}"
            # Once for each server, until a connection of it lasts.
            level = logging.DEBUG if connection.server.suspect else logging.WARNING
            _log.log(level, "closed %s: %s", connection, why, exc_info=failure)
            if self.supply is not None:
                self.supply.suspect(connection.server_id)
            connection.server.went_wrong("connection", why, monotonic())
        self.drop(connection, "setup")

    def _is_set_up(self, connection: PooledConnection, client: Any) -> None:
        """Keep a connection that is set up, if it still can be."""
        if connection.state == "closed":  # Given up, though the setup didn't mind the kill.
            self.has_come_late(connection, client)
            return
        if self.find(client) not in (None, connection):
            failure = PoolError(f"setup returned the client of another connection: {client!r}")
            self._has_failed(connection, failure)
            return
        connection.client = client
        connection.timeout = connection.socket.gettimeout()
        if client is not connection.socket:
            self._by_client[id(client)] = connection
        connection.arrived = connection.idle_since = monotonic()
        if not self.keep_if_fit(connection):
            self.refused = f"{connection}: closed after its setup: {connection.reason}"
            return
        if connection.state == "candidate":
            if not self.ranking.admits(connection.slot):
                self.drop(connection, "replaced")
                return
            del self.candidates[connection]
            super().take_in(connection)
        else:
            del self.preparing[connection]
            self.make_idle(connection)

    def has_come_late(self, connection: PooledConnection, client: Any) -> None:
        """Do what's left to do with the client of a connection that is closed already."""

    def _after_fork(self) -> None:
        for connection in self.candidates:
            connection.abandon()
        super()._after_fork()
        self.candidates.clear()
        self.preparing.clear()
        self._by_client.clear()
