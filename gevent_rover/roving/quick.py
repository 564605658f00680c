"""Quick roving: more attempts than one in an interval, while connections are wanted."""

from __future__ import annotations

import sys
from time import monotonic

from gevent import get_hub

from gevent_rover.errors import NoServersError, PoolError, ResourceError
from gevent_rover.models import Outcome
from gevent_rover.net.interrupts import calls_out
from gevent_rover.policy.health import Health
from gevent_rover.policy.pacing import Pacing
from gevent_rover.roving.attempts import PendingAttempt
from gevent_rover.roving.settings import Settings
from gevent_rover.roving.supply import CallableDemand, WeakDemand


class QuickRoving:
    """Who wants connections, and how many attempts may be on their way for that.

    :param rover: whose attempts they are.
    :param health: what is known of the servers.
    """

    def __init__(self, rover: Settings, health: Health) -> None:
        self._rover = rover
        self._health = health
        self._pacing = Pacing(rover.max_pending)
        #: Who wants connections, alive or collected; None: nobody.
        self.demand: WeakDemand | CallableDemand | None = None

    @property
    def living(self) -> WeakDemand | CallableDemand | None:
        """Who wants connections; None: nobody, or nobody any more."""
        demand = self.demand
        return demand if demand is not None and demand.alive else None

    def check_free(self, what: str) -> None:
        """Check that no pool is attached.

        :raises PoolError: one is.
        """
        if isinstance(self.living, WeakDemand):
            raise PoolError(f"{self._rover!r} has a pool already: {what}")

    def start(self) -> None:
        """Begin with a window of one."""
        self._pacing = Pacing(self._rover.max_pending)

    @calls_out
    def tick(self) -> None:
        """Begin a new interval, and tell who wants connections."""
        self._pacing.tick()
        self._health.tick(self._rover.servers, monotonic())
        demand = self.demand
        if demand is not None:
            try:
                demand.tick()
            except Exception:
                get_hub().handle_error(demand, *sys.exc_info())

    @calls_out
    def free_places(self) -> int:
        """Return how many attempts may start right now (below 1: none)."""
        demand = self.demand  # The collector may take a pool away at any time.
        if demand is None:
            return 0
        pacing = self._pacing
        pacing.max_window = self._rover.max_pending
        for id in pacing.hanging(monotonic()):
            if id is not None:
                self._health.hangs(id)
        try:
            return pacing.room(demand.wanted())
        except Exception:
            get_hub().handle_error(demand.wanted, *sys.exc_info())
            return 0

    def avoid(self, id: str) -> bool:
        """Tell whether to pick another server."""
        return self._health.avoid(id)

    def end(self) -> None:
        """Start no more attempts until the next tick, or until a server that hung answers."""
        self._pacing.end(all_avoided=True)

    def suspect(self, id: str | None) -> None:
        """Take note that a connection died young; None: nobody knows whose it was."""
        if id is None or self._health.suspect(id, monotonic()):
            self._pacing.end()

    # The life of an attempt, the ticks' own included

    def began(self, attempt: PendingAttempt) -> None:
        """Count an attempt as on its way."""
        if attempt.id is not None:
            self._health.picked(attempt.id)
        self._pacing.begin(attempt, attempt.id, attempt.began)

    def pace(self, outcome: Outcome, attempt: PendingAttempt) -> None:
        """Adapt the window to an outcome that isn't in the server's record yet."""
        if outcome == "connection":
            self._pacing.succeed()
            if attempt.id is not None and self._pacing.hung(attempt):
                self._health.came_late(attempt.id)
                self._pacing.resume()
        elif outcome != "discarded":
            id = attempt.id
            self._pacing.fail(counts=id is None or not self._health.has_failed(id))
            if isinstance(attempt.failure, (NoServersError, ResourceError)):
                self._pacing.end()

    def over(self, attempt: PendingAttempt) -> None:
        """Count an attempt as on its way no more."""
        self._pacing.finish(attempt)
