"""What an entry of the registry is, and how one is picked at random."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from random import Random
from typing import Any, Final, TypedDict

from gevent_rover.errors import InvalidServerError, NoServersError

# The size of sockaddr_un.sun_path: unix(7) on Linux, 104 on the BSDs and macOS.
_MAX_PATH: Final = 108 if sys.platform == "linux" else 104

_TCP_KEYS: Final = frozenset({"host", "port"})
_KEYS: Final = frozenset({"host", "port", "path", "server_hostname"})


class Server(TypedDict, total=False):
    """One entry of the registry: ``host`` and ``port``, or ``path``.

    Entries are replaced, never changed in place.
    """

    #: A host name, or a literal IPv4 or IPv6 address (``fe80::1%eth0`` too).
    host: str
    #: 1 to 65535.
    port: int
    #: A Unix domain socket; a leading NUL byte makes it an abstract name (Linux).
    path: str
    #: The name that the server's certificate must have. Default: ``host``.
    server_hostname: str


def check_server(server: Any, id: str | None = None) -> None:
    """Check that ``server`` is an entry that can be connected to.

    :param server: what stands in the registry; anything at all.
    :param id: its id, for the error.
    :raises InvalidServerError: it isn't; the message names the culprit.
    """
    problem = _problem_of(server)
    if problem is not None:
        raise InvalidServerError(f"invalid server {id!r}: {problem}", id=id, server=server)


def _problem_of(server: Any) -> str | None:
    if not isinstance(server, dict):
        return f"expected a dict, got {server!r}"
    keys = server.keys()
    if keys != _TCP_KEYS:
        unknown = keys - _KEYS
        if unknown:
            return f"unknown key {min(map(repr, unknown))}"
        if "path" in keys:
            if "host" in keys or "port" in keys:
                return "'path' excludes 'host' and 'port'"
            return _problem_of_path(server["path"]) or _problem_of_server_hostname(server)
        for key in ("host", "port"):
            if key not in keys:
                return f"missing key {key!r}"
    # A port of 65536+P reaches P where nobody checks, and True is an int.
    port = server["port"]
    if type(port) is not int or not 1 <= port <= 65535:
        return f"port must be an int from 1 to 65535, got {port!r}"
    problem = _problem_of_name("host", server["host"])
    if problem is None and keys != _TCP_KEYS:
        return _problem_of_server_hostname(server)
    return problem


def _problem_of_name(key: str, name: Any) -> str | None:
    if not isinstance(name, str) or not name:
        return f"{key} must be a non-empty str, got {name!r}"
    if "\0" in name or name != name.strip():
        return f"{key} has characters that no name has: {name!r}"
    if not name.isascii() or ".." in name or name.startswith(".") or len(name) > 63:
        # What the resolver does first anyway, and where it raises a
        # UnicodeError: an empty or overlong label, or no IDNA form.
        try:
            name.encode("idna")
        except UnicodeError as exc:
            return f"{key} can't be encoded: {name!r} ({exc})"
    return None


def _problem_of_server_hostname(server: dict[str, Any]) -> str | None:
    if "server_hostname" not in server:
        return None
    return _problem_of_name("server_hostname", server["server_hostname"])


def _problem_of_path(path: Any) -> str | None:
    if not isinstance(path, str) or not path:
        return f"path must be a non-empty str, got {path!r}"
    abstract = path.startswith("\0")
    if "\0" in path[1:]:
        return f"path has a NUL byte: {path!r}"
    try:
        size = len(os.fsencode(path))
    except UnicodeError as exc:
        return f"path can't be encoded: {path!r} ({exc})"
    # An abstract name needs no NUL at its end.
    if size > (_MAX_PATH if abstract else _MAX_PATH - 1):
        return f"path is longer than {_MAX_PATH - 1} bytes: {path!r}"
    return None


class Picker:
    """Picks an id of a registry at random.

    A forked child needs one of its own, or its picks are in step with its parent's.
    """

    def __init__(self) -> None:
        # A generator of its own: a seed that the application sets isn't for us. The
        # operating system's would cost a system call for each pick.
        self._random = Random().random
        self._ids: list[str] = []
        self._picks_left = 0

    def pick(self, servers: dict[str, Server]) -> tuple[str, Server]:
        """Return a random id of ``servers`` and its entry.

        Other greenlets and native threads may change ``servers`` meanwhile.
        ``list(servers)`` is atomic, but takes some 70 µs for 10,000 servers, more
        than half of an attempt. So a list of n ids serves up to n // 256
        picks more, while the number of servers stays the same.

        :raises NoServersError: it is empty.
        """
        while True:
            if self._picks_left <= 0 or len(self._ids) != len(servers):
                self._ids = list(servers)
                self._picks_left = len(self._ids) // 256
                if not self._ids:
                    raise NoServersError("the registry has no servers")
            else:
                self._picks_left -= 1
            id = self._ids[int(self._random() * len(self._ids))]
            try:
                return id, servers[id]
            except KeyError:
                # Dropped since the list was made: look again.
                self._picks_left = 0

    def pick_other(
        self, servers: dict[str, Server], left_out: Collection[str]
    ) -> tuple[str, Server] | None:
        """Return a random id that isn't ``left_out``, and its entry; None if there is none."""
        for _ in range(4 if servers else 0):
            id, server = self.pick(servers)
            if id not in left_out:
                return id, server
        others = [id for id in list(servers) if id not in left_out]
        while others:
            id = others.pop(int(self._random() * len(others)))
            try:
                return id, servers[id]
            except KeyError:
                pass  # Dropped meanwhile.
        return None
