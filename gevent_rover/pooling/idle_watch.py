"""Watching idle connections, but for those that are leased again in no time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final

from gevent import get_hub
from gevent import socket as gevent_socket

from gevent_rover.net.sockets import raw_of
from gevent_rover.net.threads import in_thread_of
from gevent_rover.pooling.connection import PooledConnection

#: Seconds for which a connection is idle before the hub watches it. Under load it's
#: leased again before that, and looked at then: a watcher would be started in vain.
WATCH_AFTER: Final = 0.01


class IdleWatch:
    """Has the hub tell when anything arrives on an idle connection.

    :param on_readable: a method that the hub calls with the connection. It keeps its
        object alive no longer than others do.
    """

    def __init__(self, on_readable: Callable[[PooledConnection], None]) -> None:
        self._on_readable = _weakly(on_readable)
        self._listed: list[PooledConnection] = []
        self._timer: Any = None
        #: The one that watches, with the first connection.
        self.hub: Any = None

    def begin(self, connection: PooledConnection) -> None:
        """Watch a connection from now on."""
        if self.hub is None:
            self.hub = get_hub()
        connection.watched = True
        connection.watcher.start(self._on_readable, connection)

    def begin_later(self, connection: PooledConnection) -> None:
        """Watch one that isn't listed yet once it has been idle for :data:`WATCH_AFTER`."""
        connection.listed = True
        self._listed.append(connection)
        if len(self._listed) == 1:
            self._start()

    def close(self) -> None:
        """Forget all of them, as a forked child does."""
        self._listed.clear()
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _start(self) -> None:
        if self._timer is None:
            # One that repeats: libev starts any other anew from where it ended.
            self._timer = get_hub().loop.timer(WATCH_AFTER, WATCH_AFTER)
        self._timer.start(self._look, update=True)

    def _look(self) -> None:
        """Begin to watch those that were idle for long enough."""
        if self._timer is None:
            return  # Closed by what gevent ran right before this: a handler of a signal.
        long_ago = monotonic() - WATCH_AFTER
        listed = []
        for connection in self._listed:
            idle = connection.state == "idle"
            if (connection.idle_since if idle else connection.leased_at) > long_ago:
                listed.append(connection)  # It comes and goes.
                continue
            connection.listed = False
            if idle and not connection.watched:
                self.begin(connection)
        self._listed = listed
        if not listed:
            self._timer.stop()


def _weakly(method: Any) -> Callable[[PooledConnection], None]:
    # A WeakMethod has a callback, which fails in Python 3.10 as the interpreter ends.
    function, reference = method.__func__, weakref.ref(method.__self__)

    def call(connection: PooledConnection) -> None:
        owner = reference()
        if owner is not None:
            function(owner, connection)

    return call


def close_left_behind(
    by_socket: dict[gevent_socket.socket, PooledConnection], watch: IdleWatch
) -> None:
    """Close what a pool that was collected leaves behind; leased ones are their users'.

    The collector runs in any thread, but a loop can't stand that another one than its own
    stops a watcher.
    """
    if by_socket:
        in_thread_of(watch.hub, partial(_close_all, by_socket, watch))


def _close_all(by_socket: dict[gevent_socket.socket, PooledConnection], watch: IdleWatch) -> None:
    loop_lives = watch.hub.loop is not None  # Else all watchers are gone with it.
    if loop_lives:
        watch.close()
    for connection in by_socket.values():
        # The rover's record of the server outlives the pool.
        idle = connection.state == "idle"
        connection.server.connections -= 1
        connection.server.leased -= not idle
        if loop_lives and idle:
            connection.close()
        elif loop_lives:
            connection.watcher.close()
        elif idle:
            raw_of(connection.socket).close()
    by_socket.clear()
