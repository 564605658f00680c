"""The example's app as gunicorn runs it here: with a pool of another kind, if PEER says so.

gunicorn runs in the example's folder, with the example's own conf.py, and a
request is answered by the example's own code. With PEER=ours nothing of it is changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from benchmarks.workers.by_hand import TwoChoices
from benchmarks.workers.parameters import BY_HAND, LOWEST
from benchmarks.workers.servers import ERROR
from gevent_rover import LowestSlot, SlotPool

example: Any = import_module("app")

if os.environ["PEER"] == LOWEST:
    max_slots = example.pool.max_slots
    example.pool.close()
    example.pool = SlotPool(example.rover, max_slots=max_slots, choice=LowestSlot())
elif os.environ["PEER"] == BY_HAND:
    example.pool.close()
    example.pool = example.rover = TwoChoices(example.servers)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer as the example does; with ``?raise`` as one that knows an error when it sees it."""
    answer = _raising if environ["QUERY_STRING"] == "raise" else example.application
    found: Iterable[bytes] = answer(environ, start_response)
    return found


def _raising(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    try:
        with example.pool.lease() as socket:
            socket.sendall(environ["PATH_INFO"].encode("latin-1") + b"\r\n")
            answer: bytes = socket.recv(4096)
            if answer in (b"", ERROR):
                raise ConnectionError("the server failed")
    except OSError as exc:
        start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
        return [f"{exc}\n".encode()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer]
