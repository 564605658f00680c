"""Checks that servers announce themselves and are found, and that the hub is never blocked.

Usage: zookeeper_check.py PORT PID PATH

PID is ZooKeeper's, on 127.0.0.1:PORT; it's frozen for a while. A name that takes long, or is never
found, is among the hosts.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent

from gevent_rover import Rover, SlotPool, SlotServer
from gevent_rover.discovery.announcing import announce
from gevent_rover.discovery.feeder import feed
from gevent_rover.discovery.zookeeper import ZooKeeperSource

late: list[float] = []


def tick() -> None:
    while True:
        began = time.monotonic()
        gevent.sleep(0.002)
        late.append(time.monotonic() - began - 0.002)


def wait_until(predicate: Callable[[], object], timeout: float = 10.0) -> None:
    with gevent.Timeout(timeout, AssertionError(f"waited {timeout} s in vain")):
        while not predicate():
            gevent.sleep(0.005)


def handle(slot: int, socket: Any, address: Any) -> None:
    while socket.recv(1024):
        pass


port, pid, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
hosts = f"localhost:{port},nobody.invalid:{port}"
servers = [SlotServer(("127.0.0.1", 0), handle) for _ in range(3)]
for server in servers:
    server.start()
ticking = gevent.spawn(tick)
rover = Rover(roving_interval=0.1)
rover.on("error", lambda rover, error: None)  # No servers at first.
source = ZooKeeperSource(hosts, path, session_timeout=1.5)
with rover, SlotPool(rover, max_slots=9) as pool, feed(rover, source) as feeder:
    announcements = [announce(server, hosts, path, session_timeout=1.5) for server in servers]
    wait_until(lambda: pool.size == 9)
    late.clear()  # kazoo has been imported.
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: feeder.failure and all(one.failure for one in announcements))
        assert [one.node for one in announcements] == [None] * 3
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: feeder.failure is None and all(one.node for one in announcements))
    servers[0].stop(timeout=0)
    # At once; or later, if the source hasn't seen it since the outage.
    wait_until(lambda: len(feeder.servers) == 2)
    began = time.monotonic()
    # One that says goodbye ends at once.
    for one in announcements:
        one.stop()
        assert not one.started
    lag = max(late)
    assert time.monotonic() - began < 5.0
ticking.kill()
for server in servers:
    server.stop(timeout=0)
print(f"all is well: the hub was late by {lag * 1000:.1f} ms at most")
assert lag < 1.0, lag  # Who blocks does so for as long as nobody answers.
