"""``python -m benchmarks.balance``: how well a pool's choice of connections spreads the load.

Real servers with workers and queues, real pools, and requests that come when they
come, whether the earlier ones are answered or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from random import Random
from time import monotonic, process_time
from typing import Any, Literal
from weakref import WeakKeyDictionary

import gevent
from gevent import Timeout
from gevent.pool import Group

from benchmarks.child import Child, python
from benchmarks.fleet import WORK
from benchmarks.fleets import excess, variation
from benchmarks.loopback import registry
from benchmarks.measure import Spread, percentile
from benchmarks.parameters import QUICK, Setup, Start
from benchmarks.policies import CANDIDATES, LOWEST, POLICIES, maker
from benchmarks.report import about, arguments, heading, markdown, show, write
from gevent_rover import PoolTimeout, Rover, Slot, SlotPool


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens to the servers (some are slow, or the last one comes or goes), and the start."""

    name: str
    loads: tuple[float, ...]
    slow: int = 0
    event: Literal["", "dies", "joins"] = ""
    start: Start = "together"

    def slowness(self, setup: Setup) -> list[float]:
        slow = [setup.slowness] * self.slow
        return slow + [1.0] * (setup.servers - self.slow)

    @property
    def policies(self) -> list[str]:
        """Their names: a change of ours that might be worth it isn't for the rare case."""
        return [name for name in POLICIES if not (self.event and name in CANDIDATES)]

    def rate(self, setup: Setup, load: float) -> float:
        """Return the requests per second that are ``load`` for the fleet at its smallest."""
        capacity = [setup.workers / setup.mean / slowness for slowness in self.slowness(setup)]
        return load * sum(capacity[:-1] if self.event else capacity)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("steady", (0.3, 0.7, 0.9)),
        Scenario("two slow servers", (0.7, 0.9), slow=2),
        Scenario("one dies", (0.7, 0.9), event="dies"),
        Scenario("one joins", (0.7, 0.9), event="joins"),
        Scenario("started in turn", (0.7,), start="in turn"),
    )
}

#: One request: when it comes, to which pool, and the seconds of work in it.
Arrival = tuple[float, int, float]


def arrivals(setup: Setup, rate: float, seed: int) -> Iterator[Arrival]:
    """Generate the requests of one run; with one seed they are the same for every policy."""
    random = Random(seed)
    at = 0.0
    while True:
        at += random.expovariate(rate)
        if at >= setup.warm_up + setup.seconds:
            return
        yield at, random.randrange(setup.pools), random.expovariate(1 / setup.mean)


class CountingPool(SlotPool):
    """A pool that counts the connections that it takes in, and knows whose they are."""

    def __init__(self, rover: Rover, max_slots: int) -> None:
        self.kept = 0
        self.server_of: WeakKeyDictionary[gevent.socket.socket, str] = WeakKeyDictionary()
        super().__init__(rover, max_slots=max_slots)

    def offer(self, slot: int, socket: gevent.socket.socket) -> bool:
        assert isinstance(slot, Slot)
        self.server_of[socket] = slot.server_id
        kept = super().offer(slot, socket)
        self.kept += kept
        return kept

    @property
    def quiet(self) -> bool:
        """Whether it is full, and nobody uses it."""
        return self.deficit == self.leased == self.retired == 0

    def choose_with(self, make: Any) -> None:
        """Lease with another policy from now on, and keep all connections. Nothing is leased."""
        assert self.leased == self.retired == 0
        ranking = make(self.max_slots)
        for ranked in self._ranking:
            ranking.add(ranked)
            ranking.rest(ranked)
        self._ranking = ranking


class Bench:
    """Two processes of servers (the last server has its own), and the pools that use them."""

    def __init__(self, setup: Setup, stack: ExitStack) -> None:
        self.setup = setup
        self._stack = stack
        count = setup.servers - 1
        self._staying = stack.enter_context(python("fleet", count, setup.workers, []))
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
        child = self._stack.enter_context(python("fleet", 1, self.setup.workers, ports))
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
            pool.choose_with(make)
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


Rounds = list[dict[str, float]]


def measure(
    setup: Setup, scenarios: Sequence[Scenario], rounds: int, *, quick: bool = False
) -> list[dict[str, Any]]:
    """Return a row for each scenario, load and policy."""
    figures: dict[tuple[str, float, str], Rounds] = {}
    with ExitStack() as stack:
        bench = Bench(setup, stack)
        stack.callback(bench.disconnect)
        for number in range(rounds):
            bench.start = None
            for scenario in scenarios:
                if bench.start != scenario.start:
                    bench.connect(scenario.start)
                for load in scenario.loads[-1:] if quick else scenario.loads:
                    for policy in scenario.policies:
                        show(f"round {number + 1}/{rounds}: {scenario.name}, {load:.0%}, {policy}")
                        seed = 100 * number + round(100 * load)
                        for _ in range(3):
                            found = Run(bench, scenario, policy, load).figures(seed)
                            if found["lateness p99"] <= 1e3 * setup.lateness:
                                break
                        figures.setdefault((scenario.name, load, policy), []).append(found)
    show("")
    return rows_of(figures)


def rows_of(figures: dict[tuple[str, float, str], Rounds]) -> list[dict[str, Any]]:
    """Return the rows: medians and spread over the rounds, ratios taken within each."""
    rows = []
    for (scenario, load, policy), rounds in figures.items():
        row: dict[str, Any] = {"scenario": scenario, "load": load, "policy": policy}
        for name in rounds[0]:
            row[name] = asdict(Spread.of([figure[name] for figure in rounds]))
        ours = figures[scenario, load, LOWEST]
        ratios = [one["p99"] / other["p99"] for one, other in zip(rounds, ours, strict=True)]
        row["p99 ratio"] = asdict(Spread.of(ratios))
        rows.append(row)
    return rows


COLUMNS = {
    "p50": "p50, ms",
    "p99": "p99, ms",
    "p99.9": "p99.9, ms",
    "p99 ratio": "p99 / ours",
    "load max/mean": "load, max/mean",
    "load variation": "load, variation",
    "connections max/mean": "connections, max/mean",
    "kept per second": "new connections /s",
    "failures": "failures",
}

#: Those of which the lowest and the highest round are shown, too.
SPREAD = ("p99", "p99 ratio")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table, in Markdown."""
    lines = [["scenario", "load", "policy", *COLUMNS.values()]]
    for row in rows:
        cells = [row["scenario"], f"{row['load']:.0%}", row["policy"]]
        for name in COLUMNS:
            spread = Spread(**row[name])
            cells.append(str(spread) if name in SPREAD else f"{spread.median:.3g}")
        lines.append(cells)
    return markdown(lines)


def main() -> None:
    parser = arguments("benchmarks.balance", __doc__, SCENARIOS, "balance.json")
    parser.add_argument("--rounds", type=int, help="how many rounds (default: 3)")
    parser.add_argument("--seconds", type=float, help="how long each run is measured (default: 3)")
    options = parser.parse_args()
    setup = QUICK if options.quick else Setup()
    if options.seconds:
        setup = replace(setup, seconds=options.seconds)
    rounds = options.rounds or (1 if options.quick else 3)
    names = options.only or list(SCENARIOS)
    rows = measure(setup, [SCENARIOS[name] for name in names], rounds, quick=options.quick)
    report = about("benchmarks.balance", rounds)
    report |= {"setup": asdict(setup), "rows": rows}
    print(heading(report))
    print(table(rows))
    write(options.output, report)


if __name__ == "__main__":
    main()
