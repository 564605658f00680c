"""Where a process shows what it's up to: on loopback, or at a Unix domain socket in a folder."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Final

from gevent_rover.net.unix import remove_left_behind
from gevent_rover.registry import parse_listener

#: What the names of the sockets in a folder end with.
SUFFIX: Final = ".sock"


def socket_name(name: str) -> str:
    """Return the name of this process' socket in a folder.

    :param name: of the pool: a process may have several.
    """
    return f"{os.getpid()}-{re.sub('[^A-Za-z0-9_.-]', '_', name)}{SUFFIX}"


def socket_in(folder: str, name: str) -> str:
    """Return the path for this process' socket in a folder, which is made if it isn't there.

    Only its owner may look into a folder that is made. Sockets in it that nobody listens at
    any more, of processes that were killed, are removed.

    :raises OSError: it can't be made, or read.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for path in Path(folder).glob(f"*{SUFFIX}"):
        remove_left_behind(str(path))
    return str(Path(folder) / socket_name(name))


def parse_place(where: str) -> tuple[str, int] | str:
    """Return the host and the port of ``HOST:PORT`` on loopback, or the path of ``unix:PATH``.

    :raises ValueError: it's neither; the message names the culprit.
    """
    if where.startswith("unix:"):
        path = where.removeprefix("unix:")
        if not path or path == "@":
            raise ValueError(f"empty path in {where!r}")
        return "\0" + path[1:] if path.startswith("@") else path
    host, port = parse_listener(where)
    if not is_loopback(host):
        raise ValueError(
            f"expected a loopback address or unix:PATH, got {where!r}: who sees a status page"
            " is for an app to say that mounts it, or for the permissions of a socket"
        )
    return ("127.0.0.1" if host == "localhost" else host), port


def is_loopback(host: str) -> bool:
    """Tell whether a host is this one, for processes of this one alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
