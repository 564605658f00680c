"""One attempt: resolve, connect, read the slot line, under one deadline."""

from __future__ import annotations

import _socket
import errno
import os
from typing import Any, Final, TypeAlias

from gevent import Greenlet, GreenletExit, get_hub, getcurrent
from gevent import socket as gevent_socket

from gevent_rover.errors import ResourceError
from gevent_rover.protocol import bytes_needed, decode_slot_line
from gevent_rover.registry import Server

# What a socket is connected to: its family and its address.
_Address: TypeAlias = "tuple[int, Any]"

# Non-blocking from its birth where the platform can: that spares a system call.
_NONBLOCK: Final[int] = getattr(_socket, "SOCK_NONBLOCK", 0)
_TYPE: Final = _socket.SOCK_STREAM | _NONBLOCK
_INTERNET: Final = frozenset({_socket.AF_INET, _socket.AF_INET6})

# The one table that tells our errors from the server's: with these, another
# server would fare no better. Any other OSError is the server's.
_OURS: Final[dict[int, str]] = {
    errno.EMFILE: "this process is out of descriptors",
    errno.ENFILE: "this machine is out of descriptors",
    errno.ENOBUFS: "this machine is out of buffers",
    errno.ENOMEM: "this machine is out of memory",
    errno.EADDRNOTAVAIL: "this machine has no free port or no address to connect from",
    errno.EACCES: "this process may not connect",
    errno.EPERM: "this process may not connect",
}


class DeadlinePassed(BaseException):
    """Thrown into a greenlet by the timer of its attempt; never leaves :meth:`Dial.run`."""


class Dial:
    """One attempt to get a slot from a server.

    Its descriptors and watchers are attributes, so that they can be given up
    from outside, without a switch and without the hub: see :meth:`abandon`.
    """

    __slots__ = ("_sockets", "_watchers", "abandoned", "server", "timeout")

    def __init__(self, server: Server, timeout: float) -> None:
        self.server = server
        self.timeout = timeout
        self.abandoned = False
        self._sockets: list[_socket.socket] = []
        self._watchers: list[Any] = []

    def run(self) -> tuple[int, gevent_socket.socket]:
        """Connect and read the slot line; block until both are done.

        The hub wakes it: when the socket is ready, or when the deadline passes.
        However it ends, nothing stays open but the socket that it returns.

        :returns: the slot, and the connected socket, which is the caller's.
        :raises OSError: the server's fault: no slot could be had.
        :raises RoverError: anything that trying another server doesn't explain.
        """
        hub = get_hub()
        # A third of gevent.Timeout's cost. The loop's own time may be stale by
        # as long as the hub was busy: hence update.
        timer = hub.loop.timer(self.timeout)
        self._watchers.append(timer)
        timer.start(getcurrent().throw, DeadlinePassed, update=True)
        try:
            return self._connect(hub)
        except DeadlinePassed:
            raise TimeoutError(errno.ETIMEDOUT, f"no slot line within {self.timeout:g} s") from None
        except OSError as exc:
            reason = _our_reason(exc)
            if reason is None:
                raise
            raise ResourceError(f"{reason}: {exc.strerror}") from exc
        finally:
            self._release()

    def abandon(self) -> None:
        """Give the attempt up: stop its watchers, close its descriptors, don't switch.

        The greenlet that runs it is left waiting; whoever calls this kills it,
        or, in a forked child, sees to it that it publishes nothing.
        """
        self.abandoned = True
        self._release()

    def _release(self) -> None:
        while self._watchers:
            self._watchers.pop().close()
        while self._sockets:
            close_now(self._sockets.pop())

    def _connect(self, hub: Any) -> tuple[int, gevent_socket.socket]:
        sock = self._begin(_address_of(hub, self.server))
        slot = self._read_slot_line(hub, sock)
        # The descriptor becomes a gevent socket only now that it is worth it:
        # that costs as much as all the rest of the attempt outside the kernel.
        self._sockets.remove(sock)
        return slot, gevent_socket.socket(sock.family, _socket.SOCK_STREAM, 0, sock.detach())

    def _begin(self, address: _Address) -> _socket.socket:
        """Begin to connect; the socket stays ours until it's taken out of ``_sockets``."""
        if self.abandoned:  # while a name was looked up
            raise GreenletExit
        family, target = address
        sock = _socket.socket(family, _TYPE)
        self._sockets.append(sock)
        if not _NONBLOCK:  # pragma: no cover (not on Linux)
            sock.setblocking(False)
        if family in _INTERNET:
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        number = sock.connect_ex(target)
        if number and number != errno.EINPROGRESS:
            raise OSError(number, os.strerror(number))
        if family in _INTERNET and _is_itself(sock, target):
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, "connected to itself: nobody listens there"
            )
        return sock

    def _read_slot_line(self, hub: Any, sock: _socket.socket) -> int:
        """Wait for the connection and its slot line, and read not one byte more.

        One wait covers both: a connection that fails is readable, too, and
        ``recv`` then raises what it failed with.
        """
        watcher = hub.loop.io(sock.fileno(), 1)
        self._watchers.append(watcher)
        line = b""
        hub.wait(watcher)
        while True:
            try:
                chunk = sock.recv(bytes_needed(line))
            except BlockingIOError:
                chunk = None
            if chunk is None:
                hub.wait(watcher)
            elif chunk:
                line += chunk
                slot = decode_slot_line(line)
                if slot is not None:
                    return slot
            else:
                raise ConnectionResetError(
                    errno.ECONNRESET, "closed before the slot line was whole"
                )


def close_now(sock: Any) -> None:
    """Close a socket really: gevent's own ``close`` may put it off until the hub runs."""
    descriptor = sock.detach()
    if descriptor >= 0:
        _socket.close(descriptor)


def _is_itself(sock: _socket.socket, target: Any) -> bool:
    """Tell whether a socket connects to itself: TCP's simultaneous open.

    A dead port in the range that the kernel takes local ports from may be the
    very one that this socket got.
    """
    host, port = sock.getsockname()[:2]
    return port == target[1] and (host == target[0] or target[0] in ("0.0.0.0", "::"))


def _our_reason(exc: OSError) -> str | None:
    """Return what we are short of; None when it's the server's fault."""
    if isinstance(exc, _socket.gaierror):  # Its numbers are not those of errno.
        return _OURS[errno.ENOMEM] if exc.errno == _socket.EAI_MEMORY else None
    return _OURS.get(exc.errno or 0)


def _address_of(hub: Any, server: Server) -> _Address:
    if "path" in server:
        return _socket.AF_UNIX, server["path"]
    host, port = server["host"], server["port"]
    try:
        _socket.inet_pton(_socket.AF_INET, host)
    except OSError:
        return _literal(host, port) or _look_up(hub, host, port)[0]
    return _socket.AF_INET, (host, port)


def _literal(host: str, port: int) -> _Address | None:
    """Return the address that ``host`` is in itself, or None if it's a name.

    Never asks a resolver, so it is safe to call on the hub's own thread.
    """
    try:
        found = _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM, 0, _socket.AI_NUMERICHOST)
    except OSError:
        if ":" in host:  # no name has a colon, but a scope may be unknown: fe80::1%eth7
            raise
        return None
    return found[0][0], found[0][4]


# The lookups under way, by hub and name, shared by all attempts: where a name
# server doesn't answer, abandoned lookups would fill the resolver's thread
# pool (10 by default), and every other lookup of the process would wait.
_lookups: Final[dict[tuple[Any, str], Greenlet[..., Any]]] = {}


def forget_lookups() -> None:
    """Forget the lookups under way: in a forked child nobody will answer them."""
    _lookups.clear()


def _look_up(hub: Any, host: str, port: int) -> list[_Address]:
    """Return the addresses of a name; block until the resolver has answered."""
    key = hub, host
    lookup = _lookups.get(key)
    if lookup is None:
        lookup = _lookups[key] = Greenlet.spawn(_resolve, key)
    addresses, failure = lookup.get()
    if failure is not None:
        raise failure
    return [(family, (address[0], port, *address[2:])) for family, address in addresses]


def _resolve(key: tuple[Any, str]) -> tuple[list[_Address], Exception | None]:
    try:
        found = gevent_socket.getaddrinfo(key[1], 0, 0, _socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found], None
    except Exception as exc:
        return [], exc
    finally:
        _lookups.pop(key, None)
