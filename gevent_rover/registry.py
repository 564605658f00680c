"""What an entry of the registry may be, and how one is written as text."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

from gevent_rover.errors import InvalidServerError
from gevent_rover.models import Server

# The size of sockaddr_un.sun_path: unix(7) on Linux, 104 on the BSDs and macOS.
_MAX_PATH: Final = 108 if sys.platform == "linux" else 104

_TCP_KEYS: Final = frozenset({"host", "port"})
_KEYS: Final = frozenset({"host", "port", "path", "server_hostname"})


def check_server(server: Any, id: str | None = None) -> None:
    """Check that ``server`` is an entry that can be connected to.

    :param server: what stands in the registry; anything at all.
    :param id: its id, for the error.
    :raises InvalidServerError: it isn't; the message names the culprit.
    """
    problem = _problem_of(server)
    if problem is not None:
        raise InvalidServerError(f"invalid server {id!r}: {problem}", id=id, server=server)


def parse_server(text: str) -> tuple[str, Server]:
    """Return the id and the entry that a text stands for.

    ``HOST:PORT`` (a name or an IPv4 address), ``[IPv6]:PORT``, ``unix:PATH``, or
    ``unix:@NAME`` for an abstract name (Linux); each with ``ID=`` in front, if it's
    to have another id than its own text. An ID doesn't begin with ``unix:``.

    :raises InvalidServerError: it stands for none; the message names the culprit.
    """
    id, where = text, text
    # A path may have a "=" of its own.
    if "=" in text and not text.startswith("unix:"):
        id, _, where = text.partition("=")
        if not id:
            raise InvalidServerError(f"empty ID in {text!r}")
    server: Server
    if where.startswith("unix:"):
        path = where.removeprefix("unix:")
        if path in ("", "@"):
            raise InvalidServerError(f"empty path in {text!r}", id=id)
        server = {"path": "\0" + path[1:] if path.startswith("@") else path}
    else:
        host, port = _host_and_port(where)
        server = {"host": host, "port": port}
    check_server(server, id)
    return id, server


def parse_listener(text: str) -> tuple[str, int]:
    """Return the host and the port of ``HOST:PORT``, where to listen; port 0 is any free one.

    :raises InvalidServerError: it isn't one; the message names the culprit.
    """
    host, port = _host_and_port(text)
    check_server({"host": host, "port": port or 1}, text)
    return host, port


def parse_listener_or_path(text: str) -> tuple[str, int] | str:
    """Return where to listen: as :func:`parse_listener` does, or the path of ``unix:PATH``.

    ``unix:@NAME`` is an abstract name (Linux); its path begins with a NUL.

    :raises InvalidServerError: it's neither; the message names the culprit.
    """
    if text.startswith("unix:"):
        return parse_server(text)[1]["path"]
    return parse_listener(text)


def address_of(server: Server) -> str:
    """Return an entry's address as text, as :func:`parse_server` reads it."""
    path = server.get("path")
    if path is not None:
        return f"unix:@{path[1:]}" if path.startswith("\0") else f"unix:{path}"
    return host_and_port(server["host"], server["port"])


def host_and_port(host: str, port: int) -> str:
    """Return ``HOST:PORT``, or ``[IPv6]:PORT``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def server_gone(servers: Mapping[str, Server], id: str, server: Server) -> bool:
    """Tell whether a server left the registry, or changed in it, since ``server`` was its entry."""
    now = servers.get(id)
    return now is not server and now != server


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise InvalidServerError(f"expected HOST:PORT or [IPv6]:PORT, got {text!r}")
    # int() alone is no check: it takes "+80", "8_0" and digits of every script.
    if re.fullmatch("[0-9]{1,5}", port) is None or int(port) > 65535:
        raise InvalidServerError(f"port must be a number up to 65535, got {text!r}")
    if bracketed:
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise InvalidServerError(f"not an IPv6 address in {text!r}") from None
    return host, int(port)


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
