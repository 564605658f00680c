"""``SlotServer``: a gevent ``StreamServer`` that gives each connection the lowest free slot."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias

from gevent import socket as gevent_socket
from gevent.timeout import Timeout

from gevent_rover.net.interrupts import calls_out
from gevent_rover.net.sockets import no_delay, peer_gone, raw_of
from gevent_rover.policy.protocol import encode_slot_line
from gevent_rover.policy.slots import Slots
from gevent_rover.serving.base import ConnectionServer

_log: Final = logging.getLogger("gevent_rover.server")
_log.addHandler(logging.NullHandler())

# handle(slot, socket, address), and what was prepared
_Handle: TypeAlias = Callable[..., object]
_Prepare: TypeAlias = Callable[[gevent_socket.socket, Any], AbstractContextManager[Any]]


class SlotServer(ConnectionServer):
    """A server that says each connection's slot first, then runs ``handle``.

    :param listener: an address (``("127.0.0.1", 0)``), or a socket that listens.
    :param handle: called as ``handle(slot, socket, address)`` in a greenlet of
        its own for each connection. When it returns or raises, the connection ends,
        even if a forked process has a copy of it, and then the slot is given back.
        What it raises is reported by gevent, and the server goes on; but a
        ``ConnectionError`` after its client has gone is a line in the log, at DEBUG.
    :param slots: where the slots come from (default: a new ``Slots()``). A
        connection that gets none, because of its limit, is closed.
    :param prepare: called as ``prepare(socket, address)`` in the connection's greenlet before
        it takes a slot. It returns a context manager, which is left when the connection has
        ended; what entering it gives is a fourth argument of ``handle``. If that fails,
        the connection is closed without a slot line: an ``OSError`` or a
        ``gevent.Timeout`` is a line in the log, at DEBUG, anything else is reported
        by gevent. What is still being prepared when the server stops is killed.
    :param ssl_context: makes it TLS: an ``ssl.SSLContext`` for servers, gevent's
        or the standard library's. The slot is taken after the handshake, which
        has :attr:`handshake_timeout` seconds and needs no place in the pool.
    :param certfile: instead of ``ssl_context``: the file of the certificate.
    :param keyfile: the file of its key (default: ``certfile``).
    :param options: ``spawn`` and ``backlog`` as ``StreamServer`` takes them.
        ``spawn`` is a new ``Pool`` by default, so that :meth:`stop` ends the
        handlers, too.
    :raises TypeError: ``handle`` or ``prepare`` isn't callable, or ``ssl_context`` can't be used.
    :raises ValueError: ``backlog`` or a ``spawn`` that is a number is out of range.

    In a forked child it is stopped: it has closed its copies of all connections, by
    ``close()`` alone, and of the listener, unless that was passed in. In the parent
    nothing changes. :meth:`start` starts it afresh in the child, on the same address;
    that works with a listener that was passed in, or once the parent has let go of it.

    :meth:`stop` stops accepting, lets the handlers finish for ``timeout``
    seconds (default: 1) and then kills them. :meth:`start` works again
    afterwards, on the same address (for a Unix domain socket: once its file
    is removed).
    """

    def __init__(
        self,
        listener: Any,
        handle: _Handle,
        *,
        slots: Slots | None = None,
        prepare: _Prepare | None = None,
        ssl_context: Any = None,
        certfile: str | None = None,
        keyfile: str | None = None,
        **options: Any,
    ) -> None:
        if not (prepare is None or callable(prepare)):
            raise TypeError(f"prepare must be callable, got {prepare!r}")
        self.slots = Slots() if slots is None else slots
        self._prepare = prepare
        super().__init__(
            listener,
            handle,
            ssl_context=ssl_context,
            certfile=certfile,
            keyfile=keyfile,
            **options,
        )

    def set_handle(self, handle: _Handle) -> None:
        """Change what is called for each connection from now on.

        :raises TypeError: ``handle`` isn't callable.
        """
        if not callable(handle):
            raise TypeError(f"handle must be callable, got {handle!r}")
        self._handle_slot = handle

    def handle(self, socket: gevent_socket.socket, address: Any) -> None:
        """Serve one connection: take a slot, say it, run the handler, give it back.

        Without a slot it returns at once, and the caller closes the socket.
        """
        if self._prepare is None:
            self._give_slot(socket, address)
        else:
            self._serve_prepared(self._prepare, socket, address)

    @calls_out
    def _serve_prepared(
        self, prepare: _Prepare, socket: gevent_socket.socket, address: Any
    ) -> None:
        self.connections.prepare(socket)
        served = False
        try:
            with prepare(socket, address) as prepared:
                self.connections.prepared(socket)
                served = True
                self._give_slot(socket, address, prepared)
        except (OSError, Timeout) as exc:
            if served:
                raise
            _log.debug("no slot for %s: %s", address, exc)

    @calls_out
    def _give_slot(self, socket: gevent_socket.socket, address: Any, *prepared: Any) -> None:
        slots = self.slots
        slot = slots.take()
        if slot is None:
            return
        self.connections.give_slot(socket, slot, slots)
        try:
            try:
                no_delay(socket)
                _say(socket, encode_slot_line(slot))
            except OSError:
                return  # The client is gone before it had its slot line.
            try:
                self._handle_slot(slot, socket, address, *prepared)
            except ConnectionError as exc:
                # Perhaps that of a connection of the handler's own.
                if not peer_gone(socket):
                    raise
                _log.debug("slot %d: its client %s has gone: %s", slot, address, exc)
        finally:
            self.connections.end(socket)


def _say(socket: gevent_socket.socket, line: bytes) -> None:
    if type(socket) is gevent_socket.socket:
        # Nothing is in the buffer yet, so there is room. gevent's sendall costs
        # more than the system call.
        line = line[raw_of(socket).send(line) :]
    if line:
        socket.sendall(line)
