"""What a poll of the status costs each of eight workers with 200 servers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.child import Child, python
from benchmarks.measure import Row, Spread, in_turn

_WORKERS = 8
_SERVERS = 200
_CONNECTIONS = 100

#: Milliseconds of CPU time that a poll may take, on average over the workers.
TARGET = 2.0


class Workers:
    """The workers, and what a poll costs them.

    :param children: the workers.
    :param paths: their sockets.
    :param polls: how many polls a measure takes.
    """

    def __init__(self, children: list[Child], paths: list[str], polls: int) -> None:
        self._children = children
        self._paths = paths
        self._polls = polls
        self._costs: list[float] = []

    def cost(self, paths: list[str]) -> list[float]:
        """Return what a poll of these sockets costs each worker, in ms.

        Between two polls each worker leases each of its connections, so that it has
        something new to say of most servers. That isn't counted.
        """
        with_polls, without = self._cycles(paths), self._cycles([])
        pairs = zip(with_polls, without, strict=True)
        return [(ours - bare) / self._polls * 1e3 for ours, bare in pairs]

    def _cycles(self, paths: list[str]) -> list[float]:
        before = self._lease(0)
        for _ in range(self._polls):
            self._lease(_CONNECTIONS)
            for path in paths:
                _poll(path)
        return [cpu - earlier for cpu, earlier in zip(self._lease(0), before, strict=True)]

    def _lease(self, count: int) -> list[float]:
        return [child.ask({"leases": count}) for child in self._children]

    def alone(self) -> float:
        """Return what a poll of each worker's own socket costs it, on average."""
        return _mean(self.cost(self._paths))

    def asked(self, path: str) -> float:
        """Return what a poll of all workers costs the first one, which asks the others."""
        self._costs = self.cost([path])
        return self._costs[0]

    def together(self) -> float:
        """Return what the latest of these polls cost all workers, on average."""
        return _mean(self._costs)


def measure(rounds: int, *, quick: bool) -> list[Row]:
    servers, workers, polls = (10, 2, 2) if quick else (_SERVERS, _WORKERS, 20)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        ports = stack.enter_context(python("speed.echo", 20)).receive()
        children = []
        for number in range(workers):
            arguments = str(folder / "own"), "" if number else str(folder / "all")
            child = python("metrics.worker", *arguments, ports, servers, _CONNECTIONS)
            children.append(stack.enter_context(child))
        paths = [child.receive() for child in children]
        seen = Workers(children, paths, polls)
        measures: dict[str, Callable[[], float]] = {
            f"a poll of a worker, {servers} servers": seen.alone,
            f"a poll of {workers} workers, the one that is asked": partial(
                seen.asked, str(folder / "all")
            ),
            f"a poll of {workers} workers, mean of all": seen.together,
        }
        figures = in_turn(rounds, measures)
    return [
        Row("polls", name, "ms", TARGET, "figure", figure=Spread.of(figures[name]))
        for name in measures
    ]


def _mean(costs: list[float]) -> float:
    return sum(costs) / len(costs)


def _poll(path: str) -> None:
    """Ask a worker for what it shows, and see that it's whole."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        sock.sendall(b"GET /workers.ndjson HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while chunk := sock.recv(1 << 16):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{path} says {head!r}")
    for line in body.splitlines():
        if "snapshot" not in json.loads(line):
            raise RuntimeError(f"{path} says {line!r}")
