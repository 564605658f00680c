"""A real gunicorn with two gevent workers, and three slot servers in this process."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import entry, wait_until
from gevent import socket
from gevent.pool import Pool
from gevent.subprocess import Popen

from gevent_rover import SlotServer

pytest.importorskip("gunicorn", reason="gunicorn isn't installed")

pytestmark = pytest.mark.integration

SITE = Path(__file__).parent / "site"

WORKERS = 2
MAX_SLOTS = 5

# How the master is run, and the connections that are open for good: each worker's
# pool, and the master's own where start() at import finds a patched master, whose
# hub runs whenever it sleeps.
MODES = {
    "plain": ([], {}, WORKERS * MAX_SLOTS),
    "preload": (["--preload"], {}, WORKERS * MAX_SLOTS),
    "preload-patched": (["--preload"], {"ROVER_PATCH_EARLY": "1"}, WORKERS * MAX_SLOTS),
    "plain-started": ([], {"ROVER_START_AT_IMPORT": "1"}, WORKERS * MAX_SLOTS),
    "preload-started": (
        ["--preload"],
        {"ROVER_START_AT_IMPORT": "1"},
        WORKERS * MAX_SLOTS,
    ),
    "preload-patched-started": (
        ["--preload"],
        {"ROVER_START_AT_IMPORT": "1", "ROVER_PATCH_EARLY": "1"},
        (WORKERS + 1) * MAX_SLOTS,
    ),
}


class Site:
    """A running gunicorn, its log, and the servers that it uses."""

    def __init__(self, process: Any, port: int, log: Path, servers: list[SlotServer]) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.servers = servers

    @property
    def connections(self) -> int:
        """How many slots are taken at the servers."""
        return sum(len(server.slots) for server in self.servers)

    def get(self, path: str) -> Any:
        with socket.create_connection(("127.0.0.1", self.port), 20) as sock:
            sock.settimeout(20)
            sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while chunk := sock.recv(65536):
                answer += chunk
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], (answer, self.log.read_text())
        return json.loads(body)

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in children.read_text().split()}

    def settled(self, connections: int) -> None:
        """Wait until there are so many connections, and see that it stays so.

        A rover whose pool is full goes on roving: on each tick it has one
        connection more for a moment.
        """
        steady = 0

        def settled() -> bool:
            nonlocal steady
            near = connections <= self.connections <= connections + WORKERS + 1
            steady = steady + 1 if near else 0
            return steady >= 50 and self.connections == connections

        wait_until(settled, 30)


@contextmanager
def _served(
    servers: list[SlotServer], log: Path, options: list[str], environment: dict[str, str]
) -> Iterator[Site]:
    with socket.socket() as listener:  # gunicorn inherits it: no race for a free port
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        with open(log, "wb") as output:
            process = Popen(
                [
                    *[sys.executable, "-m", "gunicorn", "-c", "site_conf.py", "--bind"],
                    *[f"fd://{listener.fileno()}", *options, "site_app:application"],
                ],
                cwd=SITE,
                env=os.environ
                | {"ROVER_SERVERS": json.dumps({str(i): entry(s) for i, s in enumerate(servers)})}
                | {"PYTHONPATH": os.pathsep.join([str(SITE.parent.parent), *sys.path[1:]])}
                | environment,
                stdout=output,
                stderr=output,
                pass_fds=[listener.fileno()],
            )
    try:
        yield Site(process, port, log, servers)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(params=sorted(MODES))
def mode(request: Any) -> Any:
    return MODES[request.param]


@pytest.fixture
def site(
    mode: Any, slot_server: Callable[..., SlotServer], tmp_path: Path
) -> Iterator[tuple[Site, int]]:
    def echo(slot: int, sock: Any, address: Any) -> None:
        try:
            while data := sock.recv(1024):
                sock.sendall(data)
        except ConnectionResetError:
            pass  # a worker that was killed

    options, environment, connections = mode
    servers = [slot_server(echo) for _ in range(3)]
    with _served(servers, tmp_path / "log", options, environment) as site:
        site.settled(connections)
        yield site, connections


@pytest.mark.timeout(120)
def test_workers_hold_their_pools_through_requests_forks_and_signals(
    site: tuple[Site, int],
) -> None:
    site_, connections = site

    pool = Pool(40)
    answers = pool.map(lambda _: site_.get("/"), range(200))
    assert {answer["pid"] for answer in answers} <= site_.workers()
    assert all(answer["started"] for answer in answers)
    site_.settled(connections)

    told = []
    for _ in range(3):
        forked = site_.get("/fork")
        assert forked["child"], "the child told nothing"
        told.extend(forked["child"])
        assert forked["parent"]["started"]
    for child in told:
        assert not child["started"]
        assert child["size"] == child["leased"] == child["pending"] == 0
        assert child["fileno"] == -1
        assert child["sockets"] == []
    site_.settled(connections)

    # A reload: new workers fill up, the old ones give all back.
    before = site_.workers()
    site_.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(site_.workers()) == WORKERS and not site_.workers() & before, 20)
    site_.settled(connections)

    # A worker that is killed runs nothing; its successor fills up.
    before = site_.workers()
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len(site_.workers()) == WORKERS and site_.workers() != before, 20)
    site_.settled(connections)

    # A graceful stop lets the slow requests finish.
    slow = [gevent.spawn(site_.get, "/slow") for _ in range(4)]
    gevent.sleep(0.3)
    site_.process.send_signal(signal.SIGTERM)
    assert len([greenlet.get(timeout=20) for greenlet in slow]) == 4
    assert site_.process.wait(timeout=20) == 0
    wait_until(lambda: site_.connections == 0)
    log = site_.log.read_text()
    assert "Traceback" not in log, log
