"""What this client knows of each server: one record, which all decisions read."""

from __future__ import annotations

from collections.abc import Collection, Container
from typing import Final

from gevent_rover.models import Outcome
from gevent_rover.policy.server_health import Known, ServerHealth

#: Attempts that suspected servers get in an interval, all of them together: enough
#: to see soon that they are well again, too few to be a burden if they aren't.
MAX_PROBES: Final = 4

#: Seconds for which a server may be missing in the registry, and its record is kept.
ABSENCE: Final = 60.0


class Health(Known):
    """The records of all servers, by id; each method is one event, or one question.

    Nothing is known of a server that has no record, and nothing speaks against it.
    An interval is the time from one tick to the next. They are counted here instead
    of timed: a tick that comes late ends its interval late.
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_id: dict[str | None, ServerHealth] = {}
        self._interval = 0
        self._suspicions = 0  # how many came to be suspected in this interval,
        self._probes = 0  # and how many attempts suspected ones got in it

    def __repr__(self) -> str:
        return f"<Health suspects={sorted(self.suspects)} unreachable={sorted(self.down)}>"

    def of(self, id: str | None) -> ServerHealth:
        """Return the record of a server, a new one if there is none.

        :param id: None: the record of all connections of which nobody knows the server.
        """
        record = self._by_id.get(id)
        if record is None:
            record = self._by_id[id] = ServerHealth(self)
        return record

    def records(self) -> list[ServerHealth]:
        return list(self._by_id.values())

    # Events

    def tick(self, servers: Collection[str], now: float) -> None:
        """Begin an interval: every server gets another chance. Forget those that left.

        :param servers: the ids of the registry.
        :param now: a monotonic time, in seconds.
        """
        self._interval += 1
        self._suspicions = self._probes = 0
        self.servers = len(servers)
        self.forget_all_but(servers, now)
        for id, record in list(self._by_id.items()):
            if record.is_blank:
                del self._by_id[id]

    def forget_all_but(self, servers: Container[str], now: float) -> None:
        """Forget the servers that left the registry.

        What their attempts showed is forgotten at once, what their leases showed after
        :data:`ABSENCE`: who comes back soon is known.
        """
        for id, record in list(self._by_id.items()):
            if id is None or id in servers:
                record.absent_since = None
                continue
            record.suspect = False
            record.unreachable_since = record.trouble = None
            record.faulty = False
            record.failed_in = record.avoided_in = -1
            if record.absent_since is None:
                record.absent_since = now
            gone = now - record.absent_since >= ABSENCE
            if record.is_blank or (gone and not record.connections and not record.leased):
                del self._by_id[id]

    def forget_leases(self) -> None:
        """Forget all leases and connections: a forked child has none."""
        for record in self._by_id.values():
            record.forget_leases()

    def picked(self, id: str) -> None:
        """Take note that an attempt at ``id`` begins."""
        record = self._by_id.get(id)
        if record is not None and record.suspect:
            record.avoided_in = self._interval
            self._probes += 1

    def record(
        self, id: str, outcome: Outcome, now: float, *, failure: str = "", called: bool = False
    ) -> None:
        """Take note of how an attempt at ``id`` ended.

        :param now: a monotonic time, in seconds.
        :param failure: why there's no connection, in words.
        :param called: whether a caller asked for it. Its failure is no reason then for
            the rover's own attempts to avoid the server.
        """
        if outcome == "connection":
            record = self.of(id)
            record.unreachable_since = None
            record.attempted(None, now)
        elif outcome != "discarded":
            record = self.of(id)
            record.attempted(failure, now, faulty=outcome == "error")
            if not called:
                record.failed_in = record.avoided_in = self._interval
            if outcome == "unreachable" and record.unreachable_since is None:
                record.unreachable_since = now

    def hangs(self, id: str) -> None:
        """Take note that an attempt at ``id`` has come to hang."""
        self.of(id).avoided_in = self._interval

    def came_late(self, id: str) -> None:
        """Take note that an attempt at ``id`` that hung has got a slot: it isn't silent."""
        record = self._by_id.get(id)
        if record is not None and not record.suspect and record.failed_in != self._interval:
            record.avoided_in = -1

    def suspect(self, id: str, now: float) -> bool:
        """Take note that a connection to ``id`` died young, and was never leased.

        :param now: a monotonic time, in seconds.
        :returns: whether so many servers came to be suspected in this interval that
            more attempts make no sense. A server that dies has young connections, too.
        """
        record = self.of(id)
        record.avoided_in = self._interval
        record.went_wrong("connection", "it hung up on a new connection", now)
        if record.suspect:
            return False
        record.suspect = True
        self._suspicions += 1
        return self._suspicions >= MAX_PROBES

    def lasted(self, id: str) -> None:
        """Take note that a connection to ``id`` lasted for an interval: trust it again."""
        record = self._by_id.get(id)
        if record is not None:
            record.suspect = False

    # Questions

    def get(self, id: str | None) -> ServerHealth | None:
        """Return the record of a server; None: nothing is known of it."""
        return self._by_id.get(id)

    def ids(self) -> set[str | None]:
        """Return the ids of which anything is known; None among them where nobody said whose."""
        return set(self._by_id)

    @property
    def down(self) -> set[str]:
        """The ids of the servers that the latest attempt found unreachable."""
        return {id for id in list(self._by_id) if id and self.is_unreachable(id)}

    @property
    def suspects(self) -> set[str]:
        """The ids of the servers that are suspected."""
        return {id for id, record in list(self._by_id.items()) if id and record.suspect}

    def avoid(self, id: str) -> bool:
        """Tell whether quick roving should take another server than ``id`` in this interval."""
        record = self._by_id.get(id)
        if record is None:
            return False
        if record.avoided_in == self._interval:
            return True
        return record.suspect and self._probes >= MAX_PROBES

    def has_failed(self, id: str) -> bool:
        """Tell whether an attempt at ``id`` has failed in this interval."""
        record = self._by_id.get(id)
        return record is not None and record.failed_in == self._interval

    def unreachable_since(self, id: str) -> float | None:
        """Return since when ``id`` is unreachable; None: it isn't, as far as we know."""
        record = self._by_id.get(id)
        return None if record is None else record.unreachable_since

    def is_unreachable(self, id: str) -> bool:
        """Tell whether the latest attempt at ``id`` that had an answer found it unreachable."""
        return self.unreachable_since(id) is not None
