"""``python -m benchmarks.speed.feeding``: what an answer of 10,000 servers costs a process."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from time import monotonic, process_time, thread_time

import gevent

from benchmarks.measure import Spread
from benchmarks.report import about, heading, markdown
from gevent_rover import Server
from gevent_rover.discovery import Apply, Feeder, FileSource, Source


class Registry:
    """What a feeder needs of a rover."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}

    def wake(self) -> None:
        pass


class Answer:
    """A source that knows so many servers at once."""

    def __init__(self, servers: dict[str, Server]) -> None:
        self.servers = servers

    def run(self, apply: Apply) -> None:
        apply(self.servers)


def cpu(source: Source, count: int) -> float:
    """Return the CPU time until all are in the registry, in ms."""
    registry = Registry()
    began = process_time()
    with Feeder(registry, source):
        while len(registry.servers) < count:
            gevent.sleep(0.001)
        return (process_time() - began) * 1000


def longest_step(source: Source, count: int) -> tuple[float, float]:
    """Return for how long the hub was held at most: ms of CPU, and on the clock."""
    registry = Registry()
    steps: list[tuple[float, float]] = []

    def tick() -> None:
        while True:
            began = thread_time(), monotonic()
            gevent.sleep(0)
            steps.append((thread_time() - began[0], monotonic() - began[1]))

    ticking = gevent.spawn(tick)
    with Feeder(registry, source):
        while len(registry.servers) < count:
            gevent.sleep(0.001)
    ticking.kill()
    return max(step for step, _ in steps) * 1000, max(step for _, step in steps) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.feeding")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--servers", type=int, default=10_000)
    options = parser.parse_args()
    servers: dict[str, Server] = {
        f"web{n}": {"host": f"10.0.{n >> 8 & 255}.{n & 255}", "port": 7000 + n % 1000}
        for n in range(options.servers)
    }
    with tempfile.NamedTemporaryFile("w") as file:
        for id, server in servers.items():
            file.write(f"{id}={server['host']}:{server['port']}\n")
        file.flush()
        sources: dict[str, Callable[[], Source]] = {
            "an answer": lambda: Answer(servers),
            "a file of lines": lambda: FileSource(file.name),
        }
        lines: list[tuple[str, ...]] = [
            (
                f"{options.servers:,} servers in",
                "CPU (ms)",
                "longest step (ms of CPU)",
                "(on the clock)",
            )
        ]
        for name, make in sources.items():
            rounds = range(options.rounds)
            cpu(make(), len(servers))  # It warms up.
            took = Spread.of([cpu(make(), len(servers)) for _ in rounds])
            steps = [longest_step(make(), len(servers)) for _ in rounds]
            held = [str(Spread.of(list(each))) for each in zip(*steps, strict=True)]
            lines.append((name, str(took), *held))
    print(heading(about("benchmarks.speed.feeding", options.rounds)))
    print(markdown(lines))


if __name__ == "__main__":
    main()
