"""The real run: real servers with workers and queues, real pools, and one policy's turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic, process_time

import gevent
from gevent import Timeout
from gevent.pool import Group

from benchmarks.arrivals import Arrival
from benchmarks.balance.fleet import WORK
from benchmarks.balance.fleets import excess, variation
from benchmarks.balance.parameters import Setup, Start
from benchmarks.balance.policies import maker
from benchmarks.balance.pools import CountingPool
from benchmarks.balance.scenarios import Scenario, arrivals
from benchmarks.child import Child, python
from benchmarks.loopback import registry
from benchmarks.measure import percentile
from gevent_rover import PoolTimeout, Rover, Slot


class Bench:
    """Two processes of servers (the last server has its own), and the pools that use them."""

    def __init__(self, setup: Setup, stack: ExitStack) -> None:
        self.setup = setup
        self._stack = stack
        count = setup.servers - 1
        self._staying = stack.enter_context(python("balance.fleet", count, setup.workers, []))
        ports = self._staying.receive()
        self._moving: Child | None
        self._moving, self._last = self._start_last([])
        self._listens = True
        addresses = [("127.0.0.1", port) for port in [*ports, *self._last]]
        self.servers = registry(addresses)
        self.last_id = list(self.servers)[-1]
        self.start: Start | None = None
        self.pools: list[CountingPool] = []
        self.rovers: list[Rover] = []

    def _start_last(self, ports: list[int]) -> tuple[Child, list[int]]:
        child = self._stack.enter_context(python("balance.fleet", 1, self.setup.workers, ports))
        return child, child.receive()

    def connect(self, start: Start) -> None:
        """Make all pools anew, and start their rovers: at the same time, or one after the other."""
        self.disconnect()
        self.start = start
        setup = self.setup
        for _ in range(setup.pools):
            rover = Rover(dict(self.servers), roving_interval=setup.roving_interval)
            self.rovers.append(rover)
            self.pools.append(CountingPool(rover, setup.max_slots))
        for rover, pool in zip(self.rovers, self.pools, strict=True):
            rover.start()
            with Timeout(setup.settle):
                while start == "in turn" and pool.deficit:
                    gevent.sleep(0.001)
        with Timeout(setup.settle):
            while any(pool.deficit for pool in self.pools):
                gevent.sleep(0.001)
        for rover in self.rovers:
            rover.start()  # anew, so that they don't tick in step
            gevent.sleep(setup.roving_interval / setup.pools)

    def disconnect(self) -> None:
        for rover, pool in zip(self.rovers, self.pools, strict=True):
            rover.stop()
            pool.close()
        self.rovers.clear()
        self.pools.clear()

    def prepare(self, scenario: Scenario) -> None:
        """Bring servers and connections into the state that a run begins with."""
        slowness = scenario.slowness(self.setup)
        self._staying.ask({"slow": slowness[:-1]})
        listen = scenario.event != "joins"
        if self._moving is None:
            self._moving, _ = self._start_last(self._last)
            self._listens = True
        if self._listens != listen:
            self._moving.ask({"listen": listen})
            self._listens = listen
        self._moving.ask({"slow": slowness[-1:]})
        # Quicker than in the run, or each would wait for this one longer than it lasts.
        for rover in self.rovers:
            rover.roving_interval = self.setup.roving_interval / 4
        with Timeout(self.setup.settle, False):  # type: ignore[arg-type]  # gevent's own idiom
            while not (all(pool.quiet for pool in self.pools) and self._level(listen)):
                gevent.sleep(0.02)
        for rover in self.rovers:
            rover.roving_interval = self.setup.roving_interval
        with Timeout(self.setup.timeout):
            while not all(pool.leased == pool.retired == 0 for pool in self.pools):
                gevent.sleep(0.02)

    def _level(self, all_listen: bool) -> bool:
        counts = self.connections()
        count = self.setup.servers - (not all_listen)
        return len(counts) == count and max(counts.values()) - min(counts.values()) <= 2

    def connections(self) -> Counter[str]:
        """Return how many pooled connections each server has."""
        return Counter(
            slot.server_id
            for pool in self.pools
            for slot, _ in pool.slots()
            if isinstance(slot, Slot)
        )

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

    def cpu(self) -> tuple[float, float]:
        """Return the CPU time so far: the clients', and that of all servers but the last."""
        cpu, _ = self._staying.ask({})
        return process_time(), float(cpu)


class Run:
    """One policy's turn."""

    def __init__(self, bench: Bench, scenario: Scenario, policy: str, load: float) -> None:
        self.bench = bench
        self.scenario = scenario
        self.policy = policy
        self.load = load
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.sent: Counter[str] = Counter()
        self.failures = 0

    def figures(self, seed: int) -> dict[str, float]:
        """Run, and return what was measured."""
        bench, scenario = self.bench, self.scenario
        setup = bench.setup
        bench.prepare(scenario)
        ids = list(bench.servers)
        slowness = scenario.slowness(setup)
        capacity = {id: 1 / slow for id, slow in zip(ids, slowness, strict=True)}
        make = maker(self.policy, seed, capacity)
        for pool in bench.pools:
            pool.policy.use(make())
        cpu = bench.cpu()
        kept = sum(pool.kept for pool in bench.pools)
        began = monotonic()
        self._send_all(arrivals(setup, scenario.rate(setup, self.load), seed), began)
        kept = sum(pool.kept for pool in bench.pools) - kept
        connections = bench.connections()
        elapsed = monotonic() - began
        self.requests.join()
        clients, servers = (now - then for now, then in zip(bench.cpu(), cpu, strict=True))
        if scenario.event == "dies":
            del capacity[bench.last_id]
        shares = [self.sent[id] / capacity[id] for id in capacity]
        counts = [connections[id] for id in capacity]
        return {
            "p50": percentile(self.latencies, 50) * 1e3,
            "p99": percentile(self.latencies, 99) * 1e3,
            "p99.9": percentile(self.latencies, 99.9) * 1e3,
            "load max/mean": excess(shares),
            "load variation": variation(shares),
            "connections max/mean": excess(counts),
            "connections variation": variation(counts),
            "kept per second": kept / elapsed,
            "requests": len(self.latencies),
            "failures": self.failures,
            "lateness p99": percentile(self.lateness, 99) * 1e3,
            "client cpu": clients / elapsed,
            "server cpu": servers / elapsed,
        }

    def _send_all(self, requests: Iterator[Arrival], began: float) -> None:
        warm_up = self.bench.setup.warm_up
        pools = self.bench.pools
        happened = False
        self.requests = Group()
        for at, number, work in requests:
            wait = began + at - monotonic()
            if wait > 0:
                gevent.sleep(wait)
            measured = at >= warm_up
            if measured and self.scenario.event and not happened:
                happened = True
                self.bench.happen(self.scenario.event)
            self.requests.spawn(self._request, pools[number], began + at, work, measured)

    def _request(self, pool: CountingPool, at: float, work: float, measured: bool) -> None:
        """Make a request; its time counts from when it came, wherever it waited since."""
        if measured:
            self.lateness.append(monotonic() - at)
        timeout = self.bench.setup.timeout
        try:
            with Timeout(timeout), pool.lease(timeout) as sock:
                if measured:
                    self.sent[pool.server_of[sock]] += 1
                sock.sendall(WORK.pack(work))
                if not sock.recv(1):
                    raise ConnectionResetError
        except (OSError, PoolTimeout, Timeout):
            # Those before the measured time, too: whoever is served when a server dies.
            self.failures += 1
            return
        if measured:
            self.latencies.append(monotonic() - at)
