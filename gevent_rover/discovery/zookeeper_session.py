"""A session with ZooKeeper: kazoo's client, kept from blocking the hub and from forked children."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from gevent import Greenlet, get_hub
from gevent.event import Event

from gevent_rover.discovery.kazoo_handler import Demoted, Handler
from gevent_rover.discovery.source import SourceError
from gevent_rover.errors import InvalidServerError
from gevent_rover.extras import extra
from gevent_rover.net.addresses import addresses_of
from gevent_rover.registry import host_and_port, parse_listener

#: ZooKeeper's own port, where none is given.
PORT: Final = 2181

#: Seconds that the ensemble has for saying goodbye; then the connection is just closed.
GOODBYE: Final = 1.0

# How kazoo connects again: seconds until the next attempt, at first and at most. Its own
# limit is a minute.
_RETRY: Final = {"max_tries": -1, "delay": 0.05, "backoff": 2, "max_delay": 1.0}

_log: Final = logging.getLogger("gevent_rover.discovery")


def check_hosts(hosts: Any) -> tuple[list[tuple[str, int]], str]:
    """Check what names an ensemble: ``HOST[:PORT],…``, and perhaps ``/CHROOT`` behind it.

    :returns: hosts and ports, and the chroot ("" if there's none).
    :raises ValueError: it names none.
    """
    if not isinstance(hosts, str):
        raise ValueError(f"hosts must be a str like 'zk1:2181,zk2:2181', got {hosts!r}")
    names, slash, chroot = hosts.partition("/")
    found = []
    for name in names.split(","):
        text = name.strip()
        try:
            # Behind the bracket of an IPv6 address, if there's one.
            host, port = parse_listener(
                text if ":" in text.rpartition("]")[2] else f"{text}:{PORT}"
            )
        except InvalidServerError as exc:
            raise ValueError(
                f"hosts must be like 'zk1:2181,zk2:2181', got {hosts!r}: {exc}"
            ) from None
        found.append((host, port or PORT))
    return found, check_path("the path behind hosts", slash + chroot) if chroot else ""


def check_path(name: str, path: Any) -> str:
    """Check the path of a node.

    :param name: what it's called in an error.
    :returns: ``path``.
    :raises ValueError: ZooKeeper has no such nodes.
    """
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError(f"{name} must be a str that begins with '/', got {path!r}")
    steps = path[1:].split("/")
    if (path != "/" and not {"", ".", ".."}.isdisjoint(steps)) or "\0" in path:
        raise ValueError(f"{name} has a part that no node has: {path!r}")
    return path


class SessionLost(Exception):
    """The connection was lost: whether what was asked has been done isn't known."""


class ZooKeeperSession:
    """A client of an ensemble that connects again by itself, until it's closed.

    kazoo's own sessions may change when one expires: see :attr:`id`. What waits here
    raises a :class:`SourceError` when nobody has answered for as long as a session lasts:
    close it, and make another. It may be for the good: servers that were restarted without
    their data refuse a client that has seen newer data.

    :param hosts: the ensemble, as :func:`check_hosts` takes it.
    :param timeout: seconds of silence after which the ensemble forgets a session; it may
        negotiate another number.
    :param changed: called when the connection comes or goes; it must not switch.
    :raises ImportError: kazoo isn't installed.
    """

    def __init__(self, hosts: str, timeout: float, changed: Callable[[], object]) -> None:
        self._hosts, self._timeout, self._changed = hosts, timeout, changed
        self._kazoo = extra("kazoo.client", "zookeeper", type(self).__name__)
        self._errors = extra("kazoo.exceptions", "zookeeper", type(self).__name__)
        self._handler = Handler()
        self._client: Any = None
        self._connected = Event()
        self._lost_since = monotonic()
        #: How often the connection was lost. With each, kazoo forgets all watches.
        self.losses = 0

    @property
    def connected(self) -> bool:
        """Whether the ensemble answers, as far as that's known."""
        return self._connected.is_set()

    @property
    def id(self) -> int | None:
        """The number of ZooKeeper's session; None while there's no connection."""
        known = None if self._client is None else self._client.client_id
        return None if known is None else int(known[0])

    def open(self, patience: float) -> None:
        """Connect.

        :param patience: seconds to wait for it.
        :raises SourceError: nobody has answered, or no host has an address.
        """
        client = self._kazoo.KazooClient(
            hosts=self._addresses(),
            timeout=self._timeout,
            handler=self._handler,
            connection_retry={**_RETRY, "sleep_func": self._handler.sleep_func},
            logger=Demoted(_log, {}),
        )
        client.add_listener(self._on_state)
        self._client = client
        self._lost_since = monotonic()
        client.start_async()
        self.wait_connected(patience)

    def _addresses(self) -> str:
        """Look the hosts up by gevent's means: kazoo would block an unpatched hub."""
        hosts, chroot = check_hosts(self._hosts)
        found: list[str] = []
        failure: OSError | None = None
        for host, port in hosts:
            try:
                addresses = addresses_of(get_hub(), {"host": host, "port": port})
            except OSError as exc:
                failure = exc
                continue
            for _, (ip, *_) in addresses:
                found.append(host_and_port(ip, port))
        if not found:
            raise SourceError(f"no address of ZooKeeper at {self._hosts}: {failure}") from failure
        return ",".join(found) + chroot

    def wait_connected(self, patience: float | None = None) -> None:
        """Wait until there's a connection.

        :param patience: seconds since it was lost (default: as long as a session lasts).
        :raises SourceError: nobody has answered for so long.
        """
        deadline = self._lost_since + (self._timeout if patience is None else patience)
        while not self._connected.wait(max(0.0, deadline - monotonic())):
            if monotonic() >= deadline:
                raise SourceError(f"ZooKeeper at {self._hosts} doesn't answer")

    def children(self, path: str, watch: Callable[[Any], object]) -> list[str] | None:
        """Return the names of a node's children; None if there's no such node."""
        return self._answer(self._client.get_children_async(path, watch=watch))  # type: ignore[no-any-return]

    def exists(self, path: str, watch: Callable[[Any], object]) -> bool:
        """Tell whether a node exists."""
        return self._answer(self._client.exists_async(path, watch=watch)) is not None

    def data(
        self, paths: list[str], watch: Callable[[Any], object], at_a_time: int
    ) -> dict[str, bytes]:
        """Return what is in nodes, by path, but for those that are gone.

        :param at_a_time: for how many it asks before it waits for the answers.
        """
        found = {}
        for first in range(0, len(paths), at_a_time):
            some = paths[first : first + at_a_time]
            results = [self._client.get_async(path, watch=watch) for path in some]
            for path, result in zip(some, results, strict=True):
                answer = self._answer(result)
                if answer is not None:
                    found[path] = answer[0]
        return found

    def make(self, prefix: str, data: bytes) -> str:
        """Make a node that ends with the session, a number behind its name; return its path.

        The nodes above are made, too, and stay.
        """
        above = prefix.rpartition("/")[0]
        self._answer(self._client.ensure_path_async(above or "/"))
        path = self._answer(self._client.create_async(prefix, data, ephemeral=True, sequence=True))
        if path is None:  # Somebody has just removed the one above.
            raise SessionLost
        return str(path)

    def remove_left(self, path: str, session: int | None) -> None:
        """Remove a node that a session before this one has left, if it's still that one."""
        stat = self._answer(self._client.exists_async(path))
        if stat is not None and stat.ephemeralOwner == session:
            self._answer(self._client.delete_async(path, version=stat.version))

    def _answer(self, result: Any) -> Any:
        """Wait for an answer; None if there's no such node.

        :raises SessionLost: the connection was lost meanwhile.
        :raises SourceError: it's refused, or nobody has answered for as long as a session lasts.
        """
        while not result.ready():
            if self.connected:
                result.wait(self._timeout)
            else:
                self.wait_connected()
                # What was asked while there was no connection is asked now.
                result.wait(self._timeout)
        failure = result.exception
        if failure is None:
            return result.value
        if isinstance(failure, self._errors.NoNodeError):
            return None
        lost = self._errors.ConnectionLoss, self._errors.SessionExpiredError
        if isinstance(failure, (*lost, self._errors.ConnectionClosedError)):
            raise SessionLost from failure
        problem = str(failure) or type(failure).__name__
        raise SourceError(f"ZooKeeper at {self._hosts} refuses it: {problem}") from failure

    def _on_state(self, state: Any) -> None:
        """Take note that the connection came or went. kazoo calls it."""
        if self._handler.abandoned:
            return
        if state == "CONNECTED":
            self._connected.set()
        elif self._connected.is_set():
            self._connected.clear()
            self._lost_since = monotonic()
            self.losses += 1
        self._changed()

    def close(self) -> None:
        """End the session, and its nodes with it. Idempotent.

        It waits for the ensemble, but for :data:`GOODBYE` seconds at most.
        """
        client, self._client = self._client, None
        if client is None or self._handler.abandoned:
            return
        client.remove_listener(self._on_state)
        goodbye = None
        try:
            if self.connected:
                goodbye = Greenlet.spawn(_say_goodbye, client)
                goodbye.join(GOODBYE)
        finally:
            self._connected.clear()
            if goodbye is not None:
                goodbye.kill()
            self._handler.end()

    def abandon(self) -> None:
        """Let go of the parent's connection, in a forked child: not a byte is sent there.

        Neither switches nor uses the hub.
        """
        self._handler.abandon()


def _say_goodbye(client: Any) -> None:
    try:
        client.stop()
    except Exception as exc:
        _log.debug("while a session was closed: %r", exc)
