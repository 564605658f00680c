"""``Front``: a slot server in front of one that knows nothing of slots."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from gevent import socket as gevent_socket

from gevent_rover.checks import check_keepalive, check_seconds, checked
from gevent_rover.models import Server
from gevent_rover.net.connecting import connect
from gevent_rover.net.pumps import Pumps
from gevent_rover.net.sockets import close_now, end_whole, keep_alive
from gevent_rover.registry import check_server
from gevent_rover.serving.proxy_header import proxy_header
from gevent_rover.serving.server import SlotServer

_log: Final = logging.getLogger("gevent_rover.server")


class Front(SlotServer):
    """A slot server that passes each connection on to an unmodified server, its *backend*.

    It reaches the backend before it takes a slot and says it. Where the backend refuses, or
    doesn't accept within :attr:`connect_timeout`, the client gets no slot line: the
    connection ends, at once or then, and to a rover that is ``unreachable``. A backend that
    accepts but is silent (one that is stopped by SIGSTOP, say) looks like one that works.

    Bytes pass both ways as they come. The end of one side's half is passed on, and so is a
    reset; with TLS the end is a ``close_notify``, which waits while the client goes on
    speaking without a pause. When both halves have ended, or one
    side was reset, the slot is given back. A side that doesn't read holds the other one
    back: no more than 64 KiB wait here in each direction. A peer that vanishes without a
    word is noticed by TCP keepalive.

    :meth:`stop` ends those connections at once over which nothing has passed yet, and lets
    the others go on for ``timeout`` seconds (default: :attr:`stop_timeout`).

    :param listener: as for :class:`SlotServer`; a socket for a path.
    :param backend: where the server is: ``{"host": …, "port": …}`` or ``{"path": …}``, as in
        a registry. A name is looked up for each connection.
    :param connect_timeout: seconds to reach the backend, a name's lookup included.
    :param proxy_protocol: whether to tell the backend the client's address first, by the
        PROXY protocol, version 2. Of a client at a path there is no address to tell.
    :param keepalive: seconds of silence after which the kernel asks either side whether it's
        still there; None: never.
    :param options: as for :class:`SlotServer`: ``slots``, TLS towards the clients, ``backlog``,
        ``spawn``.
    :raises InvalidServerError: ``backend`` isn't an entry.
    :raises ValueError: a number is out of range.
    """

    #: Seconds to reach the backend.
    connect_timeout: float = checked(check_seconds, 5.0)

    def __init__(
        self,
        listener: Any,
        backend: Server,
        *,
        connect_timeout: float = 5.0,
        proxy_protocol: bool = False,
        keepalive: float | None = 60.0,
        **options: Any,
    ) -> None:
        check_server(backend, "backend")
        self.backend = backend
        self.connect_timeout = connect_timeout
        self.proxy_protocol = proxy_protocol
        self.keepalive = check_keepalive(keepalive)
        #: How many connections had a slot so far, and how many none, for want of a backend.
        self.served = 0
        self.unreachable = 0
        self._reachable = True
        self._backends: set[Any] = set()  # all that are reached
        #: The pairs of connections that bytes pass between.
        self.pumps = Pumps()
        super().__init__(listener, self._pass_on, prepare=self._reach, **options)
        self.on_stop.append(self.pumps.stop_unused)

    @contextmanager
    def _reach(self, client: gevent_socket.socket, address: Any) -> Iterator[gevent_socket.socket]:
        try:
            backend = connect(self.backend, self.connect_timeout)
        except OSError as exc:
            self.unreachable += 1
            if self._reachable:
                self._reachable = False
                _log.warning("no slots, since the backend can't be reached: %s", exc)
            raise
        self._backends.add(backend)
        try:
            if not self._reachable:
                self._reachable = True
                _log.info("the backend is reached again")
            if self.proxy_protocol:
                ends = client.getpeername(), client.getsockname()
                backend.sendall(proxy_header(client.family, *ends))
            yield backend
        finally:
            end_whole(backend)
            self._backends.discard(backend)

    def _pass_on(
        self,
        slot: int,
        client: gevent_socket.socket,
        address: Any,
        backend: gevent_socket.socket,
    ) -> None:
        self.served += 1
        if self.keepalive is not None:
            keep_alive(client, self.keepalive)
            keep_alive(backend, self.keepalive)
        self.pumps.run(client, backend)

    def _after_fork(self) -> None:
        """Let go, in a forked child, of both sides' copies."""
        self.pumps.abandon()
        for backend in self._backends:
            close_now(backend)
        self._backends.clear()
        super()._after_fork()
