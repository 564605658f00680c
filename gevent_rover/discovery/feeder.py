"""The feeder: keeps a registry in step with a source, and lets no outage of it cost a server."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from random import uniform
from time import monotonic
from typing import Any, Final, Protocol

from gevent import Greenlet, getcurrent, sleep
from gevent.event import Event

from gevent_rover.checks import check_seconds
from gevent_rover.discovery.source import Source, warn_of
from gevent_rover.discovery.turns import in_turns
from gevent_rover.models import Server
from gevent_rover.net.forks import Forkable, check_fork, kill_copy
from gevent_rover.registry import check_server

#: Seconds between two changes of the registry at least: hundreds of changes in a second or
#: two become a few.
PACE: Final = 0.2

#: Seconds after which a source that failed is asked again, at first and at most.
RETRY_AFTER: Final = 1.0
RETRY_AT_MOST: Final = 30.0

# Changes that are logged one by one; of more than that, how many they were.
_LOGGED: Final = 50

_log: Final = logging.getLogger("gevent_rover.discovery")


class Fed(Protocol):
    """What is fed: a rover."""

    servers: dict[str, Server]

    def wake(self) -> None:
        """Rove at once: there are servers again."""


def feed(rover: Fed, source: Source, *, hold: float = 30.0) -> Feeder:
    """Start a feeder: the rover's registry follows the source from now on.

    :param rover: whose ``servers`` to change.
    :param source: who knows the servers.
    :param hold: as for :class:`Feeder`.
    :returns: the feeder; keep it, and :meth:`~Feeder.stop` it.
    """
    feeder = Feeder(rover, source, hold=hold)
    feeder.start()
    return feeder


class Feeder(Forkable):
    """Has a registry follow a source.

    It owns the entries that it made, and touches no others: an id that somebody else has put
    into the registry, or replaced there, is theirs. What changes is logged by
    ``gevent_rover.discovery``, at INFO.

    **Last known good:** a source that fails, or knows no server at all, changes nothing. One
    that drops more than half of the servers at once is believed in what it adds, but in what
    it drops only if that's still so after ``hold`` seconds.

    It belongs to a thread (hub), as the rover does. It doesn't cross a fork: in the child it
    is stopped, and the registry stays as it is.

    :param rover: whose ``servers`` to change; it's woken when the first one is there (again).
    :param source: who knows the servers.
    :param hold: seconds for which so many must be missing to be dropped.
    :raises ValueError: ``hold`` isn't a positive number.
    """

    def __init__(self, rover: Fed, source: Source, *, hold: float = 30.0) -> None:
        self.source = source
        self.hold = check_seconds("hold", hold)
        #: Why the source failed last; None: it hasn't since its latest answer.
        self.failure: Exception | None = None
        self._rover = rover
        self._owned: dict[str, Server] = {}
        self._greenlets: list[Greenlet[..., Any]] = []
        # The latest answer, until it's applied, and since when too many are missing in it.
        self._answer: Mapping[str, Server] | None = None
        self._answered = Event()
        self._short_since: float | None = None
        self._empty = False
        super().__init__()

    def __repr__(self) -> str:
        state = "started" if self.started else "stopped"
        parts = [f"<Feeder {state} {self.source!r} servers={len(self._owned)}"]
        if self._short_since is not None:
            parts.append(f"held for {monotonic() - self._short_since:.0f} s")
        if self._empty:
            parts.append("empty answer")
        if self.failure is not None:
            parts.append(f"failing: {self.failure}")
        return ", ".join(parts) + ">"

    def __enter__(self) -> Feeder:
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    @property
    def started(self) -> bool:
        """Whether it follows its source; in a forked child it doesn't, until :meth:`start`.

        It's started, too, when the source has said that nothing will change any more.
        """
        check_fork()
        return bool(self._greenlets)

    @property
    def servers(self) -> dict[str, Server]:
        """A copy of the entries that it has put into the registry."""
        return dict(self._owned)

    def start(self) -> None:
        """Follow the source from now on. Idempotent; doesn't switch."""
        if not self.started:
            self._answer, self._answered = None, Event()
            self._short_since = None
            self._greenlets = [Greenlet.spawn(self._ask), Greenlet.spawn(self._apply_answers)]

    def stop(self) -> None:
        """Follow it no more; the registry stays as it is. Idempotent.

        It waits until the source has cleaned up.
        """
        greenlets, self._greenlets = self._greenlets, []
        for greenlet in greenlets:
            if greenlet is not getcurrent():
                greenlet.kill()

    # Asking

    def _ask(self) -> None:
        wait = RETRY_AFTER
        while True:
            began = monotonic()
            try:
                self.source.run(self._take)
            except Exception as exc:
                before, self.failure = self.failure, exc
                warn_of(exc, before, "%r failed, all stays as it is", self.source)
            else:
                return
            if monotonic() - began > RETRY_AT_MOST:
                wait = RETRY_AFTER  # It was well for a while.
            # By chance, so that clients whose directory fails don't come back in step.
            sleep(wait * uniform(0.5, 1))
            wait = min(wait * 2, RETRY_AT_MOST)

    def _take(self, servers: Mapping[str, Server]) -> None:
        """Take an answer; it's applied soon. The source calls it."""
        found: dict[str, Server] = {}
        for id, server in in_turns(list(servers.items())):
            check_server(server, id)
            found[id] = server
        if self.failure is not None:
            _log.info("%r answers again", self.source)
            self.failure = None
        self._answer = found
        self._answered.set()

    # Applying

    def _apply_answers(self) -> None:
        while True:
            held = self._short_since
            left = None if held is None else max(0.0, held + self.hold - monotonic())
            if self._answered.wait(left):
                self._answered.clear()
            assert self._answer is not None
            self._apply(self._answer)
            sleep(PACE)

    def _apply(self, found: Mapping[str, Server]) -> None:
        """Bring the registry in step with an answer, as far as it's believed."""
        if not found:
            if not self._empty:
                _log.warning("%r knows no server at all: all stays as it is", self.source)
            self._empty, self._short_since = True, None
            return
        self._empty = False
        servers = self._rover.servers
        was_empty = not servers
        missing = [id for id in self._owned if id not in found]
        added, changed = self._add(found)
        if was_empty and servers:
            self._rover.wake()
        removed = self._remove(missing) if self._may_remove(len(missing)) else []
        self._tell(added, changed, removed)

    def _may_remove(self, missing: int) -> bool:
        """Tell whether to believe that so many are gone."""
        now = monotonic()
        if missing * 2 <= len(self._owned) or not missing:
            self._short_since = None
            return True
        if self._short_since is None:
            self._short_since = now
            _log.warning(
                "%r has dropped %d of %d servers at once: they stay for %g s, unless it has them"
                " again",
                self.source, missing, len(self._owned), self.hold,
            )  # fmt: skip
        if now < self._short_since + self.hold:
            return False
        self._short_since = None
        return True

    def _add(self, found: Mapping[str, Server]) -> tuple[list[str], list[str]]:
        """Put what's new, or has changed, into the registry."""
        servers = self._rover.servers
        added, changed = [], []
        for id, server in in_turns(found.items()):
            ours = self._owned.get(id)
            if ours is None:
                if id not in servers:
                    self._owned[id] = servers[id] = server
                    added.append(id)
            elif ours != server and servers.get(id) is ours:  # Else it's somebody else's now.
                self._owned[id] = servers[id] = server
                changed.append(id)
        return added, changed

    def _remove(self, ids: list[str]) -> list[str]:
        servers = self._rover.servers
        removed = []
        for id in in_turns(ids):
            ours = self._owned.pop(id)
            if servers.get(id) is ours:
                del servers[id]
                removed.append(id)
        return removed

    def _tell(self, added: list[str], changed: list[str], removed: list[str]) -> None:
        for what, ids in (("added", added), ("changed", changed), ("removed", removed)):
            for id in ids[:_LOGGED]:
                server = self._owned.get(id)
                _log.info("%s %r%s", what, id, "" if server is None else f": {server!r}")
            if len(ids) > _LOGGED:
                _log.info("%s %d more", what, len(ids) - _LOGGED)

    def _after_fork(self) -> None:
        greenlets, self._greenlets = self._greenlets, []
        abandon = getattr(self.source, "abandon", None)
        if greenlets and abandon is not None:
            abandon()
        for greenlet in greenlets:
            kill_copy(greenlet)
        self._answered = Event()
