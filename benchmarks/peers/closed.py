"""Requests flat out: greenlets that send the next one as soon as the latest is answered.

On one core, requests per second are what client, HAProxy and servers cost together. On two
cores the client has one for itself, and what decides is also who has to wake whom.
"""

from __future__ import annotations

import gc
from contextlib import ExitStack, closing
from time import perf_counter, process_time

import gevent
from gevent import Timeout

from benchmarks.measure import percentile
from benchmarks.peers.clients import Client
from benchmarks.peers.fleet import REQUEST
from benchmarks.peers.rows import CLOSED, Figures, Rounds
from benchmarks.peers.site import Peer, Setup, Site
from benchmarks.report import show
from gevent_rover import PoolTimeout

_NO_WORK = REQUEST.pack(0.0)


class _Run:
    """One peer's turn."""

    def __init__(self, setup: Setup, client: Client) -> None:
        self._setup = setup
        self._client = client
        self._left = 0
        self.latencies: list[float] = []
        self.failures = 0

    def make(self, count: int) -> None:
        """Make ``count`` requests."""
        self._left = count
        gevent.joinall(
            [gevent.spawn(self._work) for _ in range(self._setup.greenlets)], raise_error=True
        )

    def _work(self) -> None:
        request, took = self._client.request, self.latencies.append
        while self._left > 0:
            self._left -= 1
            began = perf_counter()
            try:
                request(_NO_WORK)
            except (OSError, PoolTimeout):
                self.failures += 1
            else:
                took(perf_counter() - began)


def measure(setup: Setup, scenario: str, rounds: int) -> Rounds:
    """Return the figures of each peer, round by round; a first round warms up."""
    figures: Rounds = {}
    with ExitStack() as stack:
        site = Site(setup, stack, moving=False, cores=CLOSED[scenario])
        for number in range(rounds + 1):
            for peer in site.peers():
                show(f"round {number}/{rounds}: {scenario}, {peer.name}")
                found = _figures(site, peer)
                if number:
                    figures.setdefault(peer.name, []).append(found)
    return figures


def _figures(site: Site, peer: Peer) -> Figures:
    setup = site.setup
    count = setup.requests_once if peer.once else setup.requests
    gc.collect()  # The garbage of one isn't charged to the next.
    with closing(site.client(peer)) as client, Timeout(60):
        _Run(setup, client).make(count // 10)  # Connections that are kept are made here.
        run = _Run(setup, client)
        servers_cpu, proxy_cpu, cpu = site.servers_cpu(), site.proxy_cpu(peer), process_time()
        began = perf_counter()
        run.make(count)
        elapsed = perf_counter() - began
        cpu = process_time() - cpu
        proxy_cpu = site.proxy_cpu(peer) - proxy_cpu
        servers_cpu = site.servers_cpu() - servers_cpu
    return {
        "requests/s": len(run.latencies) / elapsed,
        "client cpu": cpu / count * 1e6,
        "haproxy cpu": proxy_cpu / count * 1e6,
        "servers cpu": servers_cpu / count * 1e6,
        "p50": percentile(run.latencies, 50) * 1e3,
        "p99": percentile(run.latencies, 99) * 1e3,
        "requests": count,
        "failures": run.failures,
    }
