"""What this client knows of each server: one record, which all decisions read."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from gevent_rover.models import Outcome

#: Attempts that suspected servers get in an interval, all of them together: enough
#: to see soon that they are well again, too few to be a burden if they aren't.
MAX_PROBES: Final = 4


class ServerHealth:
    """One server's record."""

    __slots__ = ("avoided_in", "failed_in", "suspect", "unreachable_since")

    def __init__(self) -> None:
        #: Whether it said a slot and hung up: each such server gets one attempt in an
        #: interval, until a connection of its lasts for one. Else a pool would fill up
        #: with such connections again and again, before the first is seen to end.
        self.suspect = False
        #: When an attempt found it unreachable that had been reachable; None: it isn't.
        self.unreachable_since: float | None = None
        #: The interval in which an attempt failed last,
        self.failed_in = -1
        #: and the one in which quick roving takes others: since an attempt failed or
        #: hung. Else every third attempt or so would end up at a silent quarter of the
        #: servers, until all of ``max_pending`` hang there.
        self.avoided_in = -1


class Health:
    """The records of all servers, by id; each method is one event, or one question.

    Nothing is known of a server that has no record, and nothing speaks against it.
    An interval is the time from one tick to the next. They are counted here instead
    of timed: a tick that comes late ends its interval late.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, ServerHealth] = {}
        self._interval = 0
        self._suspicions = 0  # how many came to be suspected in this interval,
        self._probes = 0  # and how many attempts suspected ones got in it

    def __repr__(self) -> str:
        unreachable = sorted(id for id in self._by_id if self.is_unreachable(id))
        return f"<Health suspects={sorted(self.suspects)} unreachable={unreachable}>"

    # Events

    def tick(self, servers: Container[str]) -> None:
        """Begin an interval: every server gets another chance. Forget those that left.

        :param servers: the ids of the registry.
        """
        self._interval += 1
        self._suspicions = self._probes = 0
        self.forget_all_but(servers)
        for id, record in list(self._by_id.items()):
            if not record.suspect and record.unreachable_since is None:
                del self._by_id[id]

    def forget_all_but(self, servers: Container[str]) -> None:
        """Forget the servers that left the registry."""
        for id in list(self._by_id):
            if id not in servers:
                del self._by_id[id]

    def picked(self, id: str) -> None:
        """Take note that an attempt at ``id`` begins."""
        record = self._by_id.get(id)
        if record is not None and record.suspect:
            record.avoided_in = self._interval
            self._probes += 1

    def record(self, id: str, outcome: Outcome, now: float, *, called: bool = False) -> None:
        """Take note of how an attempt at ``id`` ended.

        :param now: a monotonic time, in seconds.
        :param called: whether a caller asked for it. Its failure is no reason then for
            the rover's own attempts to avoid the server.
        """
        if outcome == "connection":
            known = self._by_id.get(id)
            if known is not None:
                known.unreachable_since = None
        elif outcome != "discarded":
            record = self._record_of(id)
            if not called:
                record.failed_in = record.avoided_in = self._interval
            if outcome == "unreachable" and record.unreachable_since is None:
                record.unreachable_since = now

    def hangs(self, id: str) -> None:
        """Take note that an attempt at ``id`` has come to hang."""
        self._record_of(id).avoided_in = self._interval

    def suspect(self, id: str) -> bool:
        """Take note that a connection to ``id`` died young, and was never leased.

        :returns: whether so many servers came to be suspected in this interval that
            more attempts make no sense. A server that dies has young connections, too.
        """
        record = self._record_of(id)
        record.avoided_in = self._interval
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

    @property
    def suspects(self) -> set[str]:
        """The ids of the servers that are suspected."""
        return {id for id, record in list(self._by_id.items()) if record.suspect}

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

    def _record_of(self, id: str) -> ServerHealth:
        record = self._by_id.get(id)
        if record is None:
            record = self._by_id[id] = ServerHealth()
        return record
