"""One attempt: resolve, connect, TLS, read the slot line, under one deadline."""

from __future__ import annotations

import _socket
import errno
import os
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from gevent import Greenlet, GreenletExit, get_hub, getcurrent
from gevent import socket as gevent_socket
from gevent.event import Event

from gevent_rover.addresses import Address, addresses_of, known_address
from gevent_rover.errors import InvalidServerError, ResourceError, RoverError, TLSError
from gevent_rover.forks import check_fork
from gevent_rover.pacing import MOMENT
from gevent_rover.protocol import bytes_needed, decode_slot_line
from gevent_rover.registry import Server
from gevent_rover.sockets import INTERNET, close_now, raw_of, reader_of

#: Seconds until the next address of a name gets its chance: the Connection
#: Attempt Delay that RFC 8305 (section 5) recommends.
ATTEMPT_DELAY: Final = 0.25

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
    """Thrown into the greenlet of an attempt by its timer; never leaves :class:`Dial`."""


class Dial:
    """One attempt to get a slot from a server: begun, and over when ``done`` is called.

    Where an address is known and TLS isn't wanted, it waits by callbacks of the
    hub alone. A greenlet that waited instead would take most of the 11 kB that
    a pending attempt cost. Names and TLS block, so they have a greenlet.

    Its descriptors and watchers are attributes, so that they can be given up
    from outside, without a switch and without the hub: see :meth:`abandon`.
    """

    __slots__ = (
        "_done",
        "_greenlet",
        "_line",
        "_sockets",
        "_watchers",
        "abandoned",
        "failure",
        "server",
        "slot",
        "socket",
        "ssl_context",
        "timeout",
    )

    def __init__(self, server: Server, timeout: float, ssl_context: Any = None) -> None:
        self.server = server
        self.timeout = timeout
        self.ssl_context = ssl_context
        self.abandoned = False
        #: Once it's over: the slot and the connected socket, which is the caller's,
        self.slot = 0
        self.socket: gevent_socket.socket | None = None
        #: or why there is none: an ``OSError`` is the server's fault, a
        #: :class:`RoverError` something that trying another doesn't explain.
        self.failure: Exception | None = None
        self._greenlet: Greenlet[..., Any] | None = None
        self._line = b""
        self._sockets: list[Any] = []
        self._watchers: list[Any] = []

    def start(self, done: Callable[[Any], object]) -> bool:
        """Begin, without a switch.

        :param done: called in the hub with this object, once, when it's over;
            never after :meth:`abandon`.
        :returns: whether it's under way. False: it failed at once, and ``done``
            isn't called.
        """
        self._done = done
        try:
            address = known_address(self.server) if self.ssl_context is None else None
            if address is None:
                self._greenlet = Greenlet.spawn(self._run)
                self._greenlet.rawlink(self._end)
                return True
            sock = self._begin(address)
        except Exception as exc:
            self.fail(exc)
            return False
        # One wait covers the connection and the slot line: a connection that
        # fails is readable, too, and recv then raises what it failed with.
        reader = reader_of(sock)
        reader.start(self._look)
        self._watchers.append(reader)
        self._start_timer(min(self.timeout, MOMENT), self._look_late, monotonic() + self.timeout)
        return True

    def abandon(self) -> None:
        """Give the attempt up: stop its watchers, close its descriptors, don't switch."""
        self.abandoned = True
        self._release()
        sock, self.socket = self.socket, None
        if sock is not None:
            close_now(sock)
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None and greenlet is not getcurrent():
            greenlet.kill(block=False)

    def _start_timer(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        # A third of gevent.Timeout's cost. The loop's own time may be stale by
        # as long as the hub was busy: hence update.
        timer = get_hub().loop.timer(seconds)
        self._watchers.append(timer)
        timer.start(callback, *args, update=True)

    def _release(self) -> None:
        while self._watchers:
            self._watchers.pop().close()
        while self._sockets:
            close_now(self._sockets.pop())

    def fail(self, failure: Exception) -> None:
        """Be over, without a connection."""
        self._release()
        if isinstance(failure, OSError):
            reason = _our_reason(failure)
            if reason is not None:
                ours = ResourceError(f"{reason}: {failure.strerror}")
                ours.__cause__ = failure
                failure = ours
        elif not isinstance(failure, RoverError):
            unexpected = RoverError(f"the attempt failed: {failure!r}")
            unexpected.__cause__ = failure
            failure = unexpected
        self.failure = failure

    # By callbacks

    def _look(self) -> bool:
        """Read what is there of the slot line, and tell whether the attempt is over."""
        check_fork()
        if self.abandoned:
            return True
        try:
            slot = self._read(raw_of(self._sockets[0]))
            if slot is None:
                return False
        except Exception as exc:
            self.fail(exc)
        else:
            reader, timer = self._watchers
            self._watchers.clear()
            reader.stop()  # It's the socket's own.
            timer.close()
            self.slot, self.socket = slot, self._sockets.pop()
        self._done(self)
        return True

    def _look_late(self, deadline: float) -> None:
        """Look what keeps the attempt, once it hangs and when the deadline passes."""
        # What arrived in time, but while the hub was busy, isn't late.
        if self._look():
            return
        left = deadline - monotonic()
        itself = _is_itself(self._sockets[0])
        if left > 0 and itself is None:
            self._watchers.pop().close()
            self._start_timer(left, self._look_late, deadline)
            return
        self.fail(itself or self._late())
        self._done(self)

    # In a greenlet

    def _run(self) -> None:
        try:
            self._start_timer(self.timeout, getcurrent().throw, DeadlinePassed)
            self.slot, self.socket = self._connect(get_hub())
        except DeadlinePassed:
            self.fail(self._late())
        except Exception as exc:
            self.fail(exc)
        finally:
            self._release()

    def _end(self, greenlet: Greenlet[..., Any]) -> None:
        if self._greenlet is None:  # abandoned
            return
        self._greenlet = None
        if self.socket is None and self.failure is None:
            self.abandoned = True  # Killed, but not by abandon().
        self._done(self)

    def _connect(self, hub: Any) -> tuple[int, gevent_socket.socket]:
        hostname = None if self.ssl_context is None else self._hostname()
        addresses = addresses_of(hub, self.server)
        only = len(addresses) == 1
        sock = self._begin(addresses[0]) if only else self._race(hub, addresses)
        itself = _is_itself(sock)
        if itself is not None:
            raise itself
        if hostname is not None:
            return self._connect_tls(hub, sock, hostname)
        watcher = self._watch(hub, sock, _READ)
        while True:
            hub.wait(watcher)
            slot = self._read(raw_of(sock))
            if slot is not None:
                self._sockets.remove(sock)
                return slot, sock

    def _late(self) -> TimeoutError:
        return TimeoutError(errno.ETIMEDOUT, f"no slot line within {self.timeout:g} s")

    def _begin(self, address: Address) -> gevent_socket.socket:
        """Begin to connect to an address."""
        if self.abandoned:  # while a name was looked up
            raise GreenletExit
        family, target = address
        sock = gevent_socket.socket(family, _socket.SOCK_STREAM)
        self._sockets.append(sock)
        raw = raw_of(sock)
        if family in INTERNET:
            raw.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        number = raw.connect_ex(target)
        if number and number != errno.EINPROGRESS:
            raise OSError(number, os.strerror(number))
        return sock

    def _race(self, hub: Any, addresses: list[Address]) -> gevent_socket.socket:
        """Connect to the first of several addresses that answers, as RFC 8305 says.

        The next address gets its chance after ``ATTEMPT_DELAY``, or at once
        when one fails. The others are closed in the step in which one wins.

        :raises OSError: all failed; a server's error goes before one of ours.
        """
        failures: list[OSError] = []
        ready: deque[tuple[gevent_socket.socket, Any]] = deque()
        happened = Event()

        def note(sock: gevent_socket.socket, watcher: Any) -> None:
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
                failure = _connect_error(sock) or _is_itself(sock)
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
        self, hub: Any, sock: gevent_socket.socket, hostname: str
    ) -> tuple[int, gevent_socket.socket]:
        # Imported late: most processes never need it.
        from gevent_rover.tls import SSLError, is_unreachable, wrap

        watcher = self._watch(hub, sock, _WRITE)
        hub.wait(watcher)
        self._stop(watcher)
        failure = _connect_error(sock)
        if failure is not None:
            raise failure
        try:
            secure = wrap(sock, self.ssl_context, server_hostname=hostname)
            self._sockets[-1] = secure
            secure.settimeout(None)  # The deadline's timer is the only one.
            secure.do_handshake()
            # In TLS 1.3 the server's verdict on our certificate comes only now.
            slot = self._read(secure)
            assert slot is not None
        except SSLError as exc:
            if is_unreachable(exc):
                raise ConnectionResetError(
                    errno.ECONNRESET, f"in the TLS handshake: {exc}"
                ) from exc
            raise TLSError(f"TLS: {exc}") from exc
        secure.settimeout(gevent_socket.getdefaulttimeout())
        self._sockets.remove(secure)
        return slot, secure

    def _read(self, sock: Any) -> int | None:
        """Read what is there of the slot line, and not one byte more.

        :returns: the slot; None: more has to come first. A TLS socket waits for
            that by itself.
        """
        while True:
            try:
                chunk = sock.recv(bytes_needed(self._line))
            except BlockingIOError:
                return None
            if not chunk:
                raise ConnectionResetError(
                    errno.ECONNRESET, "closed before the slot line was whole"
                )
            self._line += chunk
            slot = decode_slot_line(self._line)
            if slot is not None:
                return slot

    def _watch(self, hub: Any, sock: gevent_socket.socket, events: int) -> Any:
        watcher = hub.loop.io(sock.fileno(), events)
        self._watchers.append(watcher)
        return watcher

    def _stop(self, watcher: Any) -> None:
        self._watchers.remove(watcher)
        watcher.close()

    def _close(self, sock: Any) -> None:
        self._sockets.remove(sock)
        close_now(sock)


def _connect_error(sock: gevent_socket.socket) -> OSError | None:
    """Return what a connection that is writable failed with; None: it's there."""
    number = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
    return OSError(number, os.strerror(number)) if number else None


def _is_itself(sock: gevent_socket.socket) -> OSError | None:
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


def _our_reason(exc: OSError) -> str | None:
    """Return what we are short of; None when it's the server's fault."""
    if isinstance(exc, _socket.gaierror):  # Its numbers are not those of errno.
        return _OURS[errno.ENOMEM] if exc.errno == _socket.EAI_MEMORY else None
    return _OURS.get(exc.errno or 0)
