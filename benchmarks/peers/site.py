"""The servers, the proxies in front of them, and the peers that use either."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass

import gevent
from gevent import Timeout

from benchmarks.child import Child, python
from benchmarks.loopback import ADDRESSES, Address
from benchmarks.peers.clients import Client, KeptThroughProxy, OnceThroughProxy, Pooled, TwoChoices
from benchmarks.peers.haproxy import HAProxy, command, haproxy


@dataclass(frozen=True, slots=True)
class Setup:
    """How much of everything there is, and how long it takes."""

    servers: int = 4
    workers: int = 4
    max_slots: int = 20
    #: Seconds after which a request has failed.
    timeout: float = 10.0

    # Closed loop: greenlets, and how many requests they make together.
    greenlets: int = 20
    requests: int = 30_000
    #: Of those with a connection each, which take longer and leave ports in TIME_WAIT.
    requests_once: int = 5_000

    # Open loop: clients, each with connections of its own.
    clients: int = 4
    #: Seconds that a request works on average, exponentially distributed.
    mean: float = 0.025
    slowness: float = 4.0
    load: float = 0.7
    #: For a newcomer to get its connections within the time of a run.
    roving_interval: float = 0.15
    #: Seconds that are measured in each run, and those before, which aren't.
    seconds: float = 3.5
    warm_up: float = 0.5
    #: Seconds that one of a hundred requests may start late. A run that exceeds it
    #: measured what else the machine does, and is repeated, once.
    lateness: float = 0.01


@dataclass(frozen=True, slots=True)
class Peer:
    """One who makes requests, and what ours is to reach in the closed loop."""

    name: str
    #: How HAProxy balances; empty: without it.
    balance: str = ""
    once: bool = False
    #: The least that our requests per second are to be, as a multiple of its.
    target: float | None = None


OURS = "SlotPool"
BY_HAND = "two choices by hand"

PEERS = {
    peer.name: peer
    for peer in (
        Peer(OURS),
        Peer(BY_HAND),
        Peer("HAProxy leastconn, kept", "leastconn", target=1.4),
        Peer("HAProxy random(2), kept", "random(2)", target=1.4),
        Peer("HAProxy leastconn, one per request", "leastconn", once=True, target=8.0),
        Peer("HAProxy random(2), one per request", "random(2)", once=True, target=8.0),
    )
}

#: Why rows of HAProxy have no figures.
NO_HAPROXY = "there is no haproxy command"


class Site:
    """The servers (the last one in a process of its own, if it is to move) and the proxies.

    Left to the scheduler, a process would be now on the same core as the one that it talks
    to and now on another, and waking one on another core costs several times more.

    :param stack: ends all of it.
    :param moving: whether the last server is to die or to join.
    :param cores: with 2, this process has a core for itself, and all others share the
        other one; with 1 all share one, and whatever anybody does takes time from the rest.
    """

    def __init__(self, setup: Setup, stack: ExitStack, *, moving: bool, cores: int) -> None:
        self.setup = setup
        self._stack = stack
        mine, self._core = _cores(stack, cores)
        ports = [[self._reserve("127.0.0.1") for _ in "12"] for _ in range(setup.servers)]
        self._staying_ports, self._moving_ports = ports[:-1], ports[-1:]
        if not moving:
            self._staying_ports, self._moving_ports = ports, []
        self._slotted: list[Address] = [("127.0.0.1", port) for port, _ in ports]
        self._bare: list[Address] = [("127.0.0.1", port) for _, port in ports]
        self._staying = self._start(self._staying_ports)
        self._moving = self._start(self._moving_ports) if moving else None
        self._listens = True
        self.proxies: dict[str, HAProxy] = {}
        found = command()
        for balance in ("leastconn", "random(2)") if found else ():
            assert found is not None
            addresses = [(host, self._reserve(host)) for host in ADDRESSES]
            proxy = haproxy(found, balance, addresses, self._bare, self._core)
            self.proxies[balance] = stack.enter_context(proxy)
        os.sched_setaffinity(0, {mine})

    def _reserve(self, host: str) -> int:
        """Return a port that no other process is given; one that is told it may listen there."""
        sock = self._stack.enter_context(socket.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port

    def _start(self, ports: list[list[int]]) -> Child:
        child = python("peers.fleet", ports, self.setup.workers, self._core)
        entered = self._stack.enter_context(child)
        entered.receive()
        return entered

    def peers(self) -> list[Peer]:
        """Return those that can be measured here."""
        return [peer for peer in PEERS.values() if not peer.balance or peer.balance in self.proxies]

    def client(self, peer: Peer, roving_interval: float = 1.0) -> Client:
        """Return a new client that makes its requests as ``peer`` does."""
        if peer.balance:
            addresses = self.proxies[peer.balance].addresses
            return (OnceThroughProxy if peer.once else KeptThroughProxy)(addresses)
        if peer.name == BY_HAND:
            return TwoChoices(self._bare)
        setup = self.setup
        return Pooled(self._slotted, setup.max_slots, roving_interval, setup.timeout)

    def proxy_cpu(self, peer: Peer) -> float:
        """Return the CPU time so far, in seconds, of the proxy that a peer uses; 0 without one."""
        return self.proxies[peer.balance].cpu() if peer.balance else 0.0

    def servers_cpu(self) -> float:
        """Return the CPU time so far, in seconds, of the servers that don't move."""
        return float(self._staying.ask({}))

    def prepare(self, slowness: list[float], event: str) -> None:
        """Bring the servers into the state that a run begins with, and let the proxies see it."""
        if self._moving is None:
            self._moving = self._start(self._moving_ports)
            self._listens = True
        self._staying.ask({"slow": slowness[:-1]})
        self._moving.ask({"slow": slowness[-1:]})
        if self._listens != (event != "joins"):
            self._listens = not self._listens
            self._moving.ask({"listen": self._listens})
        up = self.setup.servers - (not self._listens)
        with Timeout(self.setup.timeout):
            while any(proxy.up() != up for proxy in self.proxies.values()):
                gevent.sleep(0.02)

    def happen(self, event: str) -> None:
        """Let the last server die or join; the hub doesn't wait for it."""
        moving = self._moving
        assert moving is not None
        if event == "dies":
            self._moving = None
            gevent.get_hub().threadpool.spawn(moving.kill)
        else:
            self._listens = True
            gevent.get_hub().threadpool.spawn(moving.ask, {"listen": True})


def _cores(stack: ExitStack, count: int) -> tuple[int, int]:
    """Return a core for this process, and one for the rest: the same one if ``count`` is 1."""
    available = os.sched_getaffinity(0)
    stack.callback(os.sched_setaffinity, 0, available)
    return min(available), sorted(available)[:count][-1]
