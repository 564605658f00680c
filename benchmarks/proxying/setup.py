"""How much of everything the benchmark has, and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setup:
    """The numbers of a full run; see :data:`QUICK` for the others."""

    # Throughput: what redis-benchmark makes in a turn, with how many connections.
    clients: int = 50
    pings: int = 100_000
    gets: int = 20_000
    #: Bytes of the value that is got.
    value: int = 65536
    #: Seconds after which a turn has stalled. It's repeated once.
    limit: float = 20.0

    # Memory: pairs of connections that are idle. socat has a process for each.
    pairs: int = 2000
    socat_pairs: int = 200

    # Lag: pairs that are idle beside the busy one, and seconds that are measured.
    idle: int = 5000
    watched: float = 2.0

    # Balance: servers, and what the last one of them adds to each answer, in seconds.
    servers: int = 4
    delay: float = 0.005
    greenlets: int = 20
    #: Connections of the pool, and of the relay's: more than greenlets.
    max_slots: int = 40
    #: Requests after which a connection through a proxy is renewed.
    lifetime: int = 50
    #: Seconds between an answer and the next request, on average, exponentially distributed.
    #: Without them the client's own CPU would be all that shows.
    pause: float = 0.005
    #: Seconds that are measured, and those before, which aren't.
    seconds: float = 3.0
    warm_up: float = 1.0


QUICK = Setup(
    pings=1000,
    gets=200,
    pairs=50,
    socat_pairs=5,
    idle=100,
    watched=0.2,
    seconds=0.4,
    warm_up=0.2,
)
