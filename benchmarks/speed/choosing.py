"""A lease and its end in a pool's decisions alone, with few servers and with many."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice
from random import Random

from benchmarks.measure import Row, compare, cpu_of, in_turn
from gevent_rover import Choice, Entry, LeastLoaded, LowestSlot, Server, Slot
from gevent_rover.policy.health import Health
from gevent_rover.policy.ranking import Ranking

_SERVER: Server = {"host": "192.0.2.1", "port": 1}  # nobody connects to it

#: Connections to each server, and how many of all are leased at any time.
CONNECTIONS, LEASED = 2, 5
#: Seconds from one lease to the next: each takes five times as long on average. Fewer
#: leases cost more each, since some of the work is done so many times a second.
_BETWEEN = 0.001

CHOICES: dict[str, Callable[[], Choice]] = {"LeastLoaded": LeastLoaded, "LowestSlot": LowestSlot}


def measure(rounds: int, *, quick: bool) -> list[Row]:
    count = 500 if quick else 50_000
    sizes = (10, 20) if quick else (10, 100, 1000)
    measures = {
        _name(choice, servers): _measure(make(), servers, count)
        for servers in sizes
        for choice, make in CHOICES.items()
    }
    figures = in_turn(rounds, measures)
    few = sizes[0]
    flat = [
        compare("choose", figures, _name("LeastLoaded", many), _name("LeastLoaded", few), 1.5)
        for many in sizes[1:]
    ]
    beside = [
        compare("choose", figures, _name("LeastLoaded", size), _name("LowestSlot", size), 5)
        for size in sizes
    ]
    return flat + beside


def _name(choice: str, servers: int) -> str:
    return f"{choice}, {servers:,} servers"


def _measure(choice: Choice, servers: int, count: int) -> Callable[[], float]:
    """Return a measure of what it costs to lease a connection and to give another back."""
    health = Health()
    health.tick([str(number) for number in range(servers)], 0.0)
    ranking: Ranking[Entry] = Ranking(servers * CONNECTIONS, choice)
    for slot in range(CONNECTIONS):
        for number in range(servers):
            entry = Entry(Slot(slot, str(number), _SERVER), health.of(str(number)))
            ranking.add(entry)
            ranking.make_idle(entry)
    now = 0.0
    leased = [ranking.lease(now) for _ in range(LEASED)]
    # Which one of them ends next: they don't come back in the order in which they went.
    ends = cycle(Random(servers).choices(range(LEASED), k=9973))

    def work(count: int) -> None:
        nonlocal now
        for end in islice(ends, count):
            now += _BETWEEN
            entry = leased[end]
            assert entry is not None
            leased[end] = ranking.lease(now)
            ranking.give_back(entry, now, "answered")

    return lambda: cpu_of(work, count)
