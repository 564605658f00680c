"""What is measured, of whom, and how much of everything there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OURS = "ours"
LOWEST = "lowest slot"
BY_HAND = "two choices by hand"

#: In the order of their turns. What each is, is said in ``app.py``.
PEERS = (OURS, LOWEST, BY_HAND)


@dataclass(frozen=True, slots=True)
class Setup:
    """gunicorn, the servers, and how long it takes."""

    workers: int = 4
    max_slots: int = 10
    servers: int = 4
    #: How many requests a server works on at a time.
    server_workers: int = 4
    #: How many times longer a slow server works.
    slowness: float = 4.0
    #: Seconds of rest after the unsettled part: two intervals of the example's rover with it.
    settle: float = 1.0
    #: What the seconds of each part are multiplied with.
    scale: float = 1.0
    #: Seconds before each part but the unsettled one, which aren't measured.
    warm_up: float = 0.3
    #: Seconds after which something is wrong.
    timeout: float = 20.0


QUICK = Setup(settle=0.1, scale=0.1, warm_up=0.05)


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is measured once in each start."""

    section: Literal["unsettled", "share", "slow", "fails"]
    clients: int
    #: Milliseconds that a request works on average, exponentially distributed: so few
    #: that there are many requests, so many that two cores have time to spare.
    mean: float
    seconds: float
    what: str = ""
    #: Whether the app raises in the ``with`` block when a server says that it failed.
    raises: bool = False


PARTS = (
    Part("unsettled", 16, 10.0, 1.0),
    Part("share", 4, 5.0, 2.0),
    Part("share", 16, 10.0, 2.0),
    Part("slow", 4, 5.0, 2.0),
    Part("slow", 16, 10.0, 2.0),
    Part("fails", 16, 10.0, 1.0, "pool isn't told"),
    Part("fails", 16, 10.0, 1.0, "app raises", raises=True),
)

SECTIONS = tuple(dict.fromkeys(part.section for part in PARTS))
