"""What a proxy's memory grows by for each pair of connections that is idle."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager, ExitStack
from time import monotonic, sleep

from benchmarks.child import Child
from benchmarks.loopback import Address, descriptors
from benchmarks.proxying.processes import Process, child_on, on_core
from benchmarks.proxying.proxies import Missing, front, haproxy, socat
from benchmarks.proxying.rows import FRONT, HAPROXY, SOCAT, Measured
from benchmarks.proxying.setup import Setup
from benchmarks.proxying.site import Site
from benchmarks.report import show

PEERS = (FRONT, HAPROXY, SOCAT)


def measure(setup: Setup, rounds: int) -> Measured:
    """Return what was measured, each time of a new process."""
    measured = Measured()
    for number in range(rounds):
        for peer in PEERS:
            show(f"round {number + 1}/{rounds}: memory, {peer}")
            with ExitStack() as stack:
                try:
                    figures = _growth(Site(setup, stack), peer)
                except Missing as exc:
                    measured.missing[peer] = str(exc)
                else:
                    measured.figures.setdefault(peer, []).append(figures)
    return measured


def open_pair(address: Address, *, says_slots: bool) -> socket.socket:
    """Connect through a proxy; where it says slots, the slot line is read."""
    sock = socket.create_connection(address, timeout=30)
    line = b"" if says_slots else b"\n"
    while not line.endswith(b"\n"):
        data = sock.recv(64)
        if not data:
            raise ConnectionResetError("the front has no slot")
        line += data
    return sock


def wait_for(backend: Child, count: int) -> None:
    """Wait until so many connections have reached the backend."""
    deadline = monotonic() + 60
    while backend.ask({}) < count:
        if monotonic() > deadline:
            raise RuntimeError(f"fewer than {count} connections reach the backend")
        sleep(0.01)


def _growth(site: Site, peer: str) -> dict[str, float]:
    setup = site.setup
    pairs = setup.socat_pairs if peer == SOCAT else descriptors(2 * setup.pairs) // 2
    address, behind = site.address(), site.address()
    with ExitStack() as stack:
        stack.enter_context(on_core(site.other))  # This process is the clients.
        backend = stack.enter_context(child_on(site.other, "proxying.backend", behind))
        backend.receive()
        process = stack.enter_context(_proxy(site, peer, address, behind, pairs))
        says_slots = peer == FRONT
        # What is allocated once doesn't count.
        stack.enter_context(open_pair(address, says_slots=says_slots))
        wait_for(backend, 1)
        sleep(0.2)  # That by which it was seen to accept ends meanwhile.
        resident, private = process.memory()
        for _ in range(pairs):
            stack.enter_context(open_pair(address, says_slots=says_slots))
        wait_for(backend, pairs + 1)
        sleep(0.2)
        resident_then, private_then = process.memory()
    return {
        "resident": (resident_then - resident) / pairs / 1e3,
        "private": (private_then - private) / pairs / 1e3,
        "pairs": pairs,
    }


def _proxy(
    site: Site, peer: str, address: Address, backend: Address, pairs: int
) -> AbstractContextManager[Process]:
    if peer == FRONT:
        return front(address, backend, site.proxying)
    if peer == HAPROXY:
        return haproxy(address, [backend], site.proxying, maxconn=pairs + 100)
    return socat(address, backend, site.proxying)
