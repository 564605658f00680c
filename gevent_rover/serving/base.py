"""A gevent ``StreamServer`` that ends its connections surely, survives forks, and speaks TLS."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from gevent import Greenlet, get_hub, getcurrent
from gevent import socket as gevent_socket
from gevent.pool import Group, Pool
from gevent.server import StreamServer

from gevent_rover.checks import check_count, check_seconds, check_timeout, checked
from gevent_rover.net.forks import Forkable, check_fork, same_process
from gevent_rover.net.interrupts import calls_out, put_off
from gevent_rover.net.sockets import end_listening
from gevent_rover.serving.connections import Connections
from gevent_rover.serving.handshakes import Handshakes

# The kernel's numbers of such things are C ints.
_MOST: Final = 2**31 - 1


class ConnectionServer(StreamServer, Forkable):
    """What is common to all that accept connections here: how they begin, and end once.

    A subclass has a ``handle(socket, address)``, as ``StreamServer`` calls it. The
    arguments, ``stop`` and forks are described at :class:`SlotServer`.
    """

    #: Seconds that a client has for the TLS handshake.
    handshake_timeout: float = checked(check_seconds, 10.0)

    #: Seconds that :meth:`stop` lets handlers finish; None: as long as it takes.
    stop_timeout: float | None = checked(check_timeout, 1.0)  # type: ignore[assignment]

    def __init__(
        self,
        listener: Any,
        handle: Callable[..., object] | None = None,
        *,
        ssl_context: Any = None,
        certfile: str | None = None,
        keyfile: str | None = None,
        **options: Any,
    ) -> None:
        for option in options.keys() - {"backlog", "spawn"}:
            # StreamServer would take it for an option of its own TLS.
            raise TypeError(f"unknown option {option!r}; for more of TLS, use ssl_context")
        if "backlog" in options:
            check_count("backlog", options["backlog"], least=0, most=_MOST)
        if certfile is not None and ssl_context is None:
            # Imported late: most processes never need it.
            from gevent_rover.net.tls import server_context

            ssl_context = server_context(certfile, keyfile)
        elif certfile is not None or keyfile is not None:
            raise TypeError("certfile (and keyfile) or ssl_context, not both")
        elif ssl_context is not None:
            from gevent_rover.net.tls import check_server_context

            check_server_context(ssl_context)
        self._ssl_context = ssl_context
        #: Those that are open, for subclasses.
        self.connections = Connections()
        self._handshakes = Handshakes(self.connections, self._spawn_handle)
        self._given = hasattr(listener, "accept")  # whether the listener was passed in
        #: Called first when :meth:`stop` stops it, each without arguments; they must not switch.
        self.on_stop: list[Callable[[], object]] = []
        options.setdefault("spawn", Pool())
        StreamServer.__init__(self, listener, handle, **options)
        Forkable.__init__(self)

    def set_spawn(self, spawn: Any) -> None:
        """Change how the greenlets of the handlers are spawned; as in ``StreamServer``.

        :raises ValueError: a number that is out of range, or nothing that can spawn.
        """
        if not (spawn is None or spawn == "default" or callable(spawn) or hasattr(spawn, "spawn")):
            check_count("spawn", spawn, most=_MOST)
        super().set_spawn(spawn)
        self._spawn_option = spawn if self.pool is None else self.pool

    def init_socket(self) -> None:
        # What close() took away: it forgets the pool, not only the listener.
        if "_spawn" not in self.__dict__:
            self.set_spawn(self._spawn_option)
        super().init_socket()

    @property
    def started(self) -> bool:
        """Whether it accepts; in a forked child it doesn't, until :meth:`start`."""
        check_fork()
        return bool(super().started)

    def start(self) -> None:
        """Listen, if it doesn't yet, and accept from now on."""
        check_fork()
        super().start()

    def close(self) -> None:
        """Stop accepting, and close the listener, whoever else has a copy of it.

        A listener that was passed in is only closed: others may accept there, too.
        """
        check_fork()
        if not self._given and not self.closed:
            end_listening(self.socket)
        self._given = False
        super().close()

    @property
    def ssl_enabled(self) -> bool:
        """Whether it speaks TLS."""
        return self._ssl_context is not None

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, end what isn't served yet, and let the handlers finish.

        It waits for them, but not when one of them calls it, or the hub.

        To call it on a POSIX signal, use ``gevent.signal_handler``: see
        :meth:`Rover.stop`, which does the same.

        :param timeout: seconds until the handlers are killed (default:
            :attr:`stop_timeout`).
        :raises ValueError: ``timeout`` isn't a number.
        """
        limit = check_timeout("timeout", self.stop_timeout if timeout is None else timeout)
        check_fork()
        if put_off(partial(self.stop, timeout)):
            return
        _tell_of_stop(self)
        self._handshakes.stop()
        self.close()
        self.connections.end_preparing()
        caller = getcurrent()
        # One that has just ended its connection is in the pool still.
        served = isinstance(self.pool, Group) and caller in self.pool.greenlets
        if caller is get_hub() or served or self.connections.are_served_by(caller):
            Greenlet.spawn(self._end_handlers, limit)
        else:
            self._end_handlers(limit)

    def _end_handlers(self, timeout: float | None) -> None:
        if self.pool is not None:  # As in StreamServer, but None is for ever.
            self.pool.join(timeout=timeout)
            self.pool.kill(block=True, timeout=1)

    def _do_read(self) -> None:
        """Accept what waits, as gevent calls it; but none of the parent's in a child.

        A fork in C is noticed here. And a POSIX signal that stops the server is put off
        from here on; but gevent calls this even if one has just been handled.
        """
        if not same_process[0]:
            check_fork()
        elif "socket" in self.__dict__:  # It isn't closed.
            super()._do_read()  # type: ignore[misc]

    def do_handle(self, socket: gevent_socket.socket, address: Any) -> None:
        """Spawn :meth:`handle` as ``StreamServer`` does, but never leave the socket open.

        A greenlet that is killed before it began closes nothing by itself.
        """
        self.connections.add(socket)
        if self._ssl_context is None:
            self._spawn_handle(socket, address)
        else:
            self._handshakes.begin(socket, address, self._ssl_context, self.handshake_timeout)

    def _spawn_handle(self, socket: gevent_socket.socket, address: Any) -> None:
        try:
            spawn: Any = self._spawn  # type: ignore[attr-defined]
            handle: Any = self._handle  # type: ignore[attr-defined]
        except AttributeError:  # Closed meanwhile, which forgets both.
            self.connections.end(socket)
            return
        if spawn is None:
            self._serve(handle, socket, address)
            return
        try:
            if isinstance(self.pool, Group):
                greenlet = spawn(handle, socket, address)
            else:  # A greenlet that may have no links.
                greenlet = spawn(self._serve, handle, socket, address)
        except BaseException:
            self.connections.end(socket)
            raise
        if isinstance(greenlet, Greenlet):
            self.connections.serve(socket, greenlet)
            greenlet.rawlink(lambda greenlet: self.connections.end(socket))

    def _serve(self, handle: Any, socket: gevent_socket.socket, address: Any) -> None:
        try:
            handle(socket, address)
        finally:
            self.connections.end(socket)

    def _after_fork(self) -> None:
        """Stop, in a forked child, and let go of the parent's connections."""
        self._handshakes.abandon()
        self.connections.abandon()
        if super().started:
            listener = self.__dict__.pop("socket") if self._given else None
            super().close()
            if listener is not None:
                self.socket = listener


@calls_out
def _tell_of_stop(server: ConnectionServer) -> None:
    """Call the server's ``on_stop``, if it is started. What one raises is reported by gevent."""
    for callback in list(server.on_stop) if server.started else ():
        try:
            callback()
        except Exception:
            get_hub().handle_error(callback, *sys.exc_info())
