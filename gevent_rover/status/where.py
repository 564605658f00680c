"""Where workers show what they are up to: URLs, Unix domain sockets, folders and globs of these."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gevent_rover.models import Server
from gevent_rover.status.sockets import SUFFIX

#: What is asked for, below where the app is mounted: a line for each worker.
LINES: Final = "workers.ndjson"


@dataclass(frozen=True, slots=True)
class Place:
    """Where to ask."""

    #: As reports name it.
    where: str
    #: What to connect to.
    server: Server
    #: The host and the path of the request.
    host: str
    target: str
    #: Whether it was found in a folder or by a glob: if nobody listens there, it's of a
    #: worker that is gone.
    found: bool = False


@dataclass(frozen=True, slots=True)
class NoPlace:
    """A folder that can't be looked into, and why."""

    where: str
    error: str


class Where:
    """Where to ask, as a person writes it.

    ``http://HOST:PORT/PATH`` where an app is mounted, or ``HOST:PORT`` alone; ``unix:PATH``
    or ``PATH`` of a socket, of a folder (all of its ``*.sock``), or a glob of these;
    ``unix:@NAME``, an abstract name (Linux).

    :raises ValueError: it's none of these; the message names the culprit.
    """

    def __init__(self, text: str) -> None:
        self._path = ""
        self._url: Place | None = None
        if text.startswith("unix:"):
            self._path = text.removeprefix("unix:")
            if self._path in ("", "@"):
                raise ValueError(f"empty path in {text!r}")
        elif "://" in text:
            self._url = _place_of(text)
        elif re.fullmatch(r"[^/\s]+:[0-9]+", text) and not os.path.lexists(text):
            self._url = _place_of(f"http://{text}/")
        elif text:
            self._path = text
        else:
            raise ValueError("expected a URL, a socket, a folder or a glob, got ''")
        if "\0" in self._path:
            raise ValueError(f"a path has no NUL, got {text!r}")

    def places(self) -> Iterator[Place | NoPlace]:
        """Yield where to ask now; a folder and a glob are read anew."""
        path = self._path
        if self._url is not None:
            yield self._url
        elif path.startswith("@"):
            yield _socket(path, found=False)
        elif os.path.isdir(path):
            yield from _sockets_in(path)
        elif glob.has_magic(path) and not os.path.lexists(path):
            for each in sorted(glob.glob(path)):
                if os.path.isdir(each):
                    yield from _sockets_in(each)
                else:
                    yield _socket(each, found=True)
        elif path.endswith("/"):
            yield from _sockets_in(path)  # which says why it can't be read
        else:
            yield _socket(path, found=False)


def places_of(wheres: Iterable[Where], skip: str | None = None) -> list[Place | NoPlace]:
    """Return where to ask now, each place once.

    :param skip: the name of a socket's file that is left out, wherever it was found.
    """
    places: dict[object, Place | NoPlace] = {}
    for where in wheres:
        for place in where.places():
            key: object = place.where
            if isinstance(place, Place):
                path = place.server.get("path")
                if path is None:
                    key = place.server["host"], place.server["port"], place.target
                elif skip is not None and place.found and os.path.basename(path) == skip:
                    continue
                elif not path.startswith("\0"):
                    key = _file_at(path)
            places.setdefault(key, place)
    return list(places.values())


def _file_at(path: str) -> object:
    """Return what is the same for all paths to a file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return path  # Whoever connects is told why.
    return found.st_dev, found.st_ino


def _place_of(url: str) -> Place:
    problem = None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError as exc:
        raise ValueError(f"{exc} in {url!r}") from None
    if parts.scheme != "http":
        problem = "expected http://"
    elif not host:
        problem = "no host"
    elif "@" in parts.netloc:
        problem = "no user and no password can be given"
    elif parts.query or parts.fragment:
        problem = "expected where the app is mounted, without ? and #"
    elif not re.fullmatch(r"[!-~]+", url):
        problem = "only visible ASCII characters are allowed"
    if problem is not None or host is None:
        raise ValueError(f"{problem} in {url!r}")
    path = parts.path.removesuffix(LINES)
    path = path if path.endswith("/") else f"{path}/"
    where = f"http://{parts.netloc}{path}"
    return Place(where, {"host": host, "port": port}, parts.netloc, path + LINES)


def _socket(path: str, *, found: bool) -> Place:
    address = "\0" + path[1:] if path.startswith("@") else path
    return Place(f"unix:{path}", {"path": address}, "localhost", f"/{LINES}", found)


def _sockets_in(folder: str) -> Iterator[Place | NoPlace]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as exc:
        yield NoPlace(f"unix:{folder}", exc.strerror or str(exc))
        return
    for name in names:
        if name.endswith(SUFFIX):
            yield _socket(os.path.join(folder, name), found=True)
