"""What gunicorn runs: an app that leases for each request, and turns its instruments on and off."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from time import process_time
from typing import Any

from benchmarks.metrics.client import MESSAGE
from gevent_rover import Rover, SlotPool, parse_server
from gevent_rover.metrics import Instruments, instrument

rover = Rover(dict(map(parse_server, os.environ["SERVERS"].split(","))))
pool = SlotPool(rover, max_slots=10)
_instruments: list[Instruments] = []


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    answer = _ANSWERS[environ["PATH_INFO"]]()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]


def _request() -> bytes:
    with pool.lease() as socket:
        socket.sendall(MESSAGE)
        return socket.recv(len(MESSAGE))


def _on() -> bytes:
    _instruments.append(instrument(rover, pool))
    rover.wake()  # The first attempt begins the looks.
    return b"on"


def _off() -> bytes:
    while _instruments:
        _instruments.pop().close()
    rover.wake()
    return b"off"


def _cpu() -> bytes:
    return str(process_time()).encode()


_ANSWERS: dict[str, Callable[[], bytes]] = {"/": _request, "/on": _on, "/off": _off, "/cpu": _cpu}
