"""redis-benchmark through each proxy in turn: requests per second, and what they cost it."""

from __future__ import annotations

import csv
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from benchmarks.loopback import Address
from benchmarks.proxying.processes import on_core
from benchmarks.proxying.proxies import (
    Missing,
    front,
    haproxy,
    needed,
    redis_server,
    relay,
    socat,
    wordless_front,
)
from benchmarks.proxying.rows import (
    DIRECTLY,
    FRONT,
    HAPROXY,
    LARGE_HAPROXY,
    RELAY,
    SOCAT,
    TWO_HAPROXIES,
    Measured,
)
from benchmarks.proxying.setup import Setup
from benchmarks.proxying.site import Site
from benchmarks.report import show

PING, GET = "PING", "GET of 64 KiB"
WHAT = (PING, GET)


class _Proxy(Protocol):
    def cpu(self) -> float: ...
    def wait_until_alone(self) -> None: ...


class _Way:
    """How redis is reached: where, and by which processes."""

    def __init__(self, address: Address, *proxies: _Proxy) -> None:
        self.address = address
        self.proxies = proxies

    def cpu(self) -> float:
        for proxy in self.proxies:
            proxy.wait_until_alone()  # What a process costs is known for sure when it's over.
        return sum(proxy.cpu() for proxy in self.proxies)


def measure(setup: Setup, rounds: int, stack: ExitStack) -> dict[str, Measured]:
    """Return what was measured of PING, and of GET."""
    measured = {what: Measured() for what in WHAT}
    try:
        site = Site(setup, stack)
        ways = _ways(site, measured)
        stack.enter_context(on_core(site.other))  # for redis-benchmark
        for number in range(rounds + 1):
            for what in WHAT:
                for peer, way in ways.items():
                    show(f"round {number}/{rounds}: {what}, {peer}")
                    if peer not in measured[what].missing:
                        _turn(setup, measured[what], what, peer, way, warms_up=not number)
    except Missing as exc:
        for each in measured.values():
            each.lacks(str(exc))
    return measured


def _ways(site: Site, measured: dict[str, Measured]) -> dict[str, _Way]:
    """Run all there is, and return the ways to redis, by the peer's name."""
    core, enter = site.proxying, site.stack.enter_context
    needed("redis-benchmark")
    redis = site.address()
    enter(redis_server(redis, site.other))
    _set(redis, site.setup.value)
    ways = {DIRECTLY: _Way(redis)}

    def add(peer: str, *hops: Callable[[Address, Address], AbstractContextManager[_Proxy]]) -> None:
        """Put proxies between the peer's clients and redis, that next to redis first."""
        proxies: list[_Proxy] = []
        behind = redis
        try:
            for hop in hops:
                address = site.address()
                proxies.append(enter(hop(address, behind)))
                behind = address
        except Missing as exc:
            for each in measured.values():
                each.missing[peer] = str(exc)
        else:
            ways[peer] = _Way(behind, *proxies)

    def plain(address: Address, behind: Address) -> AbstractContextManager[_Proxy]:
        return haproxy(address, [behind], core)

    def large(address: Address, behind: Address) -> AbstractContextManager[_Proxy]:
        return haproxy(address, [behind], core, tuning=f"    tune.bufsize {site.setup.value}")

    def relaying(address: Address, behind: Address) -> AbstractContextManager[_Proxy]:
        return relay(address, [behind], site.setup.clients + 14, core)

    add(FRONT, lambda address, behind: wordless_front(address, behind, core))
    add(HAPROXY, plain)
    add(LARGE_HAPROXY, large)
    add(SOCAT, lambda address, behind: socat(address, behind, core))
    add(RELAY, lambda address, behind: front(address, behind, core), relaying)
    add(TWO_HAPROXIES, plain, plain)
    return ways


def _set(redis: Address, size: int) -> None:
    """Set the key that redis-benchmark gets."""
    with socket.create_connection(redis) as sock:
        key = b"key:__rand_int__"
        sock.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, size))
        sock.sendall(b"x" * size + b"\r\n")
        answer = sock.recv(64)
        if answer != b"+OK\r\n":
            raise RuntimeError(f"redis answers {answer!r}")


def _turn(
    setup: Setup, measured: Measured, what: str, peer: str, way: _Way, *, warms_up: bool
) -> None:
    test, count = ("ping_mbulk", setup.pings) if what == PING else ("get", setup.gets)
    count = max(count // 10, setup.clients) if warms_up else count
    cpu = way.cpu()
    try:
        figures = _benchmark(setup, way, test, count)
    except subprocess.TimeoutExpired:
        try:
            cpu = way.cpu()
            figures = _benchmark(setup, way, test, count)
        except subprocess.TimeoutExpired:
            measured.missing[peer] = f"it stalled for {setup.limit:g} s, twice"
            return
    if way.proxies:
        figures["cpu"] = (way.cpu() - cpu) / count * 100_000
    if not warms_up:
        measured.figures.setdefault(peer, []).append(figures)


def _benchmark(setup: Setup, way: _Way, test: str, count: int) -> dict[str, float]:
    """Run redis-benchmark.

    :raises subprocess.TimeoutExpired: it took too long.
    """
    host, port = way.address
    command = [needed("redis-benchmark"), "-h", host, "-p", str(port), "-t", test, "--csv"]
    command += ["-n", str(count), "-c", str(setup.clients)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=setup.limit)
    *_, line = csv.DictReader(done.stdout.splitlines())
    return {
        "requests/s": float(line["rps"]),
        "p50": float(line["p50_latency_ms"]),
        "p99": float(line["p99_latency_ms"]),
    }
