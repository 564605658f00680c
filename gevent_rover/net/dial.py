"""One attempt: resolve, connect, TLS, read the slot line, under one deadline."""

from __future__ import annotations

import errno
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent import Greenlet, get_hub, getcurrent
from gevent import socket as gevent_socket

from gevent_rover.errors import InvalidServerError, TLSError
from gevent_rover.models import Server
from gevent_rover.net.addresses import addresses_of, known_address
from gevent_rover.net.failures import connect_error, connected_to_itself, translated
from gevent_rover.net.forks import check_fork, same_process
from gevent_rover.net.race import race
from gevent_rover.net.resources import Resources
from gevent_rover.net.sockets import READ, WRITE, close_now, raw_of, reader_of
from gevent_rover.policy.pacing import HANGS_AFTER
from gevent_rover.policy.protocol import bytes_needed, decode_slot_line


class DeadlinePassed(BaseException):
    """Thrown into the greenlet of an attempt by its timer; never leaves :class:`Dial`."""


class Dial(Resources):
    """One attempt to get a slot from a server: begun, and over when ``done`` is called.

    Where an address is known and TLS isn't wanted, it waits by callbacks of the
    hub alone. A greenlet that waited instead would take most of the 11 kB that
    a pending attempt cost. Names and TLS block, so they have a greenlet.
    """

    __slots__ = (
        "_done",
        "_greenlet",
        "_line",
        "failure",
        "server",
        "slot",
        "socket",
        "ssl_context",
        "timeout",
    )

    def __init__(self, server: Server, timeout: float, ssl_context: Any = None) -> None:
        super().__init__()
        self.server = server
        self.timeout = timeout
        self.ssl_context = ssl_context
        #: Once it's over: the slot and the connected socket, which is the caller's,
        self.slot = 0
        self.socket: gevent_socket.socket | None = None
        #: or why there is none: an ``OSError`` is an outage, a :class:`RoverError` a
        #: fault that a person must fix.
        self.failure: Exception | None = None
        self._greenlet: Greenlet[..., Any] | None = None
        self._line = b""

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
            sock = self.begin(address)
        except Exception as exc:
            self.fail(exc)
            return False
        # One wait covers the connection and the slot line: a connection that
        # fails is readable, too, and recv then raises what it failed with.
        reader = reader_of(sock)
        reader.start(self.on_readable)
        self.watchers.append(reader)
        self._start_timer(min(self.timeout, HANGS_AFTER), self.on_timer, monotonic() + self.timeout)
        return True

    def abandon(self) -> None:
        """Give the attempt up: stop its watchers, close its descriptors, don't switch."""
        self.abandoned = True
        self.release()
        sock, self.socket = self.socket, None
        if sock is not None:
            close_now(sock)
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None and greenlet is not getcurrent():
            greenlet.kill(block=False)

    def outlive_loop(self) -> None:
        if self.socket is not None:
            self.sockets.append(self.socket)
            self.socket = None
        super().outlive_loop()

    def fail(self, failure: Exception) -> None:
        """Be over, without a connection."""
        self.release()
        self.failure = translated(failure)

    def _start_timer(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        # A third of gevent.Timeout's cost. The loop's own time may be stale by
        # as long as the hub was busy: hence update.
        timer = get_hub().loop.timer(seconds)
        self.watchers.append(timer)
        timer.start(callback, *args, update=True)

    # By callbacks

    def on_readable(self) -> bool:
        """Read what is there of the slot line, and tell whether the attempt is over."""
        if not same_process[0]:
            check_fork()
        if self.abandoned:
            return True
        try:
            slot = self._read(raw_of(self.sockets[0]))
            if slot is None:
                return False
        except Exception as exc:
            self.fail(exc)
        else:
            reader, timer = self.watchers
            self.watchers.clear()
            reader.stop()  # It's the socket's own.
            timer.close()
            self.slot, self.socket = slot, self.sockets.pop()
        self._done(self)
        return True

    def on_timer(self, deadline: float) -> None:
        """Look what keeps the attempt, once it hangs and when the deadline passes."""
        # What arrived in time, but while the hub was busy, isn't late.
        if self.on_readable():
            return
        left = deadline - monotonic()
        itself = connected_to_itself(self.sockets[0])
        if left > 0 and itself is None:
            self.stop(self.watchers[-1])
            self._start_timer(left, self.on_timer, deadline)
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
            self.release()

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
        sock = self.begin(addresses[0]) if only else race(self, hub, addresses)
        itself = connected_to_itself(sock)
        if itself is not None:
            raise itself
        if hostname is not None:
            return self._connect_tls(hub, sock, hostname)
        watcher = self.watch(hub, sock, READ)
        while True:
            hub.wait(watcher)
            slot = self._read(raw_of(sock))
            if slot is not None:
                self.sockets.remove(sock)
                return slot, sock

    def _late(self) -> TimeoutError:
        return TimeoutError(errno.ETIMEDOUT, f"no slot line within {self.timeout:g} s")

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
        from gevent_rover.net.tls import SSLError, is_unreachable, wrap

        watcher = self.watch(hub, sock, WRITE)
        hub.wait(watcher)
        self.stop(watcher)
        failure = connect_error(sock)
        if failure is not None:
            raise failure
        try:
            secure = wrap(sock, self.ssl_context, server_hostname=hostname)
            self.sockets[-1] = secure
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
        self.sockets.remove(secure)
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
