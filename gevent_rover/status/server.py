"""Servers for the status app: on loopback, or at a Unix domain socket, for few readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gevent import Timeout
from gevent import socket as gevent_socket
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from gevent_rover.net.interrupts import calls_out
from gevent_rover.net.unix import listen_at
from gevent_rover.pooling.pool import SlotPool
from gevent_rover.registry import host_and_port
from gevent_rover.roving.rover import Rover
from gevent_rover.serving.base import ConnectionServer
from gevent_rover.status.app import status_app
from gevent_rover.status.sockets import is_loopback, parse_place, socket_in

#: Requests that are answered at a time. Others wait in the kernel's queue: so that many
#: readers, or slow ones, hold no more memory than so many answers.
AT_A_TIME: Final = 16

#: Seconds in all for a request and its answer: a page in a browser asks again.
SECONDS: Final = 10.0

_App = Callable[..., Iterable[bytes]]


class PageServer(ConnectionServer):
    """Serves a WSGI app to readers on this machine: one request for each connection.

    A context manager, which starts and stops it. The constructor does no I/O. In a forked
    child it's stopped, and in the parent nothing changes.

    :param app: what is served. It's called with requests for hosts of loopback alone, if it
        listens there.
    :param where: ``HOST:PORT`` on loopback (port 0 is any free one), or ``unix:PATH``: a
        socket for its owner alone (mode 0600).
    :raises ValueError: ``where`` is neither, or isn't on loopback.
    """

    def __init__(self, app: _App, where: str) -> None:
        place = parse_place(where)
        self._path = place if isinstance(place, str) else None
        self._made: os.stat_result | None = None  # the socket's file
        environ = {"SERVER_NAME": "localhost"}  # or it would be looked up
        served = _served(app, by_name=self._path is None)
        self._wsgi = WSGIServer(_NOWHERE, served, log=None, error_log=None, handler_class=_Handler)
        self._wsgi.set_environ(environ)
        self._wsgi.update_environ()
        super().__init__(_NOWHERE if self._path else place, spawn=Pool(AT_A_TIME))

    def __enter__(self) -> PageServer:
        self.start()
        return self

    @calls_out
    def __exit__(self, *args: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it's reached: ``http://HOST:PORT/`` or ``unix:PATH``."""
        if self._path is not None:
            return "unix:" + self._path.replace("\0", "@", 1)
        address: Any = self.address
        host, port = address[:2]
        return f"http://{host_and_port(host, port)}/"

    def path(self) -> str | None:
        """Return the path to listen at now; None: it's no socket with a path."""
        return self._path

    def init_socket(self) -> None:
        """Listen, as ``StreamServer`` calls it.

        :raises OSError: it isn't possible there.
        """
        path = self.path()
        if path is not None and "socket" not in self.__dict__:
            self._path = path
            self.socket = listen_at(path, 0o600)
            self._made = None if path.startswith("\0") else os.stat(path)
        super().init_socket()

    def close(self) -> None:
        """Stop accepting, and remove the socket's file."""
        super().close()
        made, self._made = self._made, None
        if made is not None and self._path is not None:
            try:
                found = os.stat(self._path)
            except OSError:
                return
            if (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino):
                Path(self._path).unlink(missing_ok=True)

    def handle(self, socket: gevent_socket.socket, address: Any) -> None:
        """Answer one request."""
        self._wsgi.handle(socket, address)

    def _after_fork(self) -> None:
        self._made = None  # The file is the parent's.
        super()._after_fork()


class StatusServer(PageServer):
    """Shows a rover and its pool to readers on this machine: see :func:`status_app`.

    One in each worker process, started after the fork; all of them in one folder, and
    ``gevent-rover page``, ``gevent-rover top`` and :func:`status_app` show them as one.

    :param rover: whose servers they are; None: the pool has none.
    :param pool: None: somebody else takes the rover's connections.
    :param where: as for :class:`PageServer`; and a folder, ``unix:FOLDER/``, in which the
        process makes a socket of its own when it starts. The folder is made if it isn't
        there, for its owner alone, and what killed workers left in it is removed.
    :param name: of the pool, to tell it from others of the same process.
    :raises ValueError: ``where`` is none of these, or isn't on loopback.
    """

    def __init__(
        self,
        rover: Rover | None,
        pool: SlotPool[Any] | None,
        where: str,
        *,
        name: str = "pool",
    ) -> None:
        self._folder = where.removeprefix("unix:") if _is_folder(where) else None
        self._name = name
        super().__init__(status_app(rover, pool, name=name), where)

    def path(self) -> str | None:
        """Return the path to listen at now: in a folder each process has its own."""
        return super().path() if self._folder is None else socket_in(self._folder, self._name)


_NOWHERE: Final = ("127.0.0.1", 0)


def _is_folder(where: str) -> bool:
    path = where.removeprefix("unix:")
    return path != where and (path.endswith("/") or os.path.isdir(path))


def _served(app: _App, *, by_name: bool) -> _App:
    """Return an app for one request a connection, that says so.

    :param by_name: whether it's reached by the name of a host. If that isn't loopback's, a
        page of another site has its own name point here (DNS rebinding).
    """

    def served(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *args: Any) -> Any:
            return start_response(status, [*headers, ("Connection", "close")], *args)

        if by_name and not is_loopback(_name_in(environ.get("HTTP_HOST", "localhost"))):
            start("421 Misdirected Request", [("Content-Type", "text/plain")])
            return [b"This is served on loopback, and for its names alone.\n"]
        return app(environ, start)

    return served


def _name_in(host: str) -> str:
    """Return the name, or the address, in a Host header; empty if it makes no sense."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class _Handler(WSGIHandler):
    """Answers one request, and waits for nobody who is slow."""

    def handle(self) -> None:
        timeout = Timeout.start_new(SECONDS)
        try:
            super().handle()
        except Timeout as exc:
            if exc is not timeout:
                raise
        finally:
            timeout.close()

    def handle_one_response(self) -> None:
        body = self.wsgi_input
        if self.content_length or (body is not None and body.chunked_input):
            # Not read: it may be long.
            self.close_connection = True
            self.socket.sendall(_HAS_BODY)
            return
        super().handle_one_response()

    def handle_error(self, kind: Any, value: Any, traceback: Any) -> None:
        if issubclass(kind, (OSError, Timeout)):
            self.close_connection = True  # Its reader is gone, or too slow.
        else:
            super().handle_error(kind, value, traceback)


# It ends with the connection.
_HAS_BODY: Final = (
    b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n"
    b"A request has no body here.\n"
)
