"""HTTP requests by geventhttpclient, each over a leased connection.

::

    service = HTTPService(SlotPool(rover), HTTPClient("users.internal"))
    with service.request("GET", "/users/1") as response:
        print(response.status_code, response.read())

A connection goes back to the pool if the answer's body was read to its end and neither side
said ``Connection: close``; else it's closed, which is no failure of its server.

It doesn't retry, reconnect, or follow redirects: an answer of any status is returned. It
knows no proxies, tunnels or upgrades, and isn't for geventhttpclient's ``UserAgent``. TLS is
the rover's.

Needs geventhttpclient 2.5. With 2.4, the last for Python 3.10, an interim answer (103 Early
Hints) is an ``AttributeError``; older ones wait for the body of a 304 in vain.

Needs ``http_client_pool.py``, too, its neighbour, for what both know of HTTP: copy it along.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import IO, Any

from gevent import socket as gevent_socket
from geventhttpclient import HTTPClient
from geventhttpclient.connectionpool import ConnectionPool
from geventhttpclient.response import (
    HTTPConnectionClosed,
    HTTPParseError,
    HTTPSocketPoolResponse,
)
from http_client_pool import FAILED_STATUSES, says_close

from gevent_rover import SlotPool


class HTTPService:
    """A service whose requests are balanced over the connections of a pool.

    :param pool: of sockets, so one without a ``setup``. It stays its owner's to close.
    :param client: says how requests are made: the ``Host`` header (the name of the service:
        that of all its servers), other headers, the HTTP version. It makes no connection.
    :param timeout: seconds for which a server may be silent. An answer that drips takes
        longer: put a :class:`gevent.Timeout` around the request to limit all of it.
    :param wait: seconds to wait for a connection; None: for ever.
    :raises ValueError: the client uses TLS, which is the rover's business, or a proxy.
    """

    def __init__(
        self,
        pool: SlotPool,
        client: HTTPClient,
        *,
        timeout: float | None = 10.0,
        wait: float | None = 5.0,
    ) -> None:
        if client.ssl or client.use_proxy:
            raise ValueError("TLS is the rover's business, and proxies aren't supported")
        self.pool = pool
        self.client = client
        self.timeout = timeout
        self.wait = wait

    @contextmanager
    def request(
        self,
        method: str,
        target: str,
        body: str | bytes | IO[bytes] | Iterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[HTTPSocketPoolResponse]:
        """Send a request, and give its answer for a ``with`` block, which holds the lease.

        Read what you need of the body within the block. After an exception in it, a kill
        and a timeout included, the connection is closed.

        :param target: path and query.
        :raises PoolTimeout: no connection became idle in time.
        :raises OSError: the connection broke, or the server was silent for too long
            (:class:`TimeoutError`). Nobody knows whether the request was carried out.
        :raises HTTPParseError: the answer isn't HTTP, or ended too early
            (:class:`HTTPConnectionClosed`: before it began). Both speak against the server.
        """
        if method.upper() == "CONNECT":
            raise ValueError("a tunnel would outlive its lease: CONNECT isn't supported")
        sent = {**dict(self.client.default_headers.items()), **(headers or {})}
        keep = not any(says_close(name, [str(value)]) for name, value in sent.items())
        lease = self.pool.lease(self.wait)
        with lease as socket:
            socket.settimeout(self.timeout)
            try:
                response = _request_over(socket, self.client, method, target, body, headers)
                if response.status_code in FAILED_STATUSES:
                    lease.fail()
                yield response
            except HTTPParseError:
                lease.fail()
                raise
            if response.should_close() or not keep:
                # Rather than pool.discard(): the server did answer.
                socket.close()
            response.release()


class _OneConnection(ConnectionPool):
    """The pool that a client has for one request: of one connection, which is leased.

    A client that would send its request again asks for another one, and gets an error.
    Whether the connection is fit for more is seen at the end of the lease.
    """

    def __init__(self, socket: gevent_socket.socket) -> None:
        super().__init__("", 0, "", 0)
        self._sockets = [socket]

    def get_socket(self) -> gevent_socket.socket:
        if not self._sockets:
            raise HTTPConnectionClosed("the connection ended, and the request isn't repeated")
        return self._sockets.pop()

    def return_socket(self, sock: gevent_socket.socket) -> None:
        pass

    def release_socket(self, sock: gevent_socket.socket) -> None:
        pass


def _request_over(
    socket: gevent_socket.socket, client: HTTPClient, *arguments: Any
) -> HTTPSocketPoolResponse:
    """Send a request over this connection, and return its answer when its head is there.

    The one place with private names of geventhttpclient.
    """
    client = copy(client)  # for this request: another greenlet has another connection
    client._connection_pool = pool = _OneConnection(socket)
    response = client.request(*arguments)
    if response._sock is None and not response.message_complete:
        # An interim answer (1xx) came before it, after which the response lets go of its
        # connection: its body would be empty.
        response._sock, response._pool = socket, pool
    return response
