"""One connection of a pool: whether it still works, and how it closes."""

from __future__ import annotations

from select import POLLIN as _POLLIN
from time import monotonic
from typing import Final

from gevent import get_hub
from gevent import socket as gevent_socket
from gevent.monkey import get_original

from gevent_rover.ranking import Ranked
from gevent_rover.sockets import close_now, close_whole

# The real one, in patched processes, too: it's asked with a timeout of 0 only.
_poll: Final = get_original("select", "poll")


class Pooled(Ranked):
    """A connection of a pool, with what is needed to watch it."""

    __slots__ = ("arrived", "leases", "plain", "poll", "socket", "watcher")

    def __init__(self, slot: int, socket: gevent_socket.socket) -> None:
        super().__init__(slot)
        self.socket = socket
        self.plain = type(socket) is gevent_socket.socket
        self.leases = 0  # how often it was leased: tells one lease from the next
        self.arrived = monotonic()
        descriptor = socket.fileno()
        self.watcher = get_hub().loop.io(descriptor, 1)
        poll = _poll()
        poll.register(descriptor, _POLLIN)
        self.poll = poll.poll

    def is_silent(self) -> bool:
        """Tell whether the connection is open and nothing can be read from it.

        A poll object of its own for each connection costs a third of a
        ``recv`` with MSG_PEEK, which raises in the case that matters.
        """
        if self.plain:
            return not (self.poll(0) or self.socket.closed)  # type: ignore[attr-defined]
        if self.socket.closed:  # type: ignore[attr-defined]
            return False
        # TLS: not all that can be read is data. Imported late, as in dial.
        from gevent_rover.tls import is_silent

        return is_silent(self.socket)

    def close(self) -> None:
        """Close the connection, even if a ``makefile()`` of its user is still open."""
        self.watcher.close()
        close_whole(self.socket)

    def abandon(self) -> None:
        """Close a forked child's copy of the connection: by ``close()`` alone, without the hub."""
        self.state = "closed"
        self.watcher.close()
        close_now(self.socket)
