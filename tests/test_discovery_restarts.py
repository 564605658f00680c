"""Servers that announce themselves restart one after the other, under load."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import ROOT, wait_until
from gevent import socket
from gevent.subprocess import PIPE, Popen, run
from zookeeper import ZooKeeper

from gevent_rover import PoolTimeout, Rover, SlotPool
from gevent_rover.discovery import ZooKeeperSource, feed

pytestmark = pytest.mark.integration

SERVERS = 6
CLIENTS = 3
INTERVAL = 0.2
MAX_SLOTS = 12
SCRIPT = Path(__file__).parent / "discovery" / "announced_server.py"


class Servers:
    """Processes of slot servers, each of which announces itself and drains when it's told."""

    def __init__(self, hosts: str, path: str) -> None:
        self._command = [sys.executable, str(SCRIPT), hosts, path]
        self.processes: dict[str, Any] = {}

    def start(self) -> str:
        """Start one; return its id."""
        process: Any = Popen(
            self._command,
            stdout=PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        id = json.loads(process.stdout.readline())
        self.processes[id] = process
        return str(id)

    def stop(self, id: str) -> None:
        """Have one drain and end."""
        process = self.processes.pop(id)
        process.send_signal(signal.SIGTERM)
        with gevent.Timeout(20):
            assert process.wait() == 0
        process.stdout.close()

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
            process.stdout.close()


class Client:
    """A rover that follows ZooKeeper, its pool, and greenlets that make requests."""

    def __init__(self, hosts: str, path: str) -> None:
        self.rover = Rover(roving_interval=INTERVAL)
        self.rover.on("error", lambda rover, error: None)
        self.pool = SlotPool(self.rover, max_slots=MAX_SLOTS)
        self.feeder = feed(self.rover, ZooKeeperSource(hosts, path))
        self.rover.start()
        self.requests = 0
        self.failures: list[BaseException] = []
        self.stopping = False
        self.users = [gevent.spawn(self.use) for _ in range(4)]

    def use(self) -> None:
        while not self.stopping:
            question = os.urandom(8).hex().encode()
            try:
                with self.pool.lease() as sock, gevent.Timeout(5):
                    sock.sendall(question)
                    answer = b""
                    while len(answer) < len(question):
                        received = sock.recv(100)
                        if not received:
                            raise EOFError("the server hung up")
                        answer += received
                    assert answer == question
            except (OSError, EOFError, PoolTimeout, gevent.Timeout) as exc:
                self.failures.append(exc)
            self.requests += 1
            gevent.sleep(0.002)

    def shares(self) -> Counter[str]:
        servers = self.pool.stats().servers
        return Counter({str(id): each.size for id, each in servers.items() if each.size})

    def stop(self) -> None:
        self.stopping = True
        gevent.joinall(self.users, timeout=10)
        self.feeder.stop()
        self.rover.stop()
        self.pool.close()


@pytest.fixture
def zookeeper(tmp_path: Path) -> Iterator[ZooKeeper]:
    with ZooKeeper(tmp_path) as zookeeper:
        yield zookeeper


@pytest.fixture
def servers(zookeeper: ZooKeeper) -> Iterator[Servers]:
    servers = Servers(zookeeper.hosts, "/restarts")
    yield servers
    servers.kill()


def test_the_command_announces_a_server_and_roves_what_is_announced(zookeeper: ZooKeeper) -> None:
    url = f"zk://{zookeeper.hosts}/commands/echo"
    command = [sys.executable, "-W", "error", "-m", "gevent_rover"]
    serving: Any = Popen(
        [*command, "serve", "127.0.0.1:0", "--announce", url], stdout=PIPE, text=True, cwd=ROOT
    )
    try:
        id = serving.stdout.readline().split()[-1]
        options = ["--count", "12", "--interval", "0.2", "--json"]
        done = run([*command, "rove", url, *options], stdout=PIPE, text=True, cwd=ROOT, timeout=30)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0
        assert {line["id"] for line in found if line["event"] == "connection"} == {id}
        serving.send_signal(signal.SIGTERM)
        with gevent.Timeout(20):
            assert serving.wait() == 0
    finally:
        serving.kill()
        serving.wait()
        serving.stdout.close()


@pytest.mark.parametrize("preload", [False, True], ids=["plain", "preload"])
def test_the_gunicorn_example_follows_zookeeper_in_each_worker(
    zookeeper: ZooKeeper, servers: Servers, preload: bool
) -> None:
    with socket.socket() as listener:  # gunicorn inherits it: no race for a free port
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.set_inheritable(True)
        command = [sys.executable, "-m", "gunicorn", "-c", "zookeeper_conf.py"]
        command += ["--preload"] if preload else []
        process: Any = Popen(
            [*command, "zookeeper_app:application"],
            cwd=ROOT / "examples" / "gunicorn_zookeeper",
            env=os.environ
            | {"ZOOKEEPER": f"zk://{zookeeper.hosts}/restarts"}
            | {"BIND": f"fd://{listener.fileno()}", "PYTHONPATH": str(ROOT)},
            pass_fds=[listener.fileno()],
            stderr=PIPE,
            text=True,
        )
        address = listener.getsockname()
    log = gevent.spawn(process.stderr.read)
    try:
        ids = {servers.start() for _ in range(3)}
        for number in range(40):
            assert get(address, f"/{number}") == (200, f"/{number}".encode())
        # Each worker has a pool of its own; the servers that leave are left in time.
        for id in list(ids)[:2]:
            servers.stop(id)
        for number in range(40):
            assert get(address, f"/{number}") == (200, f"/{number}".encode())
        process.send_signal(signal.SIGTERM)
        with gevent.Timeout(20):
            assert process.wait() == 0
        assert "Traceback" not in log.get(timeout=5), log.value
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        log.join(5)
        process.stderr.close()


def get(address: tuple[str, int], path: str) -> tuple[int, bytes]:
    """Send a request, and return the answer's status and body."""
    with socket.create_connection(address, 10) as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_a_rolling_restart_costs_no_request_and_leaves_the_connections_level(
    zookeeper: ZooKeeper, servers: Servers
) -> None:
    for _ in range(SERVERS):
        servers.start()
    clients = [Client(zookeeper.hosts, "/restarts") for _ in range(CLIENTS)]
    try:
        for client in clients:
            client.pool.wait_ready(timeout=10)
        for id in list(servers.processes):
            wait_until(lambda: all(len(client.rover.servers) == SERVERS for client in clients), 20)
            servers.stop(id)
            servers.start()
        wait_until(
            lambda: all(set(client.rover.servers) == set(servers.processes) for client in clients),
            20,
        )

        def spread() -> int:
            total = sum((client.shares() for client in clients), Counter[str]())
            return max(total.values()) - min(total[id] for id in servers.processes)

        # 36 connections, 6 for each server: after 6 to 12 intervals, alone on a machine.
        wait_until(lambda: spread() <= 1, 20)
    finally:
        for client in clients:
            client.stop()
    assert [client.failures for client in clients] == [[]] * CLIENTS
    assert sum(client.requests for client in clients) > 1000
