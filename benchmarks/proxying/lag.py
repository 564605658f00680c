"""How late a front's hub is while one pair is busy, and while thousands come or are idle."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic

from benchmarks.child import Child
from benchmarks.loopback import descriptors
from benchmarks.proxying.memory import open_pair, wait_for
from benchmarks.proxying.processes import child_on, on_core
from benchmarks.proxying.rows import FRONT, Measured
from benchmarks.proxying.setup import Setup
from benchmarks.proxying.site import Site
from benchmarks.report import show

_MESSAGE = b"x" * 32


def measure(setup: Setup, rounds: int) -> dict[str, Measured]:
    """Return what was measured, by what was going on; with idle pairs and a busy one at last."""
    measured: dict[str, Measured] = {}
    count = descriptors(2 * setup.idle) // 2
    for number in range(rounds):
        show(f"round {number + 1}/{rounds}: lag")
        with ExitStack() as stack:
            for what, figures in _lags(Site(setup, stack), count).items():
                each = measured.setdefault(what, Measured())
                each.figures.setdefault(FRONT, []).append(figures)
    return measured


def _lags(site: Site, count: int) -> dict[str, dict[str, float]]:
    address, behind = site.address(), site.address()
    found: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(on_core(site.other))  # This process is the clients.
        backend = enter(child_on(site.other, "proxying.backend", behind))
        backend.receive()
        front = enter(child_on(site.proxying, "proxying.front", address, behind, True))
        front.receive()
        busy = stack.enter_context(open_pair(address, says_slots=True))
        busy.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        seconds = site.setup.watched
        found["one busy pair alone"] = _watched(front, lambda: _exchange(busy, seconds))

        def come() -> float:
            began = monotonic()
            for _ in range(count):
                stack.enter_context(open_pair(address, says_slots=True))
            wait_for(backend, count + 1)
            return count / (monotonic() - began)

        found[f"{count:,} pairs come"] = _watched(front, come)
        busy_beside_idle = f"{count:,} idle pairs and one busy"
        found[busy_beside_idle] = _watched(front, lambda: _exchange(busy, seconds))
    return found


def _watched(front: Child, work: Callable[[], float]) -> dict[str, float]:
    """Do some work, and return how late the front's hub was meanwhile.

    :param work: returns how often it did something a second.
    """
    front.ask({"watch": True})
    rate = work()
    return {**front.ask({"watch": False}), "rate": rate}


def _exchange(busy: socket.socket, seconds: float) -> float:
    """Make requests, each as soon as the latest is answered; return how many a second."""
    made = 0
    end = monotonic() + seconds
    while monotonic() < end:
        busy.sendall(_MESSAGE)
        if len(busy.recv(64)) != len(_MESSAGE):
            raise ConnectionError("the answer isn't whole")
        made += 1
    return made / seconds
