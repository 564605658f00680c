"""The one table that tells faults of ours from outages, and what else a socket's errors mean."""

from __future__ import annotations

import _socket
import errno
import os
from typing import Final

from gevent import socket as gevent_socket

from gevent_rover.errors import ResourceError, RoverError
from gevent_rover.net.sockets import INTERNET

# With these, another server would fare no better. Any other OSError is the server's.
_OURS: Final[dict[int, str]] = {
    errno.EMFILE: "this process is out of descriptors",
    errno.ENFILE: "this machine is out of descriptors",
    errno.ENOBUFS: "this machine is out of buffers",
    errno.ENOMEM: "this machine is out of memory",
    errno.EADDRNOTAVAIL: "this machine has no free port or no address to connect from",
    errno.EACCES: "this process may not connect",
    errno.EPERM: "this process may not connect",
}


def translated(failure: Exception) -> Exception:
    """Return what an attempt failed with, as users are told.

    An ``OSError`` stays what it is: an outage. Any other exception becomes a
    :class:`RoverError`, a fault that a person must fix, if it isn't one already.
    """
    if isinstance(failure, RoverError):
        return failure
    if isinstance(failure, OSError):
        reason = our_reason(failure)
        if reason is None:
            return failure
        fault: RoverError = ResourceError(f"{reason}: {failure.strerror}")
    else:
        fault = RoverError(f"the attempt failed: {failure!r}")
    fault.__cause__ = failure
    return fault


def our_reason(exc: OSError) -> str | None:
    """Return what we are short of; None when it's the server's fault."""
    if isinstance(exc, _socket.gaierror):  # Its numbers are not those of errno.
        return _OURS[errno.ENOMEM] if exc.errno == _socket.EAI_MEMORY else None
    return _OURS.get(exc.errno or 0)


def connect_error(sock: gevent_socket.socket) -> OSError | None:
    """Return what a connection that is writable failed with; None: it's there."""
    number = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
    return OSError(number, os.strerror(number)) if number else None


def connected_to_itself(sock: gevent_socket.socket) -> OSError | None:
    """Return what is wrong with a socket that connected to itself: TCP's simultaneous open.

    A dead port in the range that the kernel takes local ports from may be the
    very one that this socket got. It never says anything, so there is time to
    look later.
    """
    if sock.family not in INTERNET:
        return None
    try:
        if sock.getsockname() != sock.getpeername():
            return None
    except OSError:  # not connected
        return None
    return ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself: nobody listens there")
