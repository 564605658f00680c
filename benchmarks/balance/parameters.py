"""How much of everything there is, in the real run and in the model of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal


@dataclass(frozen=True, slots=True)
class Setup:
    """The servers, the clients, the requests, and how long it takes."""

    servers: int = 10
    workers: int = 4
    pools: int = 30
    max_slots: int = 20
    #: Seconds that a request works on average, exponentially distributed.
    mean: float = 0.025
    slowness: float = 4.0
    roving_interval: float = 0.15
    #: Seconds that are measured in each run, and those before, which aren't.
    seconds: float = 3.0
    warm_up: float = 0.5
    #: Seconds that the pools may take to settle before a run.
    settle: float = 5.0
    #: Seconds after which a request has failed.
    timeout: float = 10.0
    #: Seconds that one of a hundred requests may start late. A run that exceeds it
    #: measured what else the machine does, and is repeated, at most twice.
    lateness: float = 0.01


QUICK = Setup(
    servers=4,
    pools=6,
    max_slots=8,
    mean=0.008,
    seconds=0.08,
    warm_up=0.02,
    settle=0.2,
    timeout=2.0,
    lateness=inf,
)

#: How the clients came by their connections: all pools filled at the same time; one
#: after the other; or so, and each client has been restarted a few times since.
Start = Literal["together", "in turn", "restarted"]
