"""Clients that keep their connections: each sends its next request as soon as it has the answer."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from random import Random
from time import monotonic, process_time

import gevent
from gevent import socket

from benchmarks.measure import percentile
from benchmarks.workers.parameters import Part, Setup
from benchmarks.workers.site import Counts, Servers, Site

_END = b"\r\n0\r\n\r\n"  # of chunks, which is what gunicorn makes of an answer without a length


class Load:
    """The clients of one part, and what they saw."""

    def __init__(self, site: Site, servers: Servers, part: Part, setup: Setup) -> None:
        self._site = site
        self._servers = servers
        self._part = part
        self._setup = setup
        self._stopped = False
        self._latencies: list[float] = []
        self._failures = 0

    def figures(self, seed: int) -> dict[str, float]:
        """Send requests for a while, and return what was measured."""
        part, setup, servers = self._part, self._setup, self._servers
        others = [1.0] * (setup.servers - 1)
        servers.order(slow=[setup.slowness if part.section == "slow" else 1.0, *others])
        clients = [
            gevent.spawn(self._send, Random(f"{seed} {number}")) for number in range(part.clients)
        ]
        try:
            if part.section != "unsettled":
                gevent.sleep(setup.warm_up)
            counts = servers.order(reset=True, failing=[part.section == "fails"])
            self._latencies.clear()
            self._failures = 0
            before = self._times(counts)
            gevent.sleep(part.seconds * setup.scale)
            counts = servers.order(failing=[False])
            ours, busy, total = map(operator.sub, self._times(counts), before)
            received = counts.received
            latencies, failures = self._latencies.copy(), self._failures
            connections = self._site.connections()
            self._stopped = True
            with gevent.Timeout(setup.timeout):
                gevent.joinall(clients, raise_error=True)
        finally:
            gevent.killall(clients)
        return {
            "busiest server": 100 * max(received) / sum(received),
            "first server": 100 * received[0] / sum(received),
            "p50": percentile(latencies, 50) * 1e3,
            "p99": percentile(latencies, 99) * 1e3,
            "requests": len(latencies),
            "failures": failures,
            "busiest worker": 100 * max(connections) / sum(connections),
            "cpu": 100 * ours / total,
            "cpu of others": 100 * max(0.0, busy - ours) / total,
        }

    def _times(self, counts: Counts) -> tuple[float, float, float]:
        """Return CPU time so far, in seconds: of our processes, of all, and what there was."""
        line = Path("/proc/stat").read_text().split("\n", 1)[0]
        times = [int(time) / os.sysconf("SC_CLK_TCK") for time in line.split()[1:9]]
        idle = times[3] + times[4]
        ours = counts.cpu + self._site.cpu() + process_time()
        return ours, sum(times) - idle, sum(times)

    def _send(self, random: Random) -> None:
        query = "?raise" if self._part.raises else ""
        with socket.create_connection(("127.0.0.1", self._site.port)) as sock:
            while not self._stopped:
                work = random.expovariate(1 / self._part.mean)
                began = monotonic()
                sock.sendall(f"GET /{work:.3f}{query} HTTP/1.1\r\nHost: site\r\n\r\n".encode())
                answer = b""
                while not answer.endswith(_END):
                    chunk = sock.recv(4096)
                    if not chunk:
                        raise ConnectionResetError(f"gunicorn hung up after {answer!r}")
                    answer += chunk
                self._latencies.append(monotonic() - began)
                if not answer.startswith(b"HTTP/1.1 200"):
                    self._failures += 1
