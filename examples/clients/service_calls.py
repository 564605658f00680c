"""Calls of a Thrift service, each over a leased connection, whichever library makes them.

It's what ``thrift_pool.py`` and ``thriftpy2_pool.py`` have in common: copy it along.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Final, TypeVar

from gevent import Timeout
from gevent.socket import socket as Socket

from gevent_rover import Rover, Slot, SlotPool

Client = TypeVar("Client")

#: The attribute of a client that has its connection.
_CONNECTION: Final = "_pooled_connection"


class PooledConnection:
    """One connection, and whether a request is under way on it. It's never opened again.

    A request is under way from its first byte until its answer was read to the end, or, if
    it's oneway, until it was sent. Only outside of that can the connection be used again.

    A base class beside the library's ``TSocket``.
    """

    #: The library's exceptions.
    transport_error: ClassVar[Any]
    protocol_error: ClassVar[Any]

    def __init__(self) -> None:
        self.under_way = False
        self.used = monotonic()
        self._oneway = False
        self._number = 0

    @property
    def closed(self) -> bool:
        """Whether it has no socket any more."""
        raise NotImplementedError

    def open(self) -> None:
        """Refuse: another connection would be none of the pool's."""
        message = "the pool makes the connections: lease another one"
        raise self.transport_error(self.transport_error.NOT_OPEN, message)

    def begin(self, *, oneway: bool) -> int:
        """Begin a request, and return its number.

        :raises TTransportException: another one is under way, or has failed.
        """
        if self.under_way or self.closed:
            message = "a request is under way on this connection, or failed: lease another one"
            raise self.transport_error(self.transport_error.NOT_OPEN, message)
        self.under_way, self._oneway = True, oneway
        self._number = self._number % 0x7FFFFFFF + 1
        return self._number

    def sent(self) -> None:
        """End the request if it's oneway."""
        if self._oneway:
            self.end()

    def check_number(self, number: int) -> None:
        """See that an answer is the one to the request that is under way.

        :raises TProtocolException: it isn't.
        """
        if not self.under_way or number != self._number:
            message = f"the server answered request {number}, but {self._number} is the latest"
            raise self.protocol_error(self.protocol_error.INVALID_DATA, message)

    def end(self) -> None:
        """End the request: the connection can be used again."""
        self.under_way = self._oneway = False
        self.used = monotonic()


class NumberedProtocol:
    """A protocol that numbers its requests, and takes only their own answers.

    Clients number all of theirs 0, and look at no number of an answer. What begins and ends
    messages is for a subclass: each library has its own names for it.
    """

    def __init__(self, protocol: Any, connection: PooledConnection) -> None:
        self._protocol = protocol
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol, name)


def client_pool(
    rover: Rover,
    connection_over: Callable[[Socket], PooledConnection],
    client_over: Callable[[Any], Client],
    *,
    setup: Callable[[Client], object] | None = None,
    check: Callable[[Client], object] | None = None,
    check_after: float = 0.0,
    **options: Any,
) -> SlotPool[Client]:
    """Make a pool whose ``lease()`` gives clients of a service.

    :param connection_over: makes a library's connection of a socket.
    :param client_over: makes a client of that.
    :param setup: called once with each new client, before it's leased: to log in, say.
    :param check: called with the client before a lease: a ping of your service, say.
    :param check_after: seconds since the latest call for which there's no ``check``.
    :param options: those of :class:`SlotPool`.
    """

    def make(socket: Socket, slot: Slot) -> Client:
        connection = connection_over(socket)
        client = client_over(connection)
        setattr(client, _CONNECTION, connection)
        if setup is not None:
            setup(client)
        return client

    def is_fit(client: Client) -> object:
        connection: PooledConnection = getattr(client, _CONNECTION)
        if connection.under_way:  # Its latest user swallowed an error, or didn't wait.
            return False
        if check is None or monotonic() - connection.used < check_after:
            return True
        return check(client)

    return SlotPool(rover, setup=make, check=is_fit, **options)


class Service:
    """Has the methods of a pool's clients, and leases a connection for each call.

    After an answer the connection goes back, whether it's a result or an exception. It may
    be used by any number of greenlets at a time.

    :param timeout: seconds for each call, on the connection; then a ``TTransportException``
        says ``TIMED_OUT``. None: no limit.
    :param wait: seconds to wait for a connection; then it's a :class:`PoolTimeout`.
    :param failures: the answers that speak against the server: ``TApplicationException``,
        say, which is also what a handler's bug becomes.
    """

    def __init__(
        self,
        pool: SlotPool[Any],
        *,
        timeout: float | None = 10.0,
        wait: float | None = 5.0,
        failures: tuple[type[Exception], ...] = (),
    ) -> None:
        self._pool = pool
        self._timeout = timeout
        self._wait = wait
        self._failures = failures

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self._call(name, args, kwargs)

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        lease = self._pool.lease(self._wait)
        deadline = Timeout(self._timeout)
        with lease as client:
            connection: PooledConnection = getattr(client, _CONNECTION)
            try:
                with deadline:
                    result = getattr(client, name)(*args, **kwargs)
                if connection.under_way:
                    raise RuntimeError(f"{name}() doesn't wait for its answer: lease a client")
                return result
            except Timeout as exc:
                if exc is not deadline:
                    raise
                error = connection.transport_error
                message = f"{name}() took longer than {self._timeout} s"
                raise error(error.TIMED_OUT, message) from None
            except Exception as exc:
                if connection.under_way:
                    raise
                answer = exc
                if isinstance(exc, self._failures):
                    lease.fail()
        try:
            raise answer  # Outside of the block, which would close the connection.
        finally:
            del answer  # It has this frame in its traceback: a circle.
