"""HTTP requests by urllib3 and requests, each over a leased connection.

With urllib3, a connection pool that has no connections of its own::

    users = SlotHTTPConnectionPool(SlotPool(rover), "users.internal")
    print(users.request("GET", "/users/1").json())

With requests, a transport adapter::

    session = requests.Session()
    session.mount("http://users.internal/", SlotAdapter(SlotPool(rover), "users.internal"))
    print(session.get("http://users.internal/users/1").json())

Needs ``http_client_pool.py``, its neighbour, for what both know of HTTP: copy it along.

Each request leases a connection as it connects. It goes back to the pool as soon as the
answer's body was read to its end (at once, unless it's streamed), if neither side said
``Connection: close``. Else it's closed: by an error, a kill, ``close()`` or
``release_conn()`` of an unread response, or once a response that was dropped is collected.
So close what you stream: it holds its lease.

No request is sent a second time unless you pass ``retries`` to urllib3 yourself. urllib3
follows redirects within the service, requests all of them. It knows no proxies, tunnels or
upgrades. TLS is the rover's: the adapter is mounted at ``http://`` in any case.
"""

from __future__ import annotations

import queue
import sys
import weakref
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import gevent
from gevent import socket as gevent_socket
from http_client_pool import FAILED_STATUSES, Response, says_close
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidURL
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPResponse, Retry
from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from gevent_rover import PoolError, PoolTimeout, SlotPool

# What speaks against a server if it ends a request.
_FAILURES: Final = (OSError, EOFError, gevent.Timeout, ReadTimeoutError, ProtocolError)


class LeasedConnection(HTTPConnection):
    """A connection for one request, which is leased when it connects.

    :param slots: the pool.
    :param wait: seconds to wait for a connection, if the connect timeout isn't shorter.
    """

    response_class = Response

    def __init__(
        self, host: str, port: int | None = None, *, slots: SlotPool, wait: float, **options: Any
    ) -> None:
        super().__init__(host, port, **options)
        self._slots = slots
        self._wait = wait
        self._leased: gevent_socket.socket | None = None
        self._answering = False
        self._failed = False  # The server is to blame.
        self._keep = True
        # Weakly: a response that its user drops closes its connection.
        self._answer: weakref.ref[HTTPResponse] | None = None

    # What http.client and urllib3 call

    def connect(self) -> None:
        """Lease a connection.

        :raises ConnectTimeoutError: none became idle in time.
        :raises NewConnectionError: the pool is closed, or too many wait already.
        """
        assert self.timeout is None or isinstance(self.timeout, (int, float))
        wait = self._wait if self.timeout is None else min(self._wait, self.timeout)
        try:
            self._leased = self._slots.acquire(wait)
        except PoolTimeout as exc:
            raise ConnectTimeoutError(self, str(exc)) from exc
        except PoolError as exc:
            raise NewConnectionError(self, str(exc)) from exc
        self.auto_open = 0  # Never a second one, in the middle of a request.
        self.sock = self._leased
        self._leased.settimeout(self.timeout)
        self._loop = gevent.get_hub().loop

    def putheader(self, header: Any, *values: Any) -> None:
        super().putheader(header, *values)
        if says_close(_text(header), [_text(value) for value in values]):
            self._keep = False

    def send(self, data: Any) -> None:
        try:
            super().send(data)
        except OSError:
            self._keep = False  # urllib3 may still find an answer.
            raise

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3
        self._answering = True
        try:
            response = super().getresponse()
        finally:
            self._answering = False
        self._answer = weakref.ref(response)
        self._failed = response.status in FAILED_STATUSES
        return response

    def close(self) -> None:
        """Close the connection, for an error or for one who doesn't read on."""
        super().close()
        # http.client closes before the body is read if that ends with the connection.
        if self._answering or self._leased is None:
            return
        kind = sys.exc_info()[0] or GeneratorExit
        # The very ValueError: urllib3 closes in its handler where a chunk's length is none.
        failed = self._failed or issubclass(kind, _FAILURES) or kind is ValueError
        leased, self._leased = self._leased, None
        # The collector may call this at any point, in any thread, for a response that was
        # dropped: in the midst of a step of the pool, too.
        self._loop.run_callback_threadsafe(partial(self._slots.discard, leased, failed=failed))

    # What its pool calls

    def give_back(self) -> None:
        """End the lease; keep the connection if its answer was read to the end."""
        leased, self._leased = self._leased, None
        if leased is None:  # closed already
            return
        answer = None if self._answer is None else self._answer()
        if not self._keep or answer is None or not answer.isclosed():
            super().close()
        self.sock = None
        # Closes what is closed. It isn't discarded: the server did answer.
        self._slots.release(leased, failed=self._failed)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class _GivesBack(queue.LifoQueue[Any]):
    """What urllib3 keeps idle connections in: it keeps none, and gives them back."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        raise queue.Empty

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if item is not None:  # A failed request's place.
            item.give_back()


class NoRetry(Retry):
    """Follows redirects, and repeats no request for any other reason."""

    def __init__(self, total: Any = None, **options: Any) -> None:
        defaults = {"connect": False, "read": False, "other": 0, "status": 0, "redirect": 5}
        super().__init__(total, **{**defaults, "respect_retry_after_header": False, **options})

    def sleep_for_retry(self, response: BaseHTTPResponse) -> bool:
        """Don't sleep: a redirect with ``Retry-After`` would block the hub."""
        return False


class SlotHTTPConnectionPool(HTTPConnectionPool):
    """A connection pool of urllib3 whose connections come from a slot pool.

    :param slots: of sockets, so one without a ``setup``. It stays its owner's to close.
    :param host: the name of the service, for the ``Host`` header: that of all its servers.
    :param port: its port, if the header is to say one.
    :param timeout: seconds for which a server may be silent; None: for ever.
    :param wait: seconds to wait for a connection.

    ``ConnectTimeoutError`` says that no connection became idle in time, ``ProtocolError``
    and ``ReadTimeoutError`` that nobody knows whether the request was carried out.
    """

    ConnectionCls = LeasedConnection
    QueueCls = _GivesBack

    def __init__(
        self,
        slots: SlotPool,
        host: str,
        port: int | None = None,
        *,
        timeout: float | None = 10.0,
        wait: float = 5.0,
        **options: Any,
    ) -> None:
        options.setdefault("retries", NoRetry())
        super().__init__(host, port, timeout=timeout, slots=slots, wait=wait, **options)


class SlotAdapter(HTTPAdapter):  # type: ignore[misc]  # requests has no annotations
    """A transport adapter of requests whose connections come from a slot pool.

    Mount it at the service's name. Proxies of the environment are left aside.

    :param timeout: seconds for which a server may be silent where the request doesn't say.

    Other parameters are those of :class:`SlotHTTPConnectionPool`. Each raises what requests
    raises: ``ConnectTimeout`` if no connection became idle in time, ``ConnectionError`` and
    ``ReadTimeout`` if nobody knows whether the request was carried out.
    """

    def __init__(
        self,
        slots: SlotPool,
        host: str,
        port: int | None = None,
        *,
        timeout: float | None = 10.0,
        wait: float = 5.0,
    ) -> None:
        super().__init__()
        self.timeout = timeout
        self.connections = SlotHTTPConnectionPool(slots, host, port, wait=wait)

    def send(
        self,
        request: Any,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Any:
        url = urlsplit(request.url)
        if url.scheme != "http" or url.hostname != self.connections.host:
            # Else it would be answered by this service, whoever was asked.
            raise InvalidURL(f"{request.url} isn't at http://{self.connections.host}/")
        if timeout is None:
            timeout = self.timeout
        return super().send(request, stream, timeout, verify, cert, proxies=None)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        return self.connections

    # Its name before requests 2.32.
    get_connection = get_connection_with_tls_context
