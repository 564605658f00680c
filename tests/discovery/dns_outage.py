"""A pool whose servers come from DNS, and a name server that fails for a while.

Arguments: how it fails, and for how many seconds. It prints the longest time that the hub
was held meanwhile, and the most CPU time that it took for a step, in milliseconds: on a busy
machine, that tells more.
"""

from __future__ import annotations

import gc
import logging
import sys
from time import monotonic, thread_time
from typing import Any

import gevent
from gevent import socket, subprocess

from gevent_rover import Rover, SlotPool, SlotServer, closed
from gevent_rover.discovery.feeder import feed
from gevent_rover.discovery.names import DNSSource

HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
SLOTS = 6


def wait_until(predicate: Any, timeout: float = 10.0) -> None:
    with gevent.Timeout(timeout, AssertionError(f"waited {timeout} s in vain")):
        while not predicate():
            gevent.sleep(0.005)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class NameServer:
    def __init__(self) -> None:
        self.port = free_port()
        script = __file__.replace("dns_outage", "dns_server")
        self.process: Any = subprocess.Popen(
            [sys.executable, script, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, command: str) -> None:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "ok\n"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def use(slot: int, sock: Any, address: Any) -> None:
    while data := sock.recv(100):
        sock.sendall(data)


class Lag:
    """The longest time that the hub was held."""

    def __init__(self) -> None:
        self.longest = self.most = 0.0

    def watch(self) -> None:
        while True:
            began, used = monotonic(), thread_time()
            gevent.sleep(0.001)
            self.longest = max(self.longest, monotonic() - began - 0.001)
            self.most = max(self.most, thread_time() - used)


def main(how: str, seconds: float) -> None:
    logging.basicConfig(level=logging.INFO)
    names = [NameServer(), NameServer()]
    for name_server in names:
        name_server.tell("answer " + " ".join(HOSTS))
    servers: list[SlotServer] = []
    port = 0
    for host in HOSTS:
        server = SlotServer((host, port), use)
        server.start()
        port = int(server.address[1])
        servers.append(server)
    nameservers = [f"127.0.0.1:{name_server.port}" for name_server in names]
    if how not in ("dead", "one-of-two"):
        del nameservers[1]
    rover = Rover({}, roving_interval=0.1)
    rover.on("error", lambda rover, error: None)  # None is known yet.
    source = DNSSource("db.internal.", port, nameservers=nameservers)
    with rover, SlotPool(rover, max_slots=SLOTS) as pool, feed(rover, source) as feeder:
        wait_until(lambda: len(rover.servers) == 3 and pool.size == SLOTS)
        ended: list[str] = []

        def note(sender: Any, slot: Any, client: Any, reason: str) -> None:
            ended.append(reason)

        closed.connect(note, sender=pool)
        if how == "one-of-two":
            names[0].end()
        elif how == "dead":
            names[0].end()
            names[1].end()
        else:
            names[0].tell(how)
        gc.collect()
        gc.freeze()
        lag = Lag()
        watcher = gevent.spawn(lag.watch)
        until = monotonic() + seconds
        while monotonic() < until:
            with pool.lease(timeout=0.5) as sock:
                sock.sendall(b"?")
                assert sock.recv(1) == b"?"
            assert len(rover.servers) == 3, rover.servers
            assert pool.size == SLOTS, pool
            gevent.sleep(0.02)
        watcher.kill()
        if how == "one-of-two":
            assert feeder.failure is None, feeder
            # The other one is asked now.
            names[1].tell("answer 127.0.0.1 127.0.0.2")
            wait_until(lambda: len(rover.servers) == 2, 3.0)
        else:
            assert feeder.failure is not None
            # Lower slots are always taken; nothing else ends a connection.
            assert set(ended) <= {"replaced"}, ended
        print(f"longest: {lag.longest * 1000:.1f} ms, CPU: {lag.most * 1000:.1f} ms", feeder)
    for server in servers:
        server.stop(timeout=0)
    for name_server in names:
        if name_server.process.returncode is None:
            name_server.end()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
