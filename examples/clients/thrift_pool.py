"""A pool of Apache Thrift clients: each call at the server with the least load.

``thrift`` makes ``Calculator`` of examples/clients/calculator.thrift: ``thrift --gen py``. ::

    pool = thrift_pool(rover, Calculator.Client, max_slots=10)
    calculator = service(pool, timeout=2.0)
    try:
        print(calculator.divide(6, 3))
    except DivisionByZero as exc:  # An answer: the connection went back.
        print(exc.message)

    with pool.lease() as client:  # Several calls on one connection.
        client.note("a")
        client.note("b")

What an exception of a call means:

- one that the IDL declares, and a ``TApplicationException``: the server's answer.
- ``TTransportException``, ``TProtocolException``, ``OSError``, ``EOFError``: no answer, or none
  that can be read. The connection is closed, and that counts against its server. The
  server may have done what it was asked for; nothing is tried again.
- any other, a kill among them: the connection is closed if the request is under way.

Out of the block of a lease any of them closes the connection: catch the answers inside.

Of a oneway call nobody knows whether it arrived.

It doesn't do requests in advance (``send_…()`` and ``recv_…()``, several at a time), HTTP and
``THeaderProtocol``. ``TMultiplexedProtocol`` works: let ``client`` be a function that makes it.

Needs ``service_calls.py``, its neighbour: copy it along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast

from gevent import Timeout
from gevent.socket import socket as Socket
from service_calls import NumberedProtocol, PooledConnection, Service, client_pool
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAcceleratedFactory
from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TMessageType
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TBufferedTransportFactory, TTransportException

from gevent_rover import Rover, SlotPool

Client = TypeVar("Client")

#: What speaks against a server. None of thrift's own is an OSError.
FAILURES: Final = (TTransportException, TProtocolException, OSError, EOFError, Timeout)


def thrift_pool(
    rover: Rover,
    client: Callable[[Any], Client],
    *,
    transport: Any = None,
    protocol: Any = None,
    failures: Sequence[type[BaseException]] = FAILURES,
    **options: Any,
) -> SlotPool[Client]:
    """Make a pool whose ``lease()`` gives clients of a service.

    :param client: the generated class, or what else makes a client of a protocol.
    :param transport: a factory of the server's kind: ``TFramedTransportFactory()``, say.
        Default: ``TBufferedTransportFactory()``.
    :param protocol: a factory, too. Default: ``TBinaryProtocolAcceleratedFactory()``.
    :param options: ``setup``, ``check`` and ``check_after``, as in
        :func:`service_calls.client_pool`; others are those of :class:`SlotPool`.
    """
    transports = transport or TBufferedTransportFactory()
    protocols = protocol or TBinaryProtocolAcceleratedFactory()

    def client_over(connection: PooledSocket) -> Client:
        inner = protocols.getProtocol(transports.getTransport(connection))
        return client(ThriftProtocol(inner, connection))

    return client_pool(rover, PooledSocket, client_over, failures=failures, **options)


def service(
    pool: SlotPool[Client],
    *,
    timeout: float | None = 10.0,
    wait: float | None = 5.0,
    failures: Sequence[type[Exception]] = (),
) -> Client:
    """Return a :class:`service_calls.Service`, which has the methods of the pool's clients."""
    made = Service(pool, timeout=timeout, wait=wait, failures=tuple(failures))
    return cast("Client", made)


class PooledSocket(PooledConnection, TSocket):  # type: ignore[misc]  # thrift has no annotations
    transport_error = TTransportException
    protocol_error = TProtocolException

    def __init__(self, socket: Socket) -> None:
        PooledConnection.__init__(self)
        TSocket.__init__(self)
        self.setHandle(socket)

    @property
    def closed(self) -> bool:
        return self.handle is None

    def flush(self) -> None:
        """Note that a request was sent: the transports call it when all of it was written."""
        super().flush()
        self.sent()


class ThriftProtocol(NumberedProtocol):
    def writeMessageBegin(self, name: str, type: int, seqid: int) -> None:
        number = self._connection.begin(oneway=type == TMessageType.ONEWAY)
        self._protocol.writeMessageBegin(name, type, number)

    def readMessageBegin(self) -> tuple[str, int, int]:
        name, type, number = self._protocol.readMessageBegin()
        self._connection.check_number(number)
        return name, type, number

    def readMessageEnd(self) -> None:
        self._protocol.readMessageEnd()
        self._connection.end()
