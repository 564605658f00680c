"""A pool of thriftpy2 clients: each call at the server with the least load.

``calculator = thriftpy2.load("calculator.thrift", module_name="calculator_thrift")``. ::

    pool = thriftpy2_pool(rover, calculator.Calculator, max_slots=10)
    answers = service(pool, timeout=2.0)
    try:
        print(answers.divide(6, 3))
    except calculator.DivisionByZero as exc:  # An answer: the connection went back.
        print(exc.message)

    with pool.lease() as client:  # Several calls on one connection.
        client.note("a")
        client.note("b")

What an exception of a call means:

- one that the IDL declares, and a ``TApplicationException``: the server's answer.
- ``TTransportException``, ``TProtocolException``, ``ProtocolError``, ``OSError``: no answer, or
  none that can be read. The connection is closed, and that counts against its server. The
  server may have done what it was asked for; nothing is tried again.
- any other, a kill among them: the connection is closed if the request is under way.

Out of the block of a lease any of them closes the connection: catch the answers inside.

Of a oneway call nobody knows whether it arrived.

Servers of thriftpy2 hang up on clients that were silent for 3 s, by default. The pool replaces
such connections, but a request that crosses the end fails: make servers with
``client_timeout=None``.

It doesn't do HTTP and ``thriftpy2.contrib.aio``. For one of several services on a port, give
``protocol=TMultiplexedProtocolFactory(TBinaryProtocolFactory(), "name")``.

Needs ``service_calls.py``, its neighbour: copy it along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from gevent import Timeout
from gevent.socket import socket as Socket
from service_calls import NumberedProtocol, PooledConnection, Service, client_pool
from thriftpy2.protocol import TBinaryProtocolFactory
from thriftpy2.protocol.cybin import ProtocolError
from thriftpy2.protocol.exc import TProtocolException
from thriftpy2.thrift import TClient, TMessageType
from thriftpy2.transport import TBufferedTransportFactory, TSocket, TTransportException

from gevent_rover import Rover, SlotPool

#: What speaks against a server. None of thriftpy2's own is an OSError.
FAILURES: Final = (TTransportException, TProtocolException, ProtocolError, OSError, Timeout)


def thriftpy2_pool(
    rover: Rover,
    service: Any,
    *,
    transport: Any = None,
    protocol: Any = None,
    failures: Sequence[type[BaseException]] = FAILURES,
    **options: Any,
) -> SlotPool[Any]:
    """Make a pool whose ``lease()`` gives clients of a service.

    :param service: the service of a module that ``thriftpy2.load`` made of an IDL.
    :param transport: a factory of the server's kind: ``TFramedTransportFactory()``, say.
        Default: ``TBufferedTransportFactory()``, which is compiled, as the protocol.
    :param protocol: a factory, too. Default: ``TBinaryProtocolFactory()``.
    :param options: ``setup``, ``check`` and ``check_after``, as in
        :func:`service_calls.client_pool`; others are those of :class:`SlotPool`.
    """
    transports = transport or TBufferedTransportFactory()
    protocols = protocol or TBinaryProtocolFactory()

    def client_over(connection: PooledSocket) -> Any:
        inner = protocols.get_protocol(transports.get_transport(connection))
        return TClient(service, Thriftpy2Protocol(inner, connection))

    return client_pool(rover, PooledSocket, client_over, failures=failures, **options)


def service(
    pool: SlotPool[Any],
    *,
    timeout: float | None = 10.0,
    wait: float | None = 5.0,
    failures: Sequence[type[Exception]] = (),
) -> Any:
    """Return a :class:`service_calls.Service`, which has the methods of the pool's clients."""
    return _Service(pool, timeout=timeout, wait=wait, failures=tuple(failures))


class _Service(Service):
    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name == "close":  # The client's: an IDL's own is `tclose`.
            raise AttributeError(name)
        return super().__getattr__(name)


class PooledSocket(PooledConnection, TSocket):  # type: ignore[misc]  # looked at without annotations
    transport_error = TTransportException
    protocol_error = TProtocolException

    def __init__(self, socket: Socket) -> None:
        PooledConnection.__init__(self)
        TSocket.__init__(self, sock=socket)

    @property
    def closed(self) -> bool:
        return self.sock is None

    def flush(self) -> None:
        """Note that a request was sent: the transports call it when all of it was written."""
        super().flush()
        self.sent()


class Thriftpy2Protocol(NumberedProtocol):
    def write_message_begin(self, name: str, ttype: int, seqid: int) -> None:
        number = self._connection.begin(oneway=ttype == TMessageType.ONEWAY)
        self._protocol.write_message_begin(name, ttype, number)

    def read_message_begin(self) -> tuple[str, int, int]:
        name, ttype, number = self._protocol.read_message_begin()
        self._connection.check_number(number)
        return name, ttype, number

    def read_message_end(self) -> None:
        self._protocol.read_message_end()
        self._connection.end()
