"""``python -m benchmarks.proxying.client WAY ADDRESSES SETUP``: redis-py, 20 at a time.

WAY is ``"proxied"`` (a connection for each greenlet, renewed again and again) or ``"pooled"``
(a slot pool's connection for each command). It prints what it measured.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Callable  # noqa: E402
from contextlib import ExitStack  # noqa: E402
from pathlib import Path  # noqa: E402
from random import Random  # noqa: E402
from time import monotonic  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import redis  # noqa: E402

sys.path.append(str(Path(__file__).parents[2] / "examples" / "clients"))

from redis_pool import RedisPool  # noqa: E402

from benchmarks.loopback import Address, registry  # noqa: E402
from benchmarks.measure import percentile  # noqa: E402
from benchmarks.proxying.setup import Setup  # noqa: E402
from gevent_rover import Rover  # noqa: E402

#: The key whose value is the number of the server that answers.
WHO = "server"


class Load:
    """A closed loop: greenlets that send the next request a while after the latest answer."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._random = Random(1)
        began = monotonic()
        self._from = began + setup.warm_up
        self._until = self._from + setup.seconds
        self._answered: Counter[int] = Counter()
        self._took: list[float] = []
        self.failures = 0

    @property
    def over(self) -> bool:
        return monotonic() >= self._until

    def request(self, get: Callable[[str], Any]) -> None:
        """Make a request, and wait as long as the next one is to wait."""
        began = monotonic()
        try:
            server = int(get(WHO))
        except redis.RedisError:
            self.failures += 1
        else:
            if self._from <= began < self._until:
                self._answered[server] += 1
                self._took.append(monotonic() - began)
        gevent.sleep(self._random.expovariate(1 / self._setup.pause))

    def run(self, work: Callable[[], None]) -> None:
        greenlets = [gevent.spawn(work) for _ in range(self._setup.greenlets)]
        gevent.joinall(greenlets, raise_error=True)

    def figures(self) -> dict[str, Any]:
        made = len(self._took)
        return {
            "shares": [
                100 * self._answered[server] / made for server in range(self._setup.servers)
            ],
            "requests/s": made / self._setup.seconds,
            "p50": percentile(self._took, 50) * 1e3,
            "p99": percentile(self._took, 99) * 1e3,
            "failures": self.failures,
        }


def proxied(address: Address, setup: Setup) -> dict[str, Any]:
    """Give each greenlet a connection of its own, and another one after some requests.

    Connecting isn't measured.
    """
    host, port = address
    load = Load(setup)

    def work() -> None:
        lives = setup.lifetime
        first = load_random.randrange(lives)  # They aren't all renewed at the same time.
        while not load.over:
            try:
                with redis.Redis(host=host, port=port, single_connection_client=True) as client:
                    client.ping()
                    for _ in range(lives - first):
                        if not load.over:
                            load.request(client.get)
            except redis.RedisError:  # It couldn't connect.
                load.failures += 1
            first = 0

    load_random = Random(2)
    load.run(work)
    return load.figures()


def pooled(servers: list[Address], setup: Setup) -> dict[str, Any]:
    """Lease a connection of a slot pool for each request, as the recipe for redis-py does."""
    with ExitStack() as stack:
        rover = Rover(registry(servers))
        pool = stack.enter_context(RedisPool(rover, slots={"max_slots": setup.max_slots}))
        stack.enter_context(rover)
        pool.slots.wait_ready(setup.greenlets, 30)
        client = redis.Redis(connection_pool=pool)
        load = Load(setup)

        def work() -> None:
            while not load.over:
                load.request(client.get)

        load.run(work)
        return load.figures()


def main(way: str, addresses: list[Address], setup: dict[str, Any]) -> None:
    if way == "pooled":
        figures = pooled(addresses, Setup(**setup))
    else:
        figures = proxied(addresses[0], Setup(**setup))
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))
