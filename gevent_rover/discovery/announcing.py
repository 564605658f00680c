"""``announce``: a server puts itself into ZooKeeper for as long as it accepts."""

from __future__ import annotations

import atexit
import json
import logging
import os
from collections.abc import Callable
from random import uniform
from typing import Any, Final, Protocol

from gevent import Greenlet, get_hub, getcurrent, sleep
from gevent.event import Event

from gevent_rover.checks import check_seconds
from gevent_rover.discovery.source import SourceError, warn_of
from gevent_rover.discovery.zookeeper_session import (
    SessionLost,
    ZooKeeperSession,
    check_hosts,
    check_path,
)
from gevent_rover.extras import extra
from gevent_rover.net.forks import Forkable, check_fork, kill_copy
from gevent_rover.registry import check_server

# Seconds between two looks whether a server has been started, and whether it's stopped
# without a word (``close()``, say).
_LOOK_FOR_START: Final = 0.05
_LOOK_FOR_STOP: Final = 0.5

# Seconds for which a session waits for the ensemble at first, and before another is made.
_PATIENCE: Final = 40.0
_RETRY_AFTER: Final = 1.0

# Addresses that stand for all of a machine's, and mean another machine to everybody else.
_WILDCARDS: Final = frozenset({"", "0.0.0.0", "::"})

_log: Final = logging.getLogger("gevent_rover.discovery")


class Announced(Protocol):
    """What is announced: a ``SlotServer``."""

    address: Any
    on_stop: list[Callable[[], object]]

    @property
    def started(self) -> bool:
        """Whether it accepts."""


def announce(
    server: Announced,
    hosts: str,
    path: str,
    *,
    host: str | None = None,
    port: int | None = None,
    server_hostname: str | None = None,
    session_timeout: float = 10.0,
) -> Announcement:
    """Announce a server in ZooKeeper from now on; the arguments are those of :class:`Announcement`.

    :returns: the announcement; keep it, and :meth:`~Announcement.stop` it.
    """
    announcement = Announcement(
        server,
        hosts,
        path,
        host=host,
        port=port,
        server_hostname=server_hostname,
        session_timeout=session_timeout,
    )
    announcement.start()
    return announcement


class Announcement(Forkable):
    """Has a node in ZooKeeper for as long as a server accepts.

    The node is ``member_`` and a number, below ``path``, which is made if it isn't there;
    in it is JSON, ``{"host": …, "port": …}``. It's ephemeral: it goes with the session
    when this process dies. It is made as soon as the server is started (0.05 s at most),
    and again in a new session when one is lost. It's removed at once when the server
    stops, and when the announcement does, at the process's exit at the latest (not
    ``os._exit``, say: then the session must time out). A server that is started again is
    announced again.

    While nobody answers it tries again and again; that's one WARNING in the log of
    ``gevent_rover.discovery``. It belongs to a thread (hub), as the server does. It doesn't
    cross a fork: in the child it is stopped, and the parent's node stays.

    It needs ``gevent_rover[zookeeper]``, kazoo.

    :param server: a ``SlotServer``, started or not.
    :param hosts: the ensemble, as for :class:`ZooKeeperSource`.
    :param path: the node below which the server's own is made.
    :param host: where others reach the server (default: where it listens).
    :param port: likewise; needs ``host``.
    :param server_hostname: the name in the server's certificate, if it speaks TLS and its
        host isn't that name.
    :param session_timeout: seconds after which the node of a process that died is gone; the
        ensemble may negotiate (with its ``tickTime``). A shorter one loses more sessions
        to pauses.
    :raises ImportError: kazoo isn't installed.
    :raises ValueError: an argument that can't be; or no ``host`` for a server that listens on
        all addresses.
    """

    def __init__(
        self,
        server: Announced,
        hosts: str,
        path: str,
        *,
        host: str | None = None,
        port: int | None = None,
        server_hostname: str | None = None,
        session_timeout: float = 10.0,
    ) -> None:
        extra("kazoo.client", "zookeeper", "announce")
        check_hosts(hosts)
        self.server = server
        self.hosts = hosts
        self.path = check_path("path", path)
        self.session_timeout = check_seconds("session_timeout", session_timeout)
        self._host, self._port, self._server_hostname = host, port, server_hostname
        #: The path of the server's node; None while there's none, as far as that's known.
        self.node: str | None = None
        #: Why it can't announce; None: it can.
        self.failure: Exception | None = None
        self._greenlet: Greenlet[..., Any] | None = None
        self._session: ZooKeeperSession | None = None
        # The latest node, and its session.
        self._left: tuple[str, int | None] | None = None
        self._wake = Event()
        self._entry(known=False)
        super().__init__()

    def __repr__(self) -> str:
        state = "started" if self.started else "stopped"
        if self.node is not None:
            state += f", announced as {self.node}"
        elif self.failure is not None:
            state += f", failing: {self.failure}"
        return f"<Announcement of {self.server!r} at {self.hosts}{self.path}: {state}>"

    def __enter__(self) -> Announcement:
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    @property
    def started(self) -> bool:
        """Whether it announces its server; in a forked child it doesn't, until :meth:`start`."""
        check_fork()
        return self._greenlet is not None

    def start(self) -> None:
        """Announce the server from now on. Idempotent; doesn't switch."""
        if not self.started:
            self._wake = Event()
            self.server.on_stop.append(self._server_stops)
            atexit.register(self._at_exit)
            self._greenlet = Greenlet.spawn(self._run)

    def stop(self) -> None:
        """Remove the node. Idempotent.

        It waits until it's gone, but only a second for an ensemble that doesn't answer.
        """
        if not self.started:
            return
        greenlet = self._forget_greenlet()
        if greenlet is not getcurrent():
            greenlet.kill()

    def _at_exit(self) -> None:
        # One of another thread's is out of reach.
        if self.started and self._greenlet.loop is get_hub().loop:  # type: ignore[union-attr]
            self.stop()

    def _forget_greenlet(self) -> Any:
        greenlet, self._greenlet = self._greenlet, None
        atexit.unregister(self._at_exit)
        if self._server_stops in self.server.on_stop:
            self.server.on_stop.remove(self._server_stops)
        return greenlet

    def _server_stops(self) -> None:
        """Have the node removed. The server calls it."""
        self._wake.set()

    def _entry(self, *, known: bool = True) -> Any:
        """Return what to announce.

        :param known: whether the server is started, so its port is known.
        :raises ValueError: nothing that others could connect to.
        """
        entry: dict[str, Any]
        address = self.server.address
        if self._host is not None:
            if self._port is None and not isinstance(address, tuple):
                raise ValueError(f"port is needed: the server listens on {address!r}")
            entry = {"host": self._host, "port": address[1] if self._port is None else self._port}
        elif self._port is not None:
            raise ValueError("port needs host, too")
        elif isinstance(address, tuple):
            host, bound = address[:2]
            if host in _WILDCARDS:
                raise ValueError(
                    f"host is needed: the server listens on all addresses, {host!r}, and others"
                    " can't connect to that"
                )
            entry = {"host": host, "port": bound}
        else:
            entry = {"path": os.fsdecode(address)}
        if self._server_hostname is not None:
            entry["server_hostname"] = self._server_hostname
        if not known and entry.get("port") == 0 and self._port is None:
            check_server({**entry, "port": 1}, "announced")
        else:
            check_server(entry, "announced")
        return entry

    def _run(self) -> None:
        while True:
            while not self.server.started:
                sleep(_LOOK_FOR_START)
            session = ZooKeeperSession(self.hosts, self.session_timeout, self._wake.set)
            self._session = session
            try:
                session.open(_PATIENCE if self.failure else self.session_timeout)
                self._keep(session)
            except (SourceError, ValueError) as exc:
                before, self.failure = self.failure, exc
                warn_of(exc, before, "can't announce %r at %s", self.server, self.path)
            finally:
                self.node = None
                session.close()
            if self.failure is not None:
                # By chance, so that servers whose directory fails don't come back in step.
                sleep(_RETRY_AFTER * uniform(0.5, 1))

    def _keep(self, session: ZooKeeperSession) -> None:
        """Have the node there until the server stops."""
        made_in: int | None = None
        while True:
            session.wait_connected()
            self._wake.clear()
            if not self.server.started:
                _log.info("%r has stopped: %s goes", self.server, self.node)
                return
            if session.id != made_in:
                made_in = session.id
                try:
                    self._make(session)
                except SessionLost:
                    made_in = None
                    continue
            self._wake.wait(_LOOK_FOR_STOP)

    def _make(self, session: ZooKeeperSession) -> None:
        entry = self._entry()
        id = session.id
        prefix = f"{self.path.rstrip('/')}/member_"
        self.node = session.make(prefix, json.dumps(entry).encode())
        left, self._left = self._left, (self.node, id)
        self.failure = None
        _log.info("announced %r as %s", entry, self.node)
        if left is not None and left[1] != id:
            # Its session is over, but perhaps the ensemble doesn't know yet.
            session.remove_left(*left)

    def _after_fork(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.abandon()
        if self._greenlet is not None:
            kill_copy(self._forget_greenlet())
        self.node = None
