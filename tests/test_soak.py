"""Faults that come and go between a pool and its servers, while the pool is used.

``ROVER_SOAK_SECONDS`` says how long each time, plainly and with TLS (default: 5),
``ROVER_SOAK_SEED`` repeats the choices of an earlier run, though not its timing.
"""

from __future__ import annotations

import gc
import os
import random
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import pytest
import trustme
from certificates import client_context, server_context
from conftest import Listener, living_greenlets, open_descriptors, wait_until
from fault_proxy import Fault, FaultProxy
from gevent import GreenletExit, socket
from gevent.pool import Group

from gevent_rover import PoolTimeout, Rover, SlotPool, SlotServer

pytestmark = pytest.mark.integration

SECONDS = float(os.environ.get("ROVER_SOAK_SECONDS", "5"))
SEED = int(os.environ.get("ROVER_SOAK_SEED", random.randrange(2**32)))

USERS = 16

FAULTS = [
    Fault(latency=0.02),
    Fault(slice=1),
    Fault(bandwidth=2000.0, slice=20),
    Fault(stalled=True),
    Fault(reset_after=0),
    Fault(reset_after=2),
    Fault(reset_after=500),
    Fault(limit=0),
    Fault(limit=3),
    Fault(limit=500),
    Fault(slow_close=0.1, limit=100),
    Fault(refusing=True),
    Fault(latency=0.01, slice=7, slow_close=0.05),
]


def echo(slot: int, sock: Listener, address: object) -> None:
    try:
        while chunk := sock.recv(65536):
            sock.sendall(chunk)
    except OSError:
        pass


def read_exactly(sock: Listener, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (chunk := sock.recv(size - len(data))):
        data += chunk
    return bytes(data)


class Soak:
    """A pool, its rover, servers, and proxies between them."""

    def __init__(self, authority: trustme.CA | None) -> None:
        ours = theirs = None
        if authority is not None:
            ours = client_context(authority)
            theirs = server_context(authority.issue_cert("127.0.0.1"))
        self.random = random.Random(SEED)
        self.servers = [SlotServer(("127.0.0.1", 0), echo, ssl_context=theirs) for _ in range(4)]
        for server in self.servers:
            server.stop_timeout = 0.0
            server.start()
        self.proxies = [FaultProxy(server.server_port) for server in self.servers]
        for proxy in self.proxies:
            proxy.start()
        self.entries = {f"s{n}": proxy.entry() for n, proxy in enumerate(self.proxies)}
        self.rover = Rover(dict(self.entries), roving_interval=0.02, timeout=0.3, ssl_context=ours)
        self.rover.on("error", lambda rover, error: self.count(error))
        self.rover.on("unreachable", lambda rover, id, server: self.count("unreachable"))
        self.pool = SlotPool(self.rover, max_slots=4)
        self.users = Group()
        self.counts: Counter[str] = Counter()
        self.number = 0
        self.strange: list[BaseException] = []

    def count(self, outcome: object) -> None:
        self.counts[outcome if isinstance(outcome, str) else type(outcome).__name__] += 1

    def request(self) -> None:
        """Make a request, and count how it ended: one of the documented ways."""
        self.number += 1
        said = b"%d:" % self.number + b"x" * self.random.choice((1, 30, 3000))
        try:
            with (
                self.pool.lease(timeout=0.5) as sock,
                gevent.Timeout(0.3, TimeoutError("no answer")),
            ):
                sock.sendall(said)
                answer = read_exactly(sock, len(said))
                if len(answer) < len(said):
                    raise EOFError
                # Not another request's answer, and not a byte of it spoilt.
                assert answer == said
                if self.users and self.random.random() < 0.02:
                    # It dies as this connection comes back, and it may be the one to get it.
                    self.random.choice(list(self.users)).kill(block=False)
        except (PoolTimeout, OSError, EOFError) as exc:
            self.count(exc)
        except GreenletExit:
            self.count("killed")
            raise
        else:
            self.count("completed")

    def use(self, until: float) -> None:
        try:
            while monotonic() < until:
                self.request()
                gevent.sleep(self.random.random() * 0.01)
        except GreenletExit:
            raise
        except BaseException as exc:
            self.strange.append(exc)

    def spoil(self, until: float) -> None:
        """Switch something at random, again and again; who was killed gets a successor."""
        while monotonic() < until and not self.strange:
            while len(self.users) < USERS:
                self.users.spawn(self.use, until)
            gevent.sleep(self.random.random() * 0.04)
            if self.random.random() < 0.01:
                self.outage()
            self.random.choice(self.proxies).fault = self.random.choice([Fault(), *FAULTS])
            id = self.random.choice(list(self.entries))
            if self.random.random() < 0.1:
                self.rover.drop_server(id)
            elif self.random.random() < 0.5:
                self.rover.add_server(id, self.entries[id])
            if self.random.random() < 0.02:
                self.rover.stop()
                self.rover.start()

    def outage(self) -> None:
        """Spoil all servers at once, for longer than a request waits for a connection."""
        fault = self.random.choice([Fault(stalled=True), Fault(refusing=True, reset_after=0)])
        for proxy in self.proxies:
            proxy.fault = fault
        gevent.sleep(1.0)
        self.heal()

    def heal(self) -> None:
        for proxy in self.proxies:
            proxy.fault = Fault()
        self.rover.servers.update(self.entries)

    def close(self) -> None:
        self.pool.close()
        self.rover.stop()
        for proxy in self.proxies:
            proxy.stop()


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("way", ["plain", "TLS"])
def test_nothing_is_lost_while_faults_come_and_go(way: str) -> None:
    print(f"ROVER_SOAK_SEED={SEED} ROVER_SOAK_SECONDS={SECONDS:g}")
    gevent.sleep(0.01)
    gc.collect()
    before = open_descriptors(), living_greenlets()
    soak = Soak(trustme.CA() if way == "TLS" else None)
    pool, rover, until = soak.pool, soak.rover, monotonic() + SECONDS
    gc.disable()  # What only the collector would close counts as leaked.
    try:
        rover.start()
        soak.spoil(until)
        assert soak.users.join(timeout=10), f"a request hangs: {pool}"
        assert soak.strange == []
        # No lease and no waiter is left over.
        assert (pool.leased, pool.retired, pool.waiting) == (0, 0, 0), pool

        # Once all is well, it is as if nothing had been: full, and of use.
        soak.heal()
        wait_until(lambda: pool.idle == pool.max_slots, timeout=15)
        soak.counts, during = Counter(), soak.counts
        while soak.counts["completed"] < 100:
            soak.request()
            assert soak.counts.total() < 200, soak.counts
        # No slot is missing: each server's taken ones are connections that are there.
        soak.close()
        assert (pool.size, pool.idle, pool.leased, pool.waiting) == (0, 0, 0, 0)
        wait_until(lambda: [len(server.slots) for server in soak.servers] == [0] * 4)
        assert rover.pending == 0
        for server in soak.servers:
            assert server.slots.take() == 0
            server.stop()
        wait_until(lambda: open_descriptors() <= before[0])
    finally:
        gc.enable()
        soak.close()
        for server in soak.servers:
            server.stop()
    wait_until(lambda: living_greenlets() <= before[1])
    print(dict(during))
    # There was trouble of each kind, and work got done all the same.
    assert during["completed"] >= 50
    assert during["unreachable"] >= 5
    assert during["EOFError"] + during["ConnectionResetError"] + during["TimeoutError"] >= 5


# The proxy itself: a fault that does nothing would make the soak above say nothing.


@pytest.fixture
def proxied(
    slot_server: Callable[..., SlotServer], closing: Callable[[Any], Any]
) -> Callable[[Fault], Listener]:
    """Give a function that connects to a server which echoes, through a proxy with a fault."""

    def proxied(fault: Fault) -> Listener:
        proxy = closing(FaultProxy(slot_server(echo).server_port))
        proxy.fault = fault
        proxy.start()
        sock = closing(socket.create_connection(("127.0.0.1", proxy.server_port), 5))
        assert isinstance(sock, Listener)
        return sock

    return proxied


def test_a_proxy_without_a_fault_passes_everything_on(
    proxied: Callable[[Fault], Listener],
) -> None:
    sock = proxied(Fault())
    sock.sendall(b"x" * 100_000)
    sock.shutdown(socket.SHUT_WR)
    assert read_exactly(sock, 200_000) == b"0\r\n" + b"x" * 100_000


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (Fault(latency=0.2), 0.2),
        (Fault(bandwidth=20.0), 0.1),
        (Fault(latency=0.1, slice=1), 0.3),
    ],
)
def test_a_proxy_is_late(
    proxied: Callable[[Fault], Listener], fault: Fault, seconds: float
) -> None:
    began = monotonic()
    sock = proxied(fault)
    assert read_exactly(sock, 3) == b"0\r\n"
    assert monotonic() - began >= seconds * 0.9


def test_a_slow_close_is_late(proxied: Callable[[Fault], Listener]) -> None:
    sock = proxied(Fault(slow_close=0.2))
    assert read_exactly(sock, 3) == b"0\r\n"
    began = monotonic()
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b""
    assert monotonic() - began >= 0.36


def test_a_stalled_proxy_passes_nothing_on(proxied: Callable[[Fault], Listener]) -> None:
    sock = proxied(Fault(stalled=True))
    sock.settimeout(0.1)
    with pytest.raises(TimeoutError):
        sock.recv(1)


def test_a_limit_closes_behind_so_many_bytes(proxied: Callable[[Fault], Listener]) -> None:
    assert read_exactly(proxied(Fault(limit=2)), 10) == b"0\r"


def test_a_refusing_proxy_closes_at_once(proxied: Callable[[Fault], Listener]) -> None:
    assert proxied(Fault(refusing=True)).recv(1) == b""


def test_a_proxy_resets_behind_so_many_bytes(proxied: Callable[[Fault], Listener]) -> None:
    sock = proxied(Fault(reset_after=1))
    assert sock.recv(1) == b"0"
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
