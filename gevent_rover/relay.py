"""``Relay``: what gives unmodified clients on this machine the connections of a pool."""

from __future__ import annotations

import logging
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Final

from gevent import socket as gevent_socket

from gevent_rover.checks import check_keepalive, check_timeout, checked
from gevent_rover.errors import PoolError
from gevent_rover.net.pump import Pump
from gevent_rover.net.pumps import Pumps
from gevent_rover.net.sockets import end_whole, keep_alive, no_delay
from gevent_rover.pooling.pool import SlotPool
from gevent_rover.pooling.stats import CloseReason
from gevent_rover.serving.base import ConnectionServer
from gevent_rover.signals import closed

#: Seconds for which the log doesn't repeat a warning about another client.
QUIET: Final = 10.0

_log: Final = logging.getLogger("gevent_rover.relay")
_log.addHandler(logging.NullHandler())


class Relay(ConnectionServer):
    """A server that gives each client the connection that a lease of a pool would get.

    The client needs to know nothing of slots: it connects here instead of to a server.
    Bytes pass both ways as they come, as with a :class:`Front`. When the connection ends,
    the pool's is discarded, since nobody knows what was said on it; the pool gets another.

    A client that gets no connection within :attr:`timeout` is closed: TCP has no better
    word for it. That is counted (:attr:`turned_away`), and a WARNING in the log of
    ``gevent_rover.relay``, once in 10 seconds. The pool's ``max_slots`` must exceed the
    number of clients that are connected at a time, or the next one waits for another to
    leave; the log says so.

    Servers that speak first (MySQL, SMTP) can't be relayed: a connection on which bytes
    arrived that nobody asked for isn't kept. The log says so.

    A server that resets a connection, or ends it without an answer to what the client said,
    has failed (see :meth:`SlotPool.discard`). How slow a server is, is told by its answers:
    from what a client says to the first byte that comes back. How long the client stays
    says nothing.

    :meth:`stop` closes the clients at once that wait for a connection, and those that have
    one over which nothing has passed yet; the others may go on for ``timeout`` seconds.

    :param listener: as for :class:`SlotServer`; a socket for a path.
    :param pool: whose connections the clients get. It must lease sockets. It stays yours:
        close it after the relay is stopped.
    :param timeout: seconds for which a client waits for a connection; None: for ever.
    :param keepalive: seconds of silence after which the kernel asks a client whether it's still
        there; None: never. Of servers it's the pool's to ask.
    :param options: as for :class:`SlotServer`: TLS towards the clients, ``backlog``,
        ``spawn``.
    :raises ValueError: a number is out of range.
    """

    #: Seconds for which a client waits for a connection; None: for ever.
    timeout: float | None = checked(check_timeout, 5.0)

    def __init__(
        self,
        listener: Any,
        pool: SlotPool[gevent_socket.socket],
        *,
        timeout: float | None = 5.0,
        keepalive: float | None = 60.0,
        **options: Any,
    ) -> None:
        #: Whose connections the clients get; ``pool`` is that of the greenlets.
        self.slot_pool = pool
        self.timeout = timeout
        self.keepalive = check_keepalive(keepalive)
        #: How many clients had a connection so far.
        self.served = 0
        #: How many were closed for want of one.
        self.turned_away = 0
        self._said: dict[str, float] = {}  # what the log said, and when
        #: The pairs of connections that bytes pass between.
        self.pumps = Pumps()
        closed.connect(self._on_closed, sender=pool)
        super().__init__(listener, **options)
        self.on_stop.append(self.pumps.stop_unused)

    @property
    def clients(self) -> int:
        """How many are connected, those that wait included."""
        return len(self.connections)

    def handle(self, client: gevent_socket.socket, address: Any) -> None:
        """Serve one client: lease a connection, pass on what both say, discard it."""
        self.connections.prepare(client)
        self._warn_if_short()
        try:
            server = self.slot_pool.acquire(self.timeout)
        except PoolError as exc:
            self.turned_away += 1
            self._warn("no connection for %s: %s", address or "a client", exc)
            return
        self.connections.prepared(client)
        verdict = {"failed": False}
        try:
            if not isinstance(server, gevent_socket.socket):
                raise TypeError(f"a relay's pool must lease sockets, and it leased {server!r}")
            self.served += 1
            no_delay(client)
            if self.keepalive is not None:
                keep_alive(client, self.keepalive)
            tell = partial(self.slot_pool.answered, server)
            verdict = _verdict(self.pumps.run(client, server, tell), server)
        except OSError as exc:
            _log.debug("%s has gone: %s", address or "a client", exc)
        finally:
            if isinstance(server, gevent_socket.socket):
                end_whole(server)  # Whoever has a copy of it, as with the client.
            self.slot_pool.discard(server, **verdict)

    def _warn_if_short(self) -> None:
        clients, most = self.clients, self.slot_pool.max_slots
        if clients > most:
            self._warn(
                "%d clients, but max_slots is %d: it must exceed them, or they wait for each other",
                clients,
                most,
            )

    def _on_closed(self, sender: object, *, slot: int, client: object, reason: CloseReason) -> None:
        if reason == "unread":
            id = getattr(slot, "server_id", None)
            self._warn("server %r speaks before it's asked: a relay can't keep its connections", id)

    def _warn(self, message: str, *args: object) -> None:
        """Log a warning; the same one for other clients only at DEBUG for a while."""
        now = monotonic()
        repeated = now < self._said.get(message, -inf) + QUIET
        if not repeated:
            self._said[message] = now
        _log.log(logging.DEBUG if repeated else logging.WARNING, message, *args)

    def _after_fork(self) -> None:
        """Let go, in a forked child, of both sides' copies."""
        self.pumps.abandon()
        super()._after_fork()


def _verdict(pump: Pump, server: gevent_socket.socket) -> dict[str, bool]:
    """Return what its end says of the server, for :meth:`SlotPool.discard`."""
    asked, answered = pump.flows
    unanswered = pump.first_ended is server and asked.carried > 0 and not answered.carried
    failed = pump.lost_side is server or unanswered
    return {"failed": failed, "worked": not failed and answered.carried > 0}
