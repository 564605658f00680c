"""Every exception that gevent_rover raises or sends."""

from __future__ import annotations

from gevent_rover.models import Server


class RoverError(Exception):
    """A fault that a person must fix: in the configuration, trust, protocol or local resources.

    An outage is none of these: the server is ``unreachable`` then. This is the base
    class of what the ``error`` signal carries. The exception that caused it, if
    there is one, is its ``__cause__``.

    :param message: what is wrong, in one line that names the culprit.
    :param id: the registry's id of the server concerned, if there is one.
    :param server: the registry's own entry of that server.
    """

    id: str | None
    server: Server | None

    def __init__(
        self, message: str = "", *, id: str | None = None, server: Server | None = None
    ) -> None:
        super().__init__(message)
        self.id = id
        self.server = server


class NoServersError(RoverError):
    """The registry was empty when an attempt was due."""


class InvalidServerError(RoverError, ValueError):
    """An entry that can't be connected to: a port out of range, a missing key, and so on."""


class ProtocolError(RoverError):
    """The server sent bytes that can't be the beginning of a slot line."""


class TLSError(RoverError):
    """The TLS handshake failed: not trusted, a wrong name, no common version."""


class ResourceError(RoverError):
    """This process or machine, not the server, is short of something.

    Descriptors, memory, ephemeral ports, or the permission to connect.
    """


class PoolError(Exception):
    """A pool was used wrongly; the base class of what a pool raises."""


class PoolTimeout(PoolError):
    """No connection became idle in time; the message says what pool and rover are up to."""


class PoolFull(PoolError):
    """As many greenlets wait for a connection as may: the pool's ``max_waiting``."""


class PoolClosed(PoolError):
    """The pool is closed, or was closed while a greenlet waited for a connection."""
