"""Sources as URLs."""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from gevent_rover.discovery.file import FileSource
from gevent_rover.discovery.names import DNSSource, SRVSource
from gevent_rover.discovery.source import Source
from gevent_rover.discovery.zookeeper import ZooKeeperSource


def source_from_url(url: str) -> Source:
    """Return the source that a URL stands for.

    ``file:///PATH``, ``dns://NAME:PORT``, ``dns+srv://NAME``,
    ``zk://HOST:PORT,HOST:PORT/PATH``.

    :raises ValueError: it stands for none; the message names it.
    :raises ImportError: its extra isn't installed; the message says what to install.
    """
    parts = urlsplit(url)
    make = _MAKERS.get(parts.scheme)
    if make is None:
        known = ", ".join(f"{kind}://" for kind in _MAKERS)
        raise ValueError(f"not the URL of a source: {url!r} (known are {known})")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"a source has no query, fragment or user: {url!r}")
    return make(url, parts)


def is_source_url(text: str) -> bool:
    """Tell whether a text is meant to be the URL of a source."""
    return "://" in text


def _file(url: str, parts: SplitResult) -> Source:
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ValueError(f"expected file:///PATH, got {url!r}")
    return FileSource(unquote(parts.path))


def _dns(url: str, parts: SplitResult) -> Source:
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or not port or parts.path not in ("", "/"):
        raise ValueError(f"expected dns://NAME:PORT, got {url!r}")
    return DNSSource(parts.hostname, port)


def _srv(url: str, parts: SplitResult) -> Source:
    if not parts.netloc or ":" in parts.netloc or parts.path not in ("", "/"):
        raise ValueError(f"expected dns+srv://_SERVICE._PROTO.NAME, got {url!r}")
    return SRVSource(parts.netloc)


def _zookeeper(url: str, parts: SplitResult) -> Source:
    return ZooKeeperSource(*zookeeper_path(url))


def zookeeper_path(url: str) -> tuple[str, str]:
    """Return the hosts and the path of a ``zk://HOST:PORT,HOST:PORT/PATH``.

    :raises ValueError: it isn't one; the message names it.
    """
    parts = urlsplit(url)
    if parts.scheme != "zk" or not parts.netloc or not parts.path.strip("/"):
        raise ValueError(f"expected zk://HOST:PORT[,HOST:PORT…]/PATH, got {url!r}")
    return parts.netloc, "/" + unquote(parts.path).strip("/")


_MAKERS: Final = {"file": _file, "dns": _dns, "dns+srv": _srv, "zk": _zookeeper}
