"""Servers in a file, which may be replaced, removed and made again at any time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gevent import get_hub, sleep
from gevent.event import Event

from gevent_rover.checks import check_seconds
from gevent_rover.discovery.source import Apply, SourceError
from gevent_rover.discovery.turns import in_turns
from gevent_rover.models import Server
from gevent_rover.registry import check_server, parse_server

#: Seconds for which a file must stay as it is before it's read: who writes it in pieces
#: is done then.
SETTLED: Final = 0.1


class FileSource:
    """Reads servers from a file, and again whenever it changes.

    The file is text in UTF-8, with a server on each line as :func:`parse_server` takes it
    (``HOST:PORT``, ``[IPv6]:PORT``, ``unix:PATH``, each perhaps with ``ID=`` in front); empty
    lines and those that begin with ``#`` mean nothing. Or it's JSON: an object of entries by
    id, ``{"web1": {"host": "10.0.0.1", "port": 7000}}``, or a list of such texts.

    A file that isn't there, can't be read or has an error fails with a :class:`SourceError`
    that names the line and the column (or the id), and what was stays until the file has
    changed. To replace it as a whole, rename another one over it. It belongs on a local disk:
    one that hangs would hold up the hub.

    :param path: the file. It needn't be there yet.
    :param interval: seconds between two looks at it, where the kernel doesn't tell of
        changes at once.
    :raises ValueError: ``interval`` isn't a positive number.
    """

    def __init__(self, path: str | os.PathLike[str], *, interval: float = 1.0) -> None:
        self.path = Path(path)
        self.interval = check_seconds("interval", interval)
        # The version that couldn't be read; "" while there's none.
        self._bad: object = ""

    def __repr__(self) -> str:
        return f"FileSource({str(self.path)!r})"

    def run(self, apply: Apply) -> None:
        """Read the file, and again whenever it has changed; see :class:`Source`."""
        changed = Event()
        # The kernel tells at once where it can (inotify); on a network drive, say, it can't.
        watcher = get_hub().loop.stat(str(self.path), self.interval)
        watcher.start(changed.set)
        try:
            # After a failure only another version is worth a look, and that at once.
            seen = self._bad
            while True:
                changed.clear()
                now = self._settled()
                if now != seen:
                    seen = self._bad = now
                    apply(self._read())
                    self._bad = ""
                changed.wait(self.interval)
        finally:
            watcher.close()

    def _settled(self) -> object:
        """Return what tells this version of the file from others, once nobody writes it."""
        while True:
            before = self._version()
            sleep(SETTLED)
            if self._version() == before:
                return before

    def _version(self) -> object:
        try:
            stat = os.stat(self.path)
        except OSError as exc:
            return exc.errno
        return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    def _read(self) -> Mapping[str, Server]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except OSError as exc:
            raise SourceError(f"can't read {str(self.path)!r}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise SourceError(f"{str(self.path)!r} isn't UTF-8: byte {exc.start}") from exc
        servers: dict[str, Server] = {}
        entries = self._json(text) if text.lstrip()[:1] in ("{", "[") else self._lines(text)
        for where, id, server in in_turns(entries):
            if id in servers:
                raise SourceError(f"{where}: duplicate ID {id!r}")
            servers[id] = server
        return servers

    def _lines(self, text: str) -> Iterator[tuple[str, str, Server]]:
        """Yield where each server stands, its id and its entry."""
        for number, line in enumerate(text.splitlines(), 1):
            words = line.strip()
            if words and not words.startswith("#"):
                where = f"{str(self.path)!r}, line {number}, column {line.index(words) + 1}"
                yield where, *self._parsed(where, words)

    def _json(self, text: str) -> Iterator[tuple[str, str, Server]]:
        try:
            found: Any = json.loads(text)
        except json.JSONDecodeError as exc:
            where = f"{str(self.path)!r}, line {exc.lineno}, column {exc.colno}"
            raise SourceError(f"{where}: {exc.msg}") from exc
        if isinstance(found, dict):
            for id, server in found.items():
                try:
                    check_server(server, id)
                except ValueError as exc:
                    raise SourceError(f"{str(self.path)!r}: {exc}") from exc
                yield str(self.path), id, server
            return
        for number, words in enumerate(found, 1):
            where = f"{str(self.path)!r}, entry {number}"
            if not isinstance(words, str):
                raise SourceError(f"{where}: expected a text, got {words!r}")
            yield where, *self._parsed(where, words)

    def _parsed(self, where: str, words: str) -> tuple[str, Server]:
        try:
            return parse_server(words)
        except ValueError as exc:
            raise SourceError(f"{where}: {exc}") from exc
