"""Which of four servers the requests go to when one of them is slow."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from time import sleep
from typing import Any

from benchmarks.loopback import Address
from benchmarks.proxying.processes import Process, child_on
from benchmarks.proxying.proxies import Missing, front, haproxy, redis_server, relay
from benchmarks.proxying.rows import LEAST, POOL, RELAYED, TURNS, Measured
from benchmarks.proxying.setup import Setup
from benchmarks.proxying.site import Site
from benchmarks.report import show

PEERS = (RELAYED, LEAST, TURNS, POOL)
_BALANCE = {LEAST: "leastconn", TURNS: "roundrobin"}


def measure(setup: Setup, rounds: int, stack: ExitStack) -> Measured:
    """Return what the client measured. The clients' core is that which else is the proxies'."""
    measured = Measured()
    if find_spec("redis") is None:
        measured.lacks("redis-py isn't installed: it's in the extra clients")
        return measured
    site = Site(setup, stack)
    try:
        servers, fronts = _servers(site)
    except Missing as exc:
        measured.lacks(str(exc))
        return measured
    for number in range(rounds):
        for peer in PEERS:
            show(f"round {number + 1}/{rounds}: balance, {peer}")
            try:
                figures = _turn(site, peer, servers, fronts)
            except Missing as exc:
                measured.missing[peer] = str(exc)
            else:
                measured.figures.setdefault(peer, []).append(figures)
    return measured


def _servers(site: Site) -> tuple[list[Address], list[Address]]:
    """Run the servers and a front for each; return where either are. The last one is slow."""
    enter, core = site.stack.enter_context, site.other
    servers, fronts = [], []
    for number in range(site.setup.servers):
        servers.append(site.address())
        enter(redis_server(servers[-1], core))
        _name(servers[-1], number)
    redis, servers[-1] = servers[-1], site.address()
    delay = site.setup.delay
    enter(child_on(core, "proxying.delaying", servers[-1], redis, delay)).receive()
    for server in servers:
        fronts.append(site.address())
        enter(front(fronts[-1], server, core))
    return servers, fronts


def _name(server: Address, number: int) -> None:
    with socket.create_connection(server) as sock:
        sock.sendall(b"SET server %d\r\n" % number)
        answer = sock.recv(64)
        if answer != b"+OK\r\n":
            raise RuntimeError(f"redis answers {answer!r}")


def _turn(site: Site, peer: str, servers: list[Address], fronts: list[Address]) -> dict[str, Any]:
    setup, address = site.setup, site.address()
    proxy: AbstractContextManager[object] = nullcontext()
    if peer == RELAYED:
        proxy = _full_relay(address, fronts, setup.max_slots, site.other)
    elif peer in _BALANCE:
        proxy = haproxy(address, servers, site.other, balance=_BALANCE[peer])
    way, addresses = ("pooled", fronts) if peer == POOL else ("proxied", [address])
    arguments = (way, addresses, asdict(setup))
    with proxy, child_on(site.proxying, "proxying.client", *arguments) as client:
        figures: dict[str, Any] = client.receive()
    return figures


@contextmanager
def _full_relay(
    address: Address, fronts: list[Address], max_slots: int, core: int
) -> Iterator[Process]:
    with relay(address, fronts, max_slots, core) as process:
        sleep(0.5)  # A full pool takes some milliseconds.
        yield process
