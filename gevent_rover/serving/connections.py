"""The connections of a slot server that are open, and how each ends once."""

from __future__ import annotations

from typing import Any

from gevent import Greenlet, getcurrent

from gevent_rover.net.forks import check_fork, kill_copy, same_process
from gevent_rover.net.sockets import close_now, end_whole
from gevent_rover.policy.slots import Slots


class _Open:
    """A connection that is open: its slot, where that is from, and who serves it."""

    slot = -1
    slots: Slots | None = None  # None: it has no slot yet
    greenlet: Any = None
    preparing = False  # what it needs before it's served


class Connections:
    """The open connections of one server, by socket."""

    def __init__(self) -> None:
        self._by_socket: dict[Any, _Open] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by_socket)

    def add(self, socket: Any) -> None:
        """Take in one that was accepted."""
        self._by_socket[socket] = _Open()

    def replace(self, socket: Any, secure: Any) -> None:
        """Know a connection by the TLS socket that took its descriptor over."""
        self._by_socket[secure] = self._by_socket.pop(socket)

    def serve(self, socket: Any, greenlet: Any) -> None:
        """Say which greenlet serves it; nothing if it has ended already."""
        connection = self._by_socket.get(socket)
        if connection is not None:
            connection.greenlet = greenlet

    def are_served_by(self, greenlet: Any) -> bool:
        """Tell whether a greenlet serves one of them."""
        return any(open.greenlet is greenlet for open in self._by_socket.values())

    def prepare(self, socket: Any) -> None:
        """Say that it isn't served yet: its greenlet gets what it needs for that."""
        connection = self._by_socket.get(socket)
        if connection is not None:
            connection.preparing = True

    def prepared(self, socket: Any) -> None:
        """Say that it's served from now on."""
        connection = self._by_socket.get(socket)
        if connection is not None:
            connection.preparing = False

    def end_preparing(self) -> None:
        """Kill those that aren't served yet, but for the caller itself. Doesn't switch."""
        for connection in list(self._by_socket.values()):
            greenlet = connection.greenlet if connection.preparing else None
            if isinstance(greenlet, Greenlet) and greenlet is not getcurrent():
                greenlet.kill(block=False)

    def give_slot(self, socket: Any, slot: int, slots: Slots) -> None:
        """Say which slot it has, and where to give that back, once, when it has ended."""
        connection = self._by_socket.get(socket)
        if connection is None:  # It came in by hand.
            connection = self._by_socket[socket] = _Open()
        connection.slot = slot
        connection.slots = slots

    def end(self, socket: Any) -> None:
        """End a connection and give its slot back, once, whoever comes first."""
        if not same_process[0]:
            check_fork()
        connection = self._by_socket.pop(socket, None)
        if connection is None:
            return
        # Closed first: a client that sees its connection end may come back
        # at once, but must not find two connections with the same slot.
        try:
            end_whole(socket)
        finally:
            if connection.slots is not None:
                connection.slots.free(connection.slot)

    def abandon(self) -> None:
        """Close, in a forked child, its copies of all; give back its copies of the slots."""
        connections = list(self._by_socket.items())
        self._by_socket.clear()
        for socket, connection in connections:
            # Killed first: else it would find its socket closed, if the hub ever runs.
            kill_copy(connection.greenlet)
            close_now(socket)
            if connection.slots is not None:
                connection.slots.free(connection.slot)
