"""The sockets and watchers of one attempt, which can be given up from outside at any time."""

from __future__ import annotations

import _socket
import errno
import os
from typing import Any

from gevent import GreenletExit
from gevent import socket as gevent_socket

from gevent_rover.net.addresses import Address
from gevent_rover.net.sockets import close_now, no_delay, raw_of


class Resources:
    """What one attempt has open: the base class of a dial, since a part of it would cost 0.1 kB.

    All of it is in lists, so that it can be let go of without a switch and without
    the hub.
    """

    __slots__ = ("abandoned", "sockets", "watchers")

    def __init__(self) -> None:
        #: Whether somebody gave the attempt up: nothing more is opened.
        self.abandoned = False
        self.sockets: list[Any] = []
        self.watchers: list[Any] = []

    def begin(self, address: Address) -> gevent_socket.socket:
        """Begin to connect to an address, without waiting for it.

        :raises OSError: it failed at once; the socket is among ours all the same.
        :raises GreenletExit: the attempt was given up, while a name was looked up.
        """
        if self.abandoned:
            raise GreenletExit
        family, target = address
        sock = gevent_socket.socket(family, _socket.SOCK_STREAM)
        self.sockets.append(sock)
        no_delay(sock)
        number = raw_of(sock).connect_ex(target)
        if number and number != errno.EINPROGRESS:
            raise OSError(number, os.strerror(number))
        return sock

    def watch(self, hub: Any, sock: gevent_socket.socket, events: int) -> Any:
        """Return a new watcher of a socket, stopped."""
        watcher = hub.loop.io(sock.fileno(), events)
        self.watchers.append(watcher)
        return watcher

    def stop(self, watcher: Any) -> None:
        """Stop a watcher and close it."""
        self.watchers.remove(watcher)
        watcher.close()

    def close(self, sock: Any) -> None:
        """Close a socket."""
        self.sockets.remove(sock)
        close_now(sock)

    def outlive_loop(self) -> None:
        """Close the sockets after their event loop was destroyed, and the watchers with it."""
        self.watchers.clear()
        while self.sockets:
            raw_of(self.sockets.pop()).close()

    def release(self) -> None:
        """Close all of it. Doesn't switch."""
        while self.watchers:
            self.watchers.pop().close()
        while self.sockets:
            close_now(self.sockets.pop())
