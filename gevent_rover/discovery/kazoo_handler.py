"""What kazoo waits, connects, spawns and logs with: gevent's means, and a hand on all of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import Empty
from typing import Any, Final

import gevent
from gevent import Greenlet, GreenletExit
from gevent import socket as gevent_socket
from gevent.event import AsyncResult, Event
from gevent.lock import RLock
from gevent.queue import Queue
from gevent.selectors import GeventSelector

from gevent_rover.net.forks import check_fork, kill_copy
from gevent_rover.net.sockets import READ, WRITE, close_now, is_closed

_log: Final = logging.getLogger("gevent_rover.discovery")


class Demoted(logging.LoggerAdapter):  # type: ignore[type-arg]
    """Logs what kazoo says, at DEBUG: it warns with each attempt while nobody answers."""

    def log(self, level: int, msg: object, *args: Any, **keywords: Any) -> None:
        super().log(min(level, logging.DEBUG), msg, *args, **keywords)


class Handler:
    """What kazoo waits, connects and spawns with: ``kazoo.interfaces.IHandler``, on gevent.

    kazoo's own for gevent has a timeout that is no ``Exception``, a greenlet for callbacks,
    and a function that runs at the exit of forked children, too. This one knows all that
    was opened and spawned, so that it can let go of it, and looks for a fork around each
    wait: a copy of kazoo's greenlet, if the child runs it, neither reads nor writes.
    """

    name = "gevent_rover"
    queue_impl = Queue
    queue_empty = Empty
    sleep_func = staticmethod(gevent.sleep)
    timeout_exception = TimeoutError
    event_object = staticmethod(Event)
    lock_object = staticmethod(RLock)
    rlock_object = staticmethod(RLock)
    async_result: Any = staticmethod(AsyncResult)
    running = True

    def __init__(self) -> None:
        self.abandoned = False
        self._sockets: list[Any] = []
        self._greenlets: list[Any] = []

    def start(self) -> None:
        """Do nothing: there's no greenlet for callbacks."""

    def stop(self) -> None:
        """Do nothing, too."""

    def dispatch_callback(self, callback: Any) -> None:
        """Call a watcher at once: ours only take note of something."""
        if not self.abandoned:
            callback.func(*callback.args)

    def spawn(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        greenlet = Greenlet.spawn(_run_logged, function, *args, **keywords)
        self._greenlets = [one for one in self._greenlets if not one.dead] + [greenlet]
        return greenlet

    def socket(self, *args: Any, **options: Any) -> Any:
        sock = gevent_socket.socket()
        self._note(sock)
        return sock

    def create_socket_pair(self) -> tuple[Any, Any]:
        first, second = gevent_socket.socketpair()
        self._note(first, second)
        return first, second

    def create_connection(
        self, address: tuple[str, int], timeout: float | None = None, **options: Any
    ) -> Any:
        self._look_for_fork()
        family = gevent_socket.AF_INET6 if ":" in address[0] else gevent_socket.AF_INET
        sock = gevent_socket.socket(family, gevent_socket.SOCK_STREAM)
        self._note(sock)
        try:
            sock.settimeout(timeout)
            sock.setsockopt(gevent_socket.IPPROTO_TCP, gevent_socket.TCP_NODELAY, 1)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        self._look_for_fork()
        return sock

    def select(
        self, readers: list[Any], writers: list[Any], others: Any, timeout: float | None = None
    ) -> tuple[list[Any], list[Any], list[Any]]:
        self._look_for_fork()
        with GeventSelector() as selector:
            for sock in readers:
                selector.register(sock, READ)
            for sock in writers:
                selector.register(sock, WRITE)
            ready = [key.fileobj for key, _ in selector.select(timeout)]
        self._look_for_fork()
        return [s for s in readers if s in ready], [s for s in writers if s in ready], []

    def _look_for_fork(self) -> None:
        check_fork()
        if self.abandoned:
            raise GreenletExit

    def _note(self, *socks: Any) -> None:
        self._sockets = [sock for sock in self._sockets if not is_closed(sock)] + [*socks]

    def end(self) -> None:
        """Kill all greenlets, and close all sockets."""
        greenlets, self._greenlets = self._greenlets, []
        gevent.killall(greenlets)
        socks, self._sockets = self._sockets, []
        for sock in socks:
            sock.close()

    def abandon(self) -> None:
        """Let go of all, in a forked child."""
        self.abandoned = True
        socks, self._sockets = self._sockets, []
        for sock in socks:
            if not is_closed(sock):
                close_now(sock)
        greenlets, self._greenlets = self._greenlets, []
        for greenlet in greenlets:
            kill_copy(greenlet)


def _run_logged(function: Callable[..., Any], *args: Any, **keywords: Any) -> None:
    try:
        function(*args, **keywords)
    except Exception as exc:
        # What answers isn't ZooKeeper, say: the session waits in vain from here on.
        _log.warning("kazoo has failed: %r", exc)
