"""One connection of a pool: whether it still works, and how it closes."""

from __future__ import annotations

from math import inf
from random import uniform
from select import POLLIN as _POLLIN
from time import monotonic
from typing import Any, Final

from gevent import Greenlet, get_hub
from gevent import socket as gevent_socket
from gevent.monkey import get_original

from gevent_rover.models import Slot
from gevent_rover.net.sockets import (
    READ,
    UNASKED,
    close_now,
    close_whole,
    is_closed,
    what_arrived,
)
from gevent_rover.policy.entry import Entry
from gevent_rover.policy.server_health import ServerHealth
from gevent_rover.pooling.stats import CloseReason

# The real one, in patched processes, too: it's asked with a timeout of 0 only.
_poll: Final = get_original("select", "poll")

_CLOSED_BY_USER: Final = "its user closed it"

#: The part of ``max_lifetime`` that each connection lives for at least.
_LEAST_LIFETIME: Final = 0.9


class PooledConnection(Entry):
    """A connection of a pool, with what is needed to watch it.

    :param server: what is known of its server.
    :param max_lifetime: seconds after which it's renewed; None: never.
    """

    __slots__ = (
        "arrived",
        "client",
        "entry",
        "expires",
        "idle_since",
        "listed",
        "plain",
        "poll",
        "reason",
        "socket",
        "task",
        "timeout",
        "watched",
        "watcher",
    )

    def __init__(
        self,
        slot: int,
        socket: gevent_socket.socket,
        server: ServerHealth,
        max_lifetime: float | None,
    ) -> None:
        super().__init__(slot, server)
        self.socket = socket
        #: What its users get; None until it's set up.
        self.client: Any = socket
        #: The socket's, as its setup left it.
        self.timeout: float | None = None
        #: The greenlet that sets it up; None: that's over.
        self.task: Greenlet[..., Any] | None = None
        #: Why it is to be closed, once it was given up.
        self.reason: CloseReason = "closed"
        #: The registry's own entry of its server; None: nobody knows.
        self.entry = slot.server if isinstance(slot, Slot) else None
        self.plain = type(socket) is gevent_socket.socket
        self.arrived = monotonic()
        # By chance, so that connections that were made together aren't renewed together.
        self.expires = self.arrived + (max_lifetime or inf) * uniform(_LEAST_LIFETIME, 1)
        self.idle_since = self.arrived
        self.watched = False  # by the hub
        self.listed = False  # to be watched once it has been idle for a while
        descriptor = socket.fileno()
        self.watcher = get_hub().loop.io(descriptor, READ)
        poll = _poll()
        poll.register(descriptor, _POLLIN)
        self.poll = poll.poll

    def __str__(self) -> str:
        of = "" if self.server_id is None else f" of {self.server_id!r}"
        return f"slot {int(self.slot)}{of}"

    def disturbance(self) -> str | None:
        """Return what keeps the connection from being leased; None: it's open and silent.

        A poll object of its own for each connection costs a third of a
        ``recv`` with MSG_PEEK, which raises in the case that matters.
        """
        if is_closed(self.socket):
            return _CLOSED_BY_USER
        if self.plain:
            return what_arrived(self.socket) if self.poll(0) else None
        # TLS: not all that can be read is data. Imported late, as in dial.
        from gevent_rover.net.tls import what_arrived_in

        return what_arrived_in(self.socket)

    def stop_watching(self) -> None:
        """Have the hub tell nothing more of it."""
        self.watched = False
        self.watcher.stop()

    def close(self) -> None:
        """Close the connection, even if a ``makefile()`` of its user is still open."""
        self.watcher.close()
        close_whole(self.socket)

    def abandon(self) -> None:
        """Close a forked child's copy of the connection: by ``close()`` alone, without the hub."""
        self.state = "closed"
        self.watcher.close()
        close_now(self.socket)


def reason_of(disturbance: str) -> CloseReason:
    """Return what kind of disturbance it is."""
    if disturbance == UNASKED:
        return "unread"
    return "discarded" if disturbance == _CLOSED_BY_USER else "ended"
