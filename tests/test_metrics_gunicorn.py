"""A real gunicorn with four gevent workers, whose /metrics is that of all of them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest
from conftest import entry, wait_until
from gevent import socket
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool
from gevent.subprocess import Popen

from gevent_rover import SlotServer

if os.environ.get("CI") != "true":
    pytest.importorskip("gunicorn", reason="gunicorn isn't installed")
    pytest.importorskip("prometheus_client", reason="it's in the extra metrics")

from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]
WORKERS = 4
MAX_SLOTS = 5
SERVERS = 3

#: Seconds within which gauges are right, whatever happened.
SOON = 2.0

APP = """
import json
import os

from gevent_rover import Rover, SlotPool
from gevent_rover.metrics import app, instrument, metrics_app

if "HOOK" in os.environ:  # It's all that tells who has ended.
    app.forget_dead_processes = lambda values: None

rover = Rover(json.loads(os.environ["ROVER_SERVERS"]), roving_interval=0.2)
pool = SlotPool(rover, max_slots=5)
instrument(rover, pool)
metrics = metrics_app()


def application(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        return metrics(environ, start_response)
    with pool.lease(10) as socket:
        socket.sendall(b"ping")
        assert socket.recv(4) == b"ping"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
"""

CONF = """
import os

workers = 4
worker_class = "gevent"
graceful_timeout = 5


def post_worker_init(worker):
    from app import rover

    rover.start()


def worker_exit(server, worker):
    from app import pool, rover

    rover.stop()
    pool.close()


if "HOOK" in os.environ:

    def child_exit(server, worker):
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)
"""

Counters = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Site:
    """A running gunicorn, and what it exports."""

    def __init__(self, process: Any, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.fallen: list[str] = []
        self.scraped = 0
        self._counters: Counters = {}
        self._one_by_one = BoundedSemaphore()

    def get(self, path: str) -> str:
        with socket.create_connection(("127.0.0.1", self.port), 20) as sock:
            sock.settimeout(20)
            sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while chunk := sock.recv(65536):
                answer += chunk
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], (answer, self.log.read_text())
        return body.decode()

    def scrape(self) -> dict[str, float]:
        """Return the sums of all samples by name; take note of counters that fell.

        One after the other: else an older answer might come after a newer one.
        """
        with self._one_by_one:
            return self._scrape()

    def _scrape(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        counters: Counters = {}
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                name = sample.name.removeprefix("gevent_rover_")
                sums[name] = sums.get(name, 0) + sample.value
                if family.type != "gauge":
                    counters[name, tuple(sorted(sample.labels.items()))] = sample.value
        self.fallen += [
            f"{key} from {before} to {counters.get(key)}"
            for key, before in self._counters.items()
            if counters.get(key, 0) < before
        ]
        self._counters = counters
        self.scraped += 1
        return sums

    def poll(self) -> None:
        """Scrape again and again, until killed."""
        while True:
            self.scrape()
            gevent.sleep(0.03)

    def use(self, requests: int) -> set[int]:
        """Make requests, ten at a time; return the workers that answered."""
        return set(map(int, Pool(10).imap_unordered(self.get, ["/"] * requests)))

    def is_right(self, sums: dict[str, float]) -> bool:
        """Tell whether the gauges are those of four workers with full pools, and no other."""
        return (
            sums.get("connection_max") == WORKERS * MAX_SLOTS
            and sums.get("connection_count") == WORKERS * MAX_SLOTS
            and sums.get("server_state") == WORKERS * SERVERS
        )

    def soon(self, predicate: Callable[[dict[str, float]], object], seconds: float = SOON) -> None:
        """Return as soon as a scrape shows it."""
        ends = monotonic() + seconds
        while not predicate(sums := self.scrape()):
            assert monotonic() < ends, (sums, self.log.read_text())
            gevent.sleep(0.02)

    def full(self, servers: list[SlotServer]) -> None:
        """Wait until the workers have all of their connections."""
        wait_until(lambda: sum(len(server.slots) for server in servers) >= WORKERS * MAX_SLOTS, 20)

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in children.read_text().split()}


@contextmanager
def served(
    folder: Path, servers: list[SlotServer], *options: str, **environ: str
) -> Iterator[Site]:
    (folder / "app.py").write_text(APP)
    (folder / "conf.py").write_text(CONF)
    (folder / "values").mkdir()
    registry = {f"s{number}": entry(server) for number, server in enumerate(servers)}
    with socket.socket() as listener:  # gunicorn inherits it: no race for a free port
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        log = folder / "log"
        with open(log, "wb") as output:
            process = Popen(
                [
                    *[sys.executable, "-m", "gunicorn", "-c", "conf.py", "--bind"],
                    *[f"fd://{listener.fileno()}", *options, "app:application"],
                ],
                cwd=folder,
                env={
                    **os.environ,
                    "PROMETHEUS_MULTIPROC_DIR": str(folder / "values"),
                    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
                    "ROVER_SERVERS": json.dumps(registry),
                    "XDG_RUNTIME_DIR": str(folder),  # newer gunicorns' control socket
                    **environ,
                },
                stdout=output,
                stderr=output,
                pass_fds=[listener.fileno()],
            )
    try:
        yield Site(process, port, log)
    finally:
        if process.poll() is None:
            process.terminate()  # so that the workers end, too
            try:
                process.wait(20)
            finally:
                process.kill()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
@pytest.mark.parametrize("environ", [{}, {"HOOK": "yes"}], ids=["our app", "child_exit"])
def test_metrics_are_right_soon_after_a_kill_and_no_counter_ever_falls(
    options: tuple[str, ...],
    environ: dict[str, str],
    request: Any,
    slot_server: Callable[..., SlotServer],
    tmp_path: Path,
) -> None:
    def echo(slot: int, sock: Any, address: Any) -> None:
        try:
            while data := sock.recv(1024):
                sock.sendall(data)
        except ConnectionResetError:
            pass  # a worker that was killed

    servers = [slot_server(echo) for _ in range(SERVERS)]
    with served(tmp_path, servers, *options, **environ) as site:
        wait_until(lambda: len(site.workers()) == WORKERS, 20)
        site.full(servers)
        site.soon(site.is_right)
        polling = gevent.spawn(site.poll)
        request.addfinalizer(polling.kill)

        assert len(site.use(200)) > 1  # more than one worker
        # A lease counts as it begins, the time that it took as it ends.
        site.soon(lambda sums: sums["leases_total"] == 200)
        site.soon(lambda sums: sums["connection_use_time_seconds_count"] == 200)
        sums = site.scrape()
        assert 0 < sums["connection_use_time_seconds_sum"] < 20
        assert sums["connection_opened_total"] >= WORKERS * MAX_SLOTS
        assert sums["attempts_total"] >= WORKERS * MAX_SLOTS
        assert site.is_right(sums)

        # A killed worker runs nothing. Its gauges go, its counters stay, and its successor's come.
        for requests in (100, 200):
            before = site.workers()
            victim = min(before)
            os.kill(victim, signal.SIGKILL)
            gauges = tmp_path / "values" / f"gauge_livesum_{victim}.db"
            site.soon(lambda sums: not gauges.exists())  # noqa: B023
            wait_until(lambda: len(site.workers() - {victim}) == WORKERS, 20)  # noqa: B023
            site.full(servers)
            site.soon(site.is_right)
            assert site.workers() & before == before - {victim}
            site.use(100)
            site.soon(lambda sums: sums["leases_total"] == 200 + requests)  # noqa: B023

        # A reload: all are new, and what the others counted is still there.
        before = site.workers()
        site.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(site.workers()) == WORKERS and not site.workers() & before, 20)
        site.full(servers)
        site.soon(site.is_right)
        site.use(100)
        site.soon(lambda sums: sums["leases_total"] == 500)

        assert not polling.dead, polling.exception
        polling.kill()
        assert site.scraped > 50
        assert site.fallen == []
        assert "Traceback" not in site.log.read_text()


@pytest.mark.timeout(60)
def test_a_dead_servers_workers_say_so(
    slot_server: Callable[..., SlotServer], tmp_path: Path
) -> None:
    servers = [slot_server() for _ in range(SERVERS)]
    with served(tmp_path, servers) as site:
        wait_until(lambda: len(site.workers()) == WORKERS, 20)
        site.full(servers)
        site.soon(site.is_right)
        servers[0].stop()

        def states() -> dict[str, float]:
            return {
                sample.labels["state"]: sample.value
                for family in text_string_to_metric_families(site.get("/metrics"))
                for sample in family.samples
                if sample.name == "gevent_rover_server_state"
                and sample.labels["server"] == "s0"
                and sample.value
            }

        wait_until(lambda: states() == {"unreachable": WORKERS}, 10)
        site.soon(lambda sums: sums["server_state"] == WORKERS * SERVERS)
