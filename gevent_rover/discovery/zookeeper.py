"""``ZooKeeperSource``: servers that stand in ZooKeeper, a node each."""

from __future__ import annotations

import json
import logging
from time import monotonic
from typing import Any, Final

from gevent import sleep
from gevent.event import Event

from gevent_rover.checks import check_seconds
from gevent_rover.discovery.source import Apply, address_id
from gevent_rover.discovery.zookeeper_session import (
    SessionLost,
    ZooKeeperSession,
    check_hosts,
    check_path,
)
from gevent_rover.extras import extra
from gevent_rover.models import Server
from gevent_rover.registry import check_server

# Seconds between two looks at the children at least, and nodes that are asked for at a time.
_PACE: Final = 0.1
_AT_A_TIME: Final = 100

# Seconds for which a source that has failed already waits for a connection: longer than a
# feeder's longest back-off, so it hears at once when somebody answers again.
_PATIENCE: Final = 40.0

# Seconds that a server has to announce itself anew once its session is over: it looks for the
# ensemble every second or two.
_RETURN: Final = 5.0

_KEYS: Final = ("host", "port", "server_hostname", "path")

_log: Final = logging.getLogger("gevent_rover.discovery")

#: What a node stands for: an id and its entry; None: a server that isn't to be used.
_Member = tuple[str, Server] | None


class ZooKeeperSource:
    """Knows the servers that stand in ZooKeeper, each in a child of one node.

    A child has JSON: an entry of the registry, ``{"host": …, "port": …}`` (perhaps with
    ``server_hostname``; ``{"path": …}`` for a Unix domain socket; other keys are ignored),
    or a member of one of Finagle's serversets, of which those count whose status is
    ``ALIVE``. :func:`announce` makes such nodes. One that is neither is a WARNING in the
    log, once for each content, and the others count. The node need not exist yet.

    Ids are ``host:port``, or ``unix:PATH``. Only nodes that are new or have changed are
    read, within 0.1 s, and all of them after the connection was lost. While nobody answers
    nothing changes; :meth:`run` raises after ``session_timeout``. No server goes until an
    outage is over for that long and 5 s more: they may have lost their sessions with it,
    whose nodes are there until they time out, and have yet to announce themselves in others.

    It needs ``gevent_rover[zookeeper]``, kazoo. It speaks neither TLS nor SASL.

    :param hosts: the ensemble: ``zk1:2181,zk2:2181``, perhaps with a path behind it that
        all paths are below (a chroot).
    :param path: of the node whose children the servers are.
    :param session_timeout: seconds of silence after which the connection is given up; the
        ensemble may negotiate (with its ``tickTime``).
    :raises ImportError: kazoo isn't installed.
    :raises ValueError: an argument that can't be.
    """

    def __init__(self, hosts: str, path: str, *, session_timeout: float = 10.0) -> None:
        extra("kazoo.client", "zookeeper", "ZooKeeperSource")
        check_hosts(hosts)
        self.hosts = hosts
        self.path = check_path("path", path)
        self.session_timeout = check_seconds("session_timeout", session_timeout)
        self._session: ZooKeeperSession | None = None
        self._failed = False
        # The latest answer, also of an earlier run.
        self._applied: dict[str, Server] | None = None
        self._wake = Event()
        # Names of the nodes that changed since they were read.
        self._stale: set[str] = set()
        # What is in the nodes that were complained of.
        self._bad: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"ZooKeeperSource({self.hosts!r}, {self.path!r})"

    def run(self, apply: Apply) -> None:
        """Call ``apply`` with all servers, at first and whenever they have changed.

        :raises SourceError: nobody has answered for ``session_timeout`` seconds, or reading
            isn't allowed.
        """
        self._wake, self._stale = Event(), set()
        session = ZooKeeperSession(self.hosts, self.session_timeout, self._wake.set)
        self._session = session
        patience = _PATIENCE if self._failed else self.session_timeout
        self._failed = True
        try:
            session.open(max(patience, self.session_timeout))
            self._failed = False
            self._follow(session, apply)
        finally:
            session.close()

    def abandon(self) -> None:
        """Let go of the parent's session, in a forked child. Doesn't switch."""
        session, self._session = self._session, None
        if session is not None:
            session.abandon()

    def _follow(self, session: ZooKeeperSession, apply: Apply) -> None:
        members: dict[str, _Member] = {}
        told = False  # in this run: so that it's known to be well
        losses = -1
        complete = 0.0  # when those that are missing are believed to be gone
        while True:
            session.wait_connected()
            self._wake.clear()
            began = monotonic()
            if losses != session.losses:  # All watches are forgotten.
                members.clear()
                losses = session.losses
                if self._applied is not None:
                    complete = began + self.session_timeout + _RETURN
            try:
                self._read(session, members)
            except SessionLost:
                continue
            if losses != session.losses:
                continue
            # In order, so that of two nodes for one server the later one counts.
            found = dict(filter(None, (members[name] for name in sorted(members))))
            left = complete - monotonic()
            if left > 0:
                found = {**(self._applied or {}), **found}
            if found != self._applied or not told:
                told, self._applied = True, found
                apply(found)
            self._wake.wait(left if left > 0 else None)
            sleep(max(0.0, began + _PACE - monotonic()))

    def _read(self, session: ZooKeeperSession, members: dict[str, _Member]) -> None:
        """Bring what is known of the nodes up to date, with watches for what comes next."""
        stale, self._stale = self._stale, set()
        while (names := session.children(self.path, self._on_event)) is None:
            if not session.exists(self.path, self._on_event):
                names = []
                break
        for name in members.keys() - set(names):
            del members[name]
            self._bad.pop(name, None)
        above = self.path.rstrip("/")
        unread = [name for name in names if name in stale or name not in members]
        paths = {f"{above}/{name}": name for name in unread}
        contents = session.data(list(paths), self._on_event, _AT_A_TIME)
        for path, name in paths.items():
            if path in contents:
                members[name] = self._member(path, name, contents[path])
            else:
                members.pop(name, None)  # It went meanwhile.

    def _member(self, path: str, name: str, data: bytes) -> _Member:
        try:
            member = _parse(data)
        except (ValueError, RecursionError) as exc:
            if self._bad.get(name) != data:
                self._bad[name] = data
                _log.warning("%r: %s is no server: %s", self, path, exc)
            return None
        self._bad.pop(name, None)
        return member

    def _on_event(self, event: Any) -> None:
        """Take note that something changed. kazoo calls it; it must not switch."""
        if event.path is not None and event.path != self.path:
            self._stale.add(event.path.rpartition("/")[2])
        self._wake.set()


def _parse(data: bytes) -> _Member:
    """Return what a node stands for.

    :raises ValueError: nothing; the message says why not.
    """
    try:
        node = json.loads(data)
    except ValueError as exc:
        raise ValueError(f"no JSON ({exc}) in {data[:100]!r}") from None
    if isinstance(node, dict) and "serviceEndpoint" in node:
        # https://github.com/twitter/finagle, finagle-serversets: JsonCodec. Without a status
        # it's alive: Thrift's definition of a member has that as its default.
        if node.get("status", "ALIVE") != "ALIVE":
            return None
        node = node["serviceEndpoint"]
    if not isinstance(node, dict):
        raise ValueError(f"expected an object with 'host' and 'port', got {data[:100]!r}")
    server: Any = {key: node[key] for key in _KEYS if key in node}
    if "path" in server:
        id = f"unix:{server['path']}"
    else:
        id = address_id(str(server.get("host")), server.get("port", 0))
    check_server(server, id)
    return id, server
