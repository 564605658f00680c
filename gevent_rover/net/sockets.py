"""What all that handles sockets needs to know of them: which are TCP, and how they surely close."""

from __future__ import annotations

import _socket
import math
import struct
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from gevent import socket as gevent_socket

#: The address families of TCP, the only sockets here that have TCP_NODELAY.
INTERNET: Final = frozenset({_socket.AF_INET, _socket.AF_INET6})

#: What a gevent watcher of a descriptor waits for.
READ: Final = 1
WRITE: Final = 2


#: Returns the non-blocking socket inside a gevent socket: another one once it's closed.
#: A gevent socket's own methods wait, or take a detour of Python code around each
#: system call.
raw_of: Final[Callable[[Any], _socket.socket]] = attrgetter("_sock")

#: Tells whether a gevent socket is closed, a ``makefile()`` of it still open or not. Its
#: property ``closed`` is a function in Python, and each lease asks twice.
is_closed: Final[Callable[[Any], bool]] = attrgetter("_closed")


def no_delay(sock: Any) -> None:
    """Have a TCP connection send what it's given at once; another kind does anyway.

    :raises OSError: it was reset meanwhile; some systems say so here.
    """
    raw = raw_of(sock)
    if raw.family in INTERNET:
        raw.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)


def reader_of(sock: gevent_socket.socket) -> Any:
    """Return the watcher for reading inside a gevent socket, stopped.

    Using it instead of one more saves 0.8 µs of the 37 µs that an attempt takes.
    """
    return sock._read_event  # type: ignore[attr-defined]


def writer_of(sock: gevent_socket.socket) -> Any:
    """Return the watcher for writing inside a gevent socket, stopped."""
    return sock._write_event  # type: ignore[attr-defined]


#: What :func:`what_arrived` says of data.
UNASKED: Final = "bytes arrived that nobody asked for"


def what_arrived(sock: gevent_socket.socket) -> str:
    """Return what makes a connection readable on which nothing should arrive, in words.

    It leaves what there is to read.
    """
    try:
        data = raw_of(sock).recv(1, _socket.MSG_PEEK)
    except OSError as exc:
        return f"it ended ({exc.strerror})"
    return UNASKED if data else "it ended"


def unread(sock: Any) -> bytes | None:
    """Return the first byte that there is to read, and leave it; none at the end.

    None: there is nothing to read yet. Of a TLS socket it's what arrived, still encrypted.

    :raises OSError: it was reset. Who reads then is told of an end, as if it were a good one:
        the kernel says it once.
    """
    try:
        return raw_of(sock).recv(1, _socket.MSG_PEEK)
    except BlockingIOError:
        return None


#: So many probes in a row without an answer, and the kernel takes a peer for gone.
PROBES: Final = 3

# Seconds of silence after which it sends the first; macOS has another name for it.
_KEEPIDLE: Final = getattr(_socket, "TCP_KEEPIDLE", getattr(_socket, "TCP_KEEPALIVE", None))


def keep_alive(sock: Any, seconds: float) -> None:
    """Have the kernel notice when the peer of a TCP connection vanishes without a word.

    After so many seconds in which nothing arrived it sends a probe, then :data:`PROBES`
    less one more, a sixth of that time apart, a second at least and ten at most. If none
    is answered, the connection ends. Whole seconds, rounded up: the kernel knows no others.
    """
    raw = raw_of(sock)
    if raw.family not in INTERNET:
        return
    options = (
        (_KEEPIDLE, math.ceil(seconds)),
        (getattr(_socket, "TCP_KEEPINTVL", None), math.ceil(min(max(seconds / 6, 1), 10))),
        (getattr(_socket, "TCP_KEEPCNT", None), PROBES),
    )
    try:
        raw.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
        for option, value in options:
            if option is not None:
                raw.setsockopt(_socket.IPPROTO_TCP, option, value)
    except OSError:
        pass  # It was reset meanwhile: some systems say so here.


def peer_gone(sock: Any) -> bool:
    """Tell whether the other end of a connection has gone, as far as the kernel knows.

    Over TCP it's gone once it answered with a reset; that it will send no more says
    nothing. False for a socket that this end has closed.
    """
    try:
        raw = raw_of(sock)
        if raw.fileno() < 0:
            return False
        if raw.family in INTERNET:
            raw.getpeername()
            return False
        return not raw.recv(1, _socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def end_whole(sock: Any) -> None:
    """End a connection for its peer, whoever has a copy of the descriptor, and close it.

    ``close()`` alone leaves the connection as it is while a forked process has one.
    """
    try:
        raw_of(sock).shutdown(_socket.SHUT_RDWR)
    except OSError:
        pass  # It isn't connected any more.
    close_whole(sock)


# Linger for no time at all: close() resets the connection.
_RESET: Final = struct.pack("ii", 1, 0)


def reset(sock: Any) -> None:
    """Close a socket at once, with a reset where it is TCP: its peer learns that bytes are lost."""
    try:
        raw_of(sock).setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _RESET)
    except OSError:
        pass  # It's closed already.
    close_now(sock)


def end_listening(sock: Any) -> None:
    """Have the kernel accept nothing more for a listener, whoever has a copy of it.

    Else who connects while a forked process has one waits for an answer in vain.
    """
    try:
        sock.shutdown(_socket.SHUT_RDWR)
    except OSError:
        pass  # Not every kernel does that.


def close_whole(sock: Any) -> None:
    """Close a gevent socket even if a ``makefile()`` of its user is still open.

    ``close()`` alone would wait for that, and the traceback of a user that
    raised keeps such a file alive until the collector runs: the connection,
    and the slot with it, would stay. The private method is the standard
    library's, too; :func:`close_now` would pull the descriptor away under a
    greenlet that waits for it.
    """
    sock.close()
    sock._real_close()


def close_now(sock: Any) -> None:
    """Close a socket that nobody uses any more, by ``close()`` alone and at once.

    gevent's own ``close`` may put it off until the hub runs, which a forked
    child perhaps never does.
    """
    descriptor = sock.detach()
    if descriptor >= 0:
        _socket.close(descriptor)
