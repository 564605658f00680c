"""The seam between a rover and what wants its connections: a pool, as a rule."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Protocol

from gevent_rover.models import Server
from gevent_rover.policy.health import Health


class Demand(Protocol):
    """What wants connections of a rover. A rover keeps none alive."""

    def wanted(self) -> int:
        """Return how many more connections are wanted right now.

        While that is above 0, the rover doesn't wait for its interval. It asks on
        every tick and after attempts; must not block.
        """

    def tick(self) -> None:
        """Do what is to be done once in an interval; must not block."""


class Supply(Protocol):
    """What :meth:`Rover.attach` returns: what a demand may ask of the rover, and tell it.

    None of it switches greenlets.
    """

    @property
    def servers(self) -> dict[str, Server]:
        """The rover's registry."""

    @property
    def interval(self) -> float:
        """Its ``roving_interval``, in seconds."""

    @property
    def timeout(self) -> float:
        """Its ``timeout``: the seconds that an attempt may take."""

    @property
    def health(self) -> Health:
        """What is known of each server: one record for rover and demand."""

    def more_wanted(self) -> None:
        """Have :meth:`Demand.wanted` looked at now: it has grown."""

    def seek(self, id: str) -> None:
        """Have an attempt made at this server now, beside the others, if it may be."""

    def suspect(self, id: str | None) -> None:
        """Tell that a connection died within an interval, and was never leased.

        Its server said a slot and hung up: that mustn't keep the rover racing.

        :param id: the server's; None: nobody knows whose it was.
        """

    def hangs(self, id: str) -> None:
        """Tell that a connection to this server isn't ready for use after a while.

        Others are tried until the next tick.
        """

    def lasted(self, id: str) -> None:
        """Tell that a connection to this server lasted for an interval."""

    def describe(self) -> str:
        """Return what helps to find out why there are no connections."""

    def detach(self) -> None:
        """Want nothing more; idempotent. The rover may get another demand then."""


class WeakDemand:
    """An attached demand, as the rover holds it: without keeping it alive."""

    def __init__(self, demand: Demand) -> None:
        self._demand = weakref.ref(demand)

    @property
    def alive(self) -> bool:
        return self._demand() is not None

    def wanted(self) -> int:
        demand = self._demand()
        return 0 if demand is None else demand.wanted()

    def tick(self) -> None:
        demand = self._demand()
        if demand is not None:
            demand.tick()


class CallableDemand:
    """The shorthand ``rover.wanted``: a callable alone."""

    alive = True

    def __init__(self, wanted: Callable[[], int]) -> None:
        self.wanted = wanted

    def tick(self) -> None:
        pass
