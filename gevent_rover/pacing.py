"""Quick roving: how many attempts may be on their way while connections are wanted.

Clocked by success, like TCP's slow start. It decides and counts, and does
nothing else: no gevent, no socket, no clock.
"""

from __future__ import annotations

from collections.abc import Container, Hashable
from typing import Final

#: Seconds until an attempt counts as hanging: it no longer is one of those on
#: their way. A slot line takes two round trips, some 10 ms in a region and at
#: most 0.3 s around the globe. Too short a moment starts attempts in vain,
#: never more than ``max_pending``; too long a one idles behind silent servers.
MOMENT: Final = 0.1

#: Failures in a row that end quick roving until a tick's attempt succeeds.
MAX_FAILURES: Final = 8

#: Attempts that doubted servers get in an interval, all of them together: enough
#: to see soon that they are well again, too few to be a burden if they aren't.
MAX_PROBES: Final = 4


class Pacing:
    """The window of quick roving, and the servers that it leaves out.

    :param max_window: the window's limit: the rover's ``max_pending``.
    """

    def __init__(self, max_window: int) -> None:
        self.max_window = max_window
        self.window = 1
        self.failures = 0
        self._ended = False
        # What is on its way, oldest first: its id, and when it began.
        self._began: dict[Hashable, tuple[str | None, float]] = {}
        #: Servers that failed or hung since the latest tick: quick roving takes
        #: others. Else every third attempt or so would end up at a silent quarter
        #: of the servers, until all of ``max_pending`` hang there.
        self.left_out: set[str] = set()
        self._failed: set[str] = set()  # since the latest tick
        #: Servers that said a slot and hung up: each gets one attempt in an interval,
        #: until a connection of its lasts for one. Else a pool would fill up with such
        #: connections again and again, before the first of them is seen to end.
        self.doubted: set[str] = set()
        self._doubts = 0  # how many came to be doubted in this interval,
        self._probes = 0  # and how many attempts doubted ones got in it

    def __repr__(self) -> str:
        return f"<Pacing window={self.window} failures={self.failures} ended={self.ended}>"

    @property
    def ended(self) -> bool:
        """Whether no attempt may start before the next tick."""
        return self._ended or self.failures >= MAX_FAILURES

    def tick(self, servers: Container[str]) -> None:
        """Begin a new interval: every server gets another chance.

        :param servers: the ids of the registry.
        """
        self._ended = False
        self.left_out.clear()
        self._failed.clear()
        self._doubts = self._probes = 0
        self.doubted = {id for id in self.doubted if id in servers}

    def pick(self, id: str) -> None:
        """Take note that ``id`` was picked for an attempt."""
        if id in self.doubted:
            self.left_out.add(id)
            self._probes += 1
            if self._probes >= MAX_PROBES:
                self.left_out |= self.doubted

    def doubt(self, id: str | None) -> None:
        """Take note that a connection died young; None: nobody knows whose it was.

        That server is left out. It ends quick roving until the next tick only if
        there are several of them: a server that dies has young connections, too.
        """
        if id is None:
            self.end()
        elif id not in self.doubted:
            self.doubted.add(id)
            self._doubts += 1
            if self._doubts >= MAX_PROBES:
                self.end()
        if id is not None:
            self.left_out.add(id)

    def end(self) -> None:
        """Start no more attempts until the next tick, and begin anew then."""
        self._ended = True
        self.window = 1

    def begin(self, key: Hashable, id: str | None, now: float) -> None:
        """Count an attempt as on its way; the same key again counts as once, from now."""
        self._began.pop(key, None)
        self._began[key] = id, now

    def finish(self, key: Hashable) -> None:
        """Count an attempt as over. Unknown keys are no error."""
        self._began.pop(key, None)

    def succeed(self) -> None:
        """Widen the window: a success allows one more attempt on its way."""
        self.failures = 0
        if self.window < self.max_window:
            self.window += 1

    def fail(self, id: str | None) -> None:
        """Halve the window, and leave the server out until the next tick.

        Further failures of one server in an interval aren't counted: those attempts
        had begun before the first one failed. Else a wide window would take one
        dead server of four for a dead fleet.
        """
        if id is None or id not in self._failed:
            self.failures += 1
        self.window = max(1, self.window // 2)
        if id is not None:
            self._failed.add(id)
            self.left_out.add(id)

    def room(self, wanted: int, now: float) -> int:
        """Return how many attempts may start right now (below 1: none).

        :param wanted: how many more connections are wanted.
        """
        if self.ended:
            return 0
        hanging = []
        for key, (id, began) in self._began.items():
            if began > now - MOMENT:
                break
            hanging.append(key)
            if id is not None:
                self.left_out.add(id)
        for key in hanging:
            del self._began[key]
        return min(self.window, wanted) - len(self._began)
