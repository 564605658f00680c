"""Check the recipe for thriftpy2, or serve with the library's own server.

Usage: thriftpy2_check.py IDL serve KIND PORT
       thriftpy2_check.py IDL check KIND PID_FILE PORT …
"""

from __future__ import annotations

import sys
from pathlib import Path

import gevent
import thriftpy2
from calculator_checks import Checks, Handler
from checking import SLOTS, rover_of
from thriftpy2.protocol import (
    TBinaryProtocolFactory,
    TCompactProtocolFactory,
    TMultiplexedProtocolFactory,
)
from thriftpy2.protocol.binary import TBinaryProtocolFactory as TPlainBinaryProtocolFactory
from thriftpy2.server import TThreadedServer
from thriftpy2.thrift import TMultiplexedProcessor, TProcessor
from thriftpy2.transport import TBufferedTransportFactory, TFramedTransportFactory, TServerSocket
from thriftpy2.transport.buffered import TBufferedTransportFactory as TPlainBufferedTransportFactory
from thriftpy2_pool import FAILURES, service, thriftpy2_pool

calculator = thriftpy2.load(sys.argv[1], module_name="calculator_thrift")

# Each kind of transport, and each kind of protocol.
KINDS = {
    "buffered": (TBufferedTransportFactory, TBinaryProtocolFactory),
    "framed": (TFramedTransportFactory, TBinaryProtocolFactory),
    "plain": (TPlainBufferedTransportFactory, TPlainBinaryProtocolFactory),
    "compact": (TFramedTransportFactory, TCompactProtocolFactory),
    "multiplexed": (
        TBufferedTransportFactory,
        lambda: TMultiplexedProtocolFactory(TBinaryProtocolFactory(), "Calculator"),
    ),
}


def serve(kind: str, port: int) -> None:
    transports, protocols = KINDS[kind]
    processor = TProcessor(calculator.Calculator, Handler(calculator.DivisionByZero))
    if kind == "multiplexed":
        inner, processor = processor, TMultiplexedProcessor()
        processor.register_processor("Calculator", inner)
        protocols = TBinaryProtocolFactory
    server = TThreadedServer(
        processor,
        # It hangs up on clients that are silent for 3 s, by default.
        TServerSocket("127.0.0.1", port, client_timeout=None),
        iprot_factory=protocols(),
        itrans_factory=transports(),
        daemon=True,
    )
    server.serve()


def check(kind: str, pid_file: str, *ports: str) -> None:
    transports, protocols = KINDS[kind]
    rover = rover_of(map(int, ports))
    pool = thriftpy2_pool(
        rover,
        calculator.Calculator,
        transport=transports(),
        protocol=protocols(),
        max_slots=SLOTS,
    )
    with rover, pool:
        checks = Checks(pool, service, calculator.DivisionByZero, FAILURES)
        with gevent.Timeout(40):
            checks.all(Path(pid_file))
    print(f"thriftpy2, {kind}: all is well")


if __name__ == "__main__":
    if sys.argv[2] == "serve":
        serve(sys.argv[3], int(sys.argv[4]))
    else:
        check(*sys.argv[3:])
