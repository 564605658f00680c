"""Check the recipe for Apache Thrift, or serve with the library's own server.

Usage: thrift_check.py GENERATED serve KIND PORT
       thrift_check.py GENERATED check KIND PID_FILE PORT …
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gevent
from calculator_checks import Checks, Handler
from checking import SLOTS, rover_of
from thrift.protocol.TBinaryProtocol import (
    TBinaryProtocolAcceleratedFactory,
    TBinaryProtocolFactory,
)
from thrift.protocol.TCompactProtocol import TCompactProtocolFactory
from thrift.protocol.TMultiplexedProtocol import TMultiplexedProtocol
from thrift.server.TServer import TThreadedServer
from thrift.TMultiplexedProcessor import TMultiplexedProcessor
from thrift.transport.TSocket import TServerSocket
from thrift.transport.TTransport import TBufferedTransportFactory, TFramedTransportFactory
from thrift_pool import FAILURES, service, thrift_pool

sys.path.insert(0, sys.argv[1])

# What the compiler makes of calculator.thrift, while the tests run.
from calculator import Calculator, ttypes  # type: ignore[import-not-found]

# Each kind of transport, and each kind of protocol.
KINDS = {
    "buffered": (TBufferedTransportFactory, TBinaryProtocolAcceleratedFactory),
    "framed": (TFramedTransportFactory, TBinaryProtocolAcceleratedFactory),
    "plain": (TBufferedTransportFactory, TBinaryProtocolFactory),
    "compact": (TFramedTransportFactory, TCompactProtocolFactory),
    "multiplexed": (TBufferedTransportFactory, TBinaryProtocolAcceleratedFactory),
}


def multiplexed_client(protocol: Any) -> Any:
    return Calculator.Client(TMultiplexedProtocol(protocol, "Calculator"))


def serve(kind: str, port: int) -> None:
    transports, protocols = KINDS[kind]
    processor = Calculator.Processor(Handler(ttypes.DivisionByZero))
    if kind == "multiplexed":
        inner, processor = processor, TMultiplexedProcessor()
        processor.registerProcessor("Calculator", inner)
    server = TThreadedServer(
        processor, TServerSocket("127.0.0.1", port), transports(), protocols(), daemon=True
    )
    server.serve()


def check(kind: str, pid_file: str, *ports: str) -> None:
    transports, protocols = KINDS[kind]
    rover = rover_of(map(int, ports))
    client = multiplexed_client if kind == "multiplexed" else Calculator.Client
    pool = thrift_pool(rover, client, transport=transports(), protocol=protocols(), max_slots=SLOTS)
    with rover, pool:
        checks = Checks(pool, service, ttypes.DivisionByZero, FAILURES)
        with gevent.Timeout(40):
            checks.all(Path(pid_file))
    print(f"Apache Thrift, {kind}: all is well")


if __name__ == "__main__":
    if sys.argv[2] == "serve":
        serve(sys.argv[3], int(sys.argv[4]))
    else:
        check(*sys.argv[3:])
