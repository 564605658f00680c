"""The TLS handshakes of a slot server, before a connection has a slot or a place in the pool."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from gevent import socket as gevent_socket
from gevent.pool import Group
from gevent.timeout import Timeout

from gevent_rover.net.forks import kill_copy
from gevent_rover.serving.connections import Connections

_log: Final = logging.getLogger("gevent_rover.server")


class Handshakes:
    """The handshakes that are under way, each in a greenlet of its own.

    :param connections: where each connection is known until it ends.
    :param done: called as ``done(socket, address)`` with the socket that speaks TLS.
    """

    def __init__(
        self, connections: Connections, done: Callable[[gevent_socket.socket, Any], object]
    ) -> None:
        self._connections = connections
        self._done = done
        self._group = Group()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._group)

    def begin(
        self, socket: gevent_socket.socket, address: Any, context: Any, seconds: float
    ) -> None:
        """Shake hands with a client, which has so many seconds for it."""
        greenlet = self._group.spawn(self._shake_hands, socket, address, context, seconds)
        # Nothing if the handshake took the descriptor over.
        greenlet.rawlink(lambda greenlet: self._connections.end(socket))

    def stop(self) -> None:
        """End all of them soon. Doesn't switch."""
        self._group.kill(block=False)

    def abandon(self) -> None:
        """Let go of the parent's greenlets, in a forked child."""
        greenlets, self._group = list(self._group.greenlets), Group()
        for greenlet in greenlets:
            kill_copy(greenlet)

    def _shake_hands(
        self, socket: gevent_socket.socket, address: Any, context: Any, seconds: float
    ) -> None:
        # Imported late: most processes never need it.
        from gevent_rover.net.tls import wrap

        timeout = Timeout.start_new(seconds)
        secure = None
        try:
            secure = wrap(socket, context, server_side=True)
            self._connections.replace(socket, secure)
            secure.do_handshake()
        except (OSError, Timeout) as exc:
            if secure is not None:
                self._connections.end(secure)
            if isinstance(exc, Timeout) and exc is not timeout:
                raise
            _log.debug("no TLS with %s: %s", address, exc)
            return  # A client that can't or won't is not our error.
        except BaseException:
            if secure is not None:
                self._connections.end(secure)
            raise
        finally:
            timeout.close()
        self._done(secure, address)
