"""HTTP requests by the standard library's ``http.client``, each over a leased connection.

::

    service = HTTPService(SlotPool(rover), "users.internal")
    with service.request("GET", "/users/1") as response:
        print(response.status, response.read())

A connection goes back to the pool if the answer's body was read to its end and neither side
said ``Connection: close``; else it's closed, which is no failure of its server.

It doesn't retry, reconnect, or follow redirects: an answer of any status is returned. It
decodes no content, keeps no cookies, and knows no proxies, tunnels or upgrades. TLS is the
rover's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import (
    BadStatusLine,
    HTTPConnection,
    HTTPResponse,
    IncompleteRead,
    LineTooLong,
    UnknownProtocol,
)
from typing import Any, Final

from gevent_rover import SlotPool

#: Statuses that count against the server although it answered: what says them is a gateway
#: or an overloaded server, and another one may do better. A 500 is the request's as often
#: as the server's, and one bad request must not set server after server aside.
FAILED_STATUSES: Final = frozenset({502, 503, 504})

# What a server says that isn't HTTP, or isn't all of it. ``http.client`` has more
# exceptions, but those are its caller's fault.
_SERVER_FAULTS: Final = (BadStatusLine, IncompleteRead, LineTooLong, UnknownProtocol)


class Response(HTTPResponse):
    """An answer that knows whether the next one on its connection can be told from it."""

    #: Whether it was closed before it had been read to its end.
    cut_short = False

    def begin(self) -> None:
        """Read the head of the answer, and skip the interim ones before it (RFC 9110, 15.2).

        The base class skips 100 alone, and takes any other (103 Early Hints) for the
        answer: then the next request would get this one's. And it takes a head that is
        cut off for a whole one.
        """
        file = self.fp
        lines = _Lines(file)
        self.fp = lines  # type: ignore[assignment]
        super().begin()
        while 100 <= self.status < 200 and self.status != 101:
            self.headers = self.msg = None  # type: ignore[assignment]  # as before the first
            super().begin()
        if lines.latest not in (b"\r\n", b"\n"):
            raise IncompleteRead(b"")
        self.fp = file
        if self.status == 101:
            raise UnknownProtocol("101 Switching Protocols, which nobody asked for")
        # The base class looks at the first line of each header alone. Where the length
        # is a matter of opinion, the end of the connection is the end of it (RFC 9112, 6.3).
        lengths = self.headers.get_all("Content-Length", [])
        codings = self.headers.get_all("Transfer-Encoding", [])
        ambiguous = len(lengths + codings) > 1 or (codings and not self.chunked)
        if ambiguous or says_close("Connection", self.headers.get_all("Connection", [])):
            self.will_close = True

    def close(self) -> None:
        if not self.isclosed():
            self.cut_short = True
        super().close()

    @property
    def complete(self) -> bool:
        """Whether the body was read to its end, as far as its framing tells."""
        if self.length is not None:
            return self.length == 0
        return self.isclosed() and not self.cut_short


class _Lines:
    """A file to read lines from, which knows the latest."""

    latest = b""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def readline(self, limit: int) -> bytes:
        self.latest = self._file.readline(limit)
        return self.latest


class HTTPService:
    """A service whose requests are balanced over the connections of a pool.

    :param pool: of sockets, so one without a ``setup``. It stays its owner's to close.
    :param host: the name of the service, for the ``Host`` header: that of all its servers.
    :param port: its port, if the header is to say one.
    :param timeout: seconds for which a server may be silent. An answer that drips takes
        longer: put a :class:`gevent.Timeout` around the request to limit all of it.
    :param wait: seconds to wait for a connection; None: for ever.
    """

    def __init__(
        self,
        pool: SlotPool,
        host: str,
        port: int | None = None,
        *,
        timeout: float | None = 10.0,
        wait: float | None = 5.0,
    ) -> None:
        self.pool = pool
        self.host = host
        self.port = port
        self.timeout = timeout
        self.wait = wait

    @contextmanager
    def request(
        self,
        method: str,
        target: str,
        body: bytes | str | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Response]:
        """Send a request, and give its answer for a ``with`` block, which holds the lease.

        Read what you need of the body within the block. After an exception in it, a kill
        and a timeout included, the connection is closed.

        :param target: path and query.
        :param body: as for ``http.client``: an iterable is sent chunked unless the headers
            say its length.
        :raises PoolTimeout: no connection became idle in time.
        :raises OSError: the connection broke, or the server was silent for too long
            (:class:`TimeoutError`). Nobody knows whether the request was carried out.
        :raises HTTPException: the answer isn't HTTP, or ended too early
            (:class:`IncompleteRead`, at the end of the block at the latest). Both speak
            against the server.
        """
        if method.upper() == "CONNECT":
            raise ValueError("a tunnel would outlive its lease: CONNECT isn't supported")
        headers = dict(headers or {})
        keep = not any(says_close(name, [value]) for name, value in headers.items())
        lease = self.pool.lease(self.wait)
        with lease as socket:
            socket.settimeout(self.timeout)
            # One for each request: so nothing but the socket outlives a lease.
            connection = _connection_over(socket, self.host, self.port)
            try:
                try:
                    connection.request(method, target, body, headers)
                except (BrokenPipeError, ConnectionResetError):
                    # A server may answer, and hang up, before it has read all of a body.
                    keep = False
                response = connection.getresponse()
                assert isinstance(response, Response)
                if response.status in FAILED_STATUSES:
                    lease.fail()
                yield response
                if response.length and response.isclosed() and not response.cut_short:
                    # A read of so many bytes at most ends there without a word.
                    raise IncompleteRead(b"", response.length)
            except _SERVER_FAULTS:
                lease.fail()
                raise
            keep = keep and response.complete
            response.close()
            if not keep:
                # Rather than pool.discard(): the server did answer.
                connection.close()


def says_close(name: str, values: Iterable[str]) -> bool:
    """Tell whether a header says that the connection is to be closed after the answer."""
    options = ",".join(values).lower().split(",")
    return name.lower() == "connection" and any(option.strip() == "close" for option in options)


def _connection_over(socket: Any, host: str, port: int | None) -> HTTPConnection:
    """Return a client of a connection that is there already, and that makes no other."""
    connection = HTTPConnection(host, port)
    # ``sock`` and ``auto_open`` have no underscore, but no documentation, either.
    connection.sock = socket
    connection.auto_open = 0
    connection.response_class = Response
    return connection
