"""One attempt: resolve, connect, TLS, read the slot line, under one deadline."""

from __future__ import annotations

import _socket
import errno
import os
from collections import deque
from typing import Any, Final

from gevent import GreenletExit, get_hub, getcurrent
from gevent import socket as gevent_socket
from gevent.event import Event

from gevent_rover.addresses import Address, addresses_of
from gevent_rover.errors import InvalidServerError, ResourceError, TLSError
from gevent_rover.protocol import bytes_needed, decode_slot_line
from gevent_rover.registry import Server
from gevent_rover.sockets import INTERNET, close_now

#: Seconds until the next address of a name gets its chance: the Connection
#: Attempt Delay that RFC 8305 (section 5) recommends.
ATTEMPT_DELAY: Final = 0.25

# Non-blocking from its birth where the platform can: that spares a system call.
_NONBLOCK: Final[int] = getattr(_socket, "SOCK_NONBLOCK", 0)
_TYPE: Final = _socket.SOCK_STREAM | _NONBLOCK
_READ: Final = 1
_WRITE: Final = 2

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

    __slots__ = ("_sockets", "_watchers", "abandoned", "server", "ssl_context", "timeout")

    def __init__(self, server: Server, timeout: float, ssl_context: Any = None) -> None:
        self.server = server
        self.timeout = timeout
        self.ssl_context = ssl_context
        self.abandoned = False
        self._sockets: list[Any] = []
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
        hostname = None if self.ssl_context is None else self._hostname()
        addresses = addresses_of(hub, self.server)
        only = len(addresses) == 1
        sock = self._begin(addresses[0]) if only else self._race(hub, addresses)
        if hostname is not None:
            return self._connect_tls(hub, sock, hostname)
        # One wait covers the connection and the slot line: a connection that
        # fails is readable, too, and recv then raises what it failed with.
        slot = self._read_slot_line(hub, sock, self._watch(hub, sock, _READ))
        return slot, self._adopted(sock)

    def _begin(self, address: Address) -> _socket.socket:
        """Begin to connect to an address."""
        if self.abandoned:  # while a name was looked up
            raise GreenletExit
        family, target = address
        sock = _socket.socket(family, _TYPE)
        self._sockets.append(sock)
        if not _NONBLOCK:  # pragma: no cover (not on Linux)
            sock.setblocking(False)
        if family in INTERNET:
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        number = sock.connect_ex(target)
        if number and number != errno.EINPROGRESS:
            raise OSError(number, os.strerror(number))
        if family in INTERNET and _is_itself(sock, target):
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, "connected to itself: nobody listens there"
            )
        return sock

    def _race(self, hub: Any, addresses: list[Address]) -> _socket.socket:
        """Connect to the first of several addresses that answers, as RFC 8305 says.

        The next address gets its chance after ``ATTEMPT_DELAY``, or at once
        when one fails. The others are closed in the step in which one wins.

        :raises OSError: all failed; a server's error goes before one of ours.
        """
        failures: list[OSError] = []
        ready: deque[tuple[_socket.socket, Any]] = deque()
        happened = Event()

        def note(sock: _socket.socket, watcher: Any) -> None:
            watcher.stop()
            ready.append((sock, watcher))
            happened.set()

        left = deque(addresses)
        while left or self._sockets:
            if left:
                begun = len(self._sockets)
                try:
                    sock = self._begin(left.popleft())
                except OSError as exc:
                    failures.append(exc)
                    for lost in self._sockets[begun:]:
                        self._close(lost)
                    continue
                watcher = self._watch(hub, sock, _WRITE)
                watcher.start(note, sock, watcher)
            happened.wait(ATTEMPT_DELAY if left else None)
            happened.clear()
            while ready:
                sock, watcher = ready.popleft()
                self._stop(watcher)
                failure = _connect_error(sock)
                if failure is None:
                    for other in self._watchers[1:]:  # all but the deadline's
                        self._stop(other)
                    for other in [other for other in self._sockets if other is not sock]:
                        self._close(other)
                    return sock
                failures.append(failure)
                self._close(sock)
        raise min(failures, key=lambda failure: _our_reason(failure) is not None)

    def _hostname(self) -> str:
        """Return the name that the server's certificate must have."""
        if "server_hostname" in self.server:
            return self.server["server_hostname"]
        if "host" not in self.server:
            raise InvalidServerError("TLS over a path needs server_hostname")
        # Certificates have no scopes (fe80::1%eth0), nor the dot of a full name.
        return self.server["host"].partition("%")[0].rstrip(".")

    def _connect_tls(
        self, hub: Any, sock: _socket.socket, hostname: str
    ) -> tuple[int, gevent_socket.socket]:
        # Imported late: most processes never need it.
        from gevent_rover.tls import SSLError, is_unreachable, wrap

        watcher = self._watch(hub, sock, _WRITE)
        hub.wait(watcher)
        self._stop(watcher)
        failure = _connect_error(sock)
        if failure is not None:
            raise failure
        secure = self._adopted(sock)
        self._sockets.append(secure)
        try:
            secure = wrap(secure, self.ssl_context, server_hostname=hostname)
            self._sockets[-1] = secure
            secure.settimeout(None)  # The deadline's timer is the only one.
            secure.do_handshake()
            # In TLS 1.3 the server's verdict on our certificate comes only now.
            slot = self._read_slot_line(hub, secure, None)
        except SSLError as exc:
            if is_unreachable(exc):
                raise ConnectionResetError(
                    errno.ECONNRESET, f"in the TLS handshake: {exc}"
                ) from exc
            raise TLSError(f"TLS: {exc}") from exc
        secure.settimeout(gevent_socket.getdefaulttimeout())
        self._sockets.remove(secure)
        return slot, secure

    def _read_slot_line(self, hub: Any, sock: Any, watcher: Any) -> int:
        """Read the slot line, and not one byte more.

        :param watcher: what to wait for; None: ``sock`` waits by itself.
        """
        line = b""
        if watcher is not None:
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

    def _watch(self, hub: Any, sock: _socket.socket, events: int) -> Any:
        watcher = hub.loop.io(sock.fileno(), events)
        self._watchers.append(watcher)
        return watcher

    def _adopted(self, sock: _socket.socket) -> gevent_socket.socket:
        """Make a gevent socket of a descriptor, which is the caller's from then on.

        Only when it is worth it: making and closing one takes 13 to 20 µs, a
        tenth of an attempt or more.
        """
        self._sockets.remove(sock)
        return gevent_socket.socket(sock.family, _socket.SOCK_STREAM, 0, sock.detach())

    def _stop(self, watcher: Any) -> None:
        self._watchers.remove(watcher)
        watcher.close()

    def _close(self, sock: Any) -> None:
        self._sockets.remove(sock)
        close_now(sock)


def _connect_error(sock: _socket.socket) -> OSError | None:
    """Return what a connection that is writable failed with; None: it's there."""
    number = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
    return OSError(number, os.strerror(number)) if number else None


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
