"""What the model of the real run is asked: how the servers, the clients and the work are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.balance.parameters import Setup, Start

#: What happens to the first server; the times are those of :mod:`queueing`.
Event = Literal["", "stalls", "browns out", "fails fast"]

#: What a client does with an answer that says that the server failed: it tells the
#: pool and keeps the connection, tells it nothing, or discards the connection.
Failure = Literal["told", "not told", "hangs up"]

_USUAL = Setup()
_MANY = Setup(pools=300)
_BIG = Setup(pools=1, max_slots=100)
_SMALL = Setup(max_slots=3)
_WIDE = Setup(servers=200, max_slots=200)
_THIN = Setup(servers=200, workers=1)


@dataclass(frozen=True, slots=True)
class Case:
    """A load, and what differs from ten equal servers whose clients started together."""

    name: str
    load: float = 0.7
    setup: Setup = _USUAL
    #: How many servers take ``setup.slowness`` times longer.
    slow: int = 0
    start: Start = "together"
    #: Log-normal with three times the mean as its standard deviation; else exponential.
    heavy_tailed: bool = False
    event: Event = ""
    failure: Failure = "told"
    #: Of the first server's slots,
    stride: int = 1
    #: and how many workers that one has. 0: as many as the others.
    strided_workers: int = 0

    def __str__(self) -> str:
        return f"{self.name}, {self.load:.0%}"

    def workers(self, number: int) -> int:
        """Return how many workers a server has."""
        return (not number and self.strided_workers) or self.setup.workers

    def slowness(self, number: int) -> float:
        """Return how many times longer a server takes."""
        return self.setup.slowness if number < self.slow else 1.0


def _cases() -> Iterator[Case]:
    for load in (0.3, 0.7, 0.9):
        yield Case("steady", load)
    for load in (0.3, 0.7, 0.9):
        yield Case("two slow", load, slow=2)
    for load in (0.3, 0.7, 0.9):
        yield Case("started in turn", load, start="in turn")
    for load in (0.7, 0.9):
        yield Case("started in turn, two slow", load, start="in turn", slow=2)
    yield Case("restarted", start="restarted")
    yield Case("restarted, two slow", start="restarted", slow=2)
    yield Case("300 clients", setup=_MANY)
    for load in (0.7, 0.9):
        yield Case("300 clients, two slow", load, setup=_MANY, slow=2)
    for load in (0.7, 0.9):
        yield Case("one big client", load, setup=_BIG)
    yield Case("one big client, two slow", setup=_BIG, slow=2)
    yield Case("pools of 3", setup=_SMALL)
    yield Case("pools of 3, two slow", setup=_SMALL, slow=2)
    yield Case("200 servers, pools of 200", setup=_WIDE)
    yield Case("200 servers, pools of 200, 40 slow", setup=_WIDE, slow=40)
    yield Case("200 servers, one worker each", setup=_THIN)
    yield Case("200 servers, one worker each, 40 slow", setup=_THIN, slow=40)
    yield Case("six slow", slow=6)
    yield Case("two servers, one slow", setup=Setup(servers=2), slow=1)
    yield Case("four servers, one slow", setup=Setup(servers=4), slow=1)
    yield Case("heavy-tailed work", heavy_tailed=True)
    yield Case("heavy-tailed work, two slow", heavy_tailed=True, slow=2)
    yield Case("one stalls", event="stalls")
    yield Case("one browns out", event="browns out")
    yield Case("300 clients, one browns out", setup=_MANY, event="browns out")
    yield Case("two slow, by 2", setup=Setup(slowness=2.0), slow=2)
    yield Case("two slow, by 10", setup=Setup(slowness=10.0), slow=2)
    yield Case("one fails fast, told", event="fails fast", failure="told")
    yield Case("one fails fast, hangs up", event="fails fast", failure="hangs up")
    for load in (0.3, 0.7):
        yield Case("one fails fast, not told", load, event="fails fast", failure="not told")
    yield Case(
        "one big client, one fails fast, not told",
        setup=_BIG,
        event="fails fast",
        failure="not told",
    )
    for load in (0.3, 0.7, 0.9):
        yield Case("stride 2, half the workers", load, stride=2, strided_workers=2)
    yield Case("stride 2, all workers", stride=2)


#: In the order of the table.
CASES = tuple(_cases())
