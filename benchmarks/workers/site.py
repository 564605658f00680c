"""A real gunicorn that runs the example, and the slot servers that it asks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, NamedTuple

import gevent

from benchmarks.child import Child
from benchmarks.workers.parameters import BY_HAND, Setup

ROOT = Path(__file__).parents[2]


class Counts(NamedTuple):
    """The servers' CPU time so far, in seconds, and the requests and connections of each."""

    cpu: float
    received: list[int]
    connections: list[int]


class Servers:
    """The process of slot servers."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.ports: list[int] = child.receive()

    def order(self, **order: Any) -> Counts:
        """Give an order, and return what they say to it. The hub doesn't wait."""
        return Counts(*gevent.get_hub().threadpool.apply(self._child.ask, (order,)))

    @property
    def connections(self) -> int:
        """How many connections they have, all together."""
        return sum(self.order().connections)


class Site:
    """A gunicorn whose workers are all up."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, setup: Setup) -> None:
        self._process = process
        self._log = log
        self._setup = setup
        self.port = 0

    def wait(self, ready: Callable[[], bool]) -> None:
        """Return when gunicorn says that it listens, and ``ready`` says that its workers are up."""
        due = monotonic() + self._setup.timeout
        while not (
            (found := re.search(r"Listening at: http://\S+:(\d+)", log := self._log.read_text()))
            and log.count("Booting worker") == self._setup.workers
            and ready()
        ):
            if self._process.poll() is not None or monotonic() > due:
                raise RuntimeError(f"gunicorn isn't up: {self._log.read_text()}")
            gevent.sleep(0.01)
        self.port = int(found[1])

    def connections(self) -> list[int]:
        """Return how many of the clients' connections each worker has."""
        clients = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "01" and int(local.partition(":")[2], 16) == self.port:
                clients.add(f"socket:[{inode}]")
        return [len(clients & _descriptors(worker)) for worker in self._workers()]

    def cpu(self) -> float:
        """Return the workers' CPU time so far, in seconds."""
        ticks = 0
        for worker in self._workers():
            fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _workers(self) -> list[str]:
        process = self._process.pid
        return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def _descriptors(process: str) -> set[str]:
    found = set()
    folder = f"/proc/{process}/fd"
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(f"{folder}/{name}"))
    return found


@contextmanager
def served(peer: str, servers: Servers, setup: Setup) -> Iterator[Site]:
    """Run gunicorn for the time of a ``with`` block. Its end is a kill: it has nothing to save."""
    command = [sys.executable, "-m", "gunicorn", "-c", "conf.py", "--workers", str(setup.workers)]
    with TemporaryDirectory() as folder, open(Path(folder) / "log", "wb") as log:
        process = subprocess.Popen(
            [*command, "benchmarks.workers.app:application"],
            cwd=ROOT / "examples" / "gunicorn",
            env=os.environ
            | {
                "BIND": "127.0.0.1:0",
                "MAX_SLOTS": str(setup.max_slots),
                "PEER": peer,
                # The package is imported from where this process has it from.
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
                "SERVERS": ",".join(f"127.0.0.1:{port}" for port in servers.ports),
                "XDG_RUNTIME_DIR": folder,  # newer gunicorns' control socket
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that workers end with their master
        )
        try:
            site = Site(process, Path(log.name), setup)
            least = setup.servers if peer == BY_HAND else setup.max_slots
            site.wait(lambda: servers.connections >= setup.workers * least)
            yield site
        finally:
            with suppress(ProcessLookupError):  # ended, all of it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            with gevent.Timeout(setup.timeout):
                while servers.connections:
                    gevent.sleep(0.01)
