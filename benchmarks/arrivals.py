"""Requests that come when they come: a Poisson process, of exponentially distributed work."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TypeAlias

#: One request: when it comes, to which client, and the seconds of work in it.
Arrival: TypeAlias = "tuple[float, int, float]"


def poisson(rate: float, seconds: float, clients: int, mean: float, seed: int) -> Iterator[Arrival]:
    """Generate the requests of one run; with one seed they are the same for everybody."""
    random = Random(seed)
    at = 0.0
    while True:
        at += random.expovariate(rate)
        if at >= seconds:
            return
        yield at, random.randrange(clients), random.expovariate(1 / mean)
