"""Quick roving: how many attempts may be on their way while connections are wanted.

Clocked by success, like TCP's slow start. It decides and counts, and does
nothing else: no gevent, no socket, no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

#: Seconds until an attempt counts as hanging: it no longer is one of those on
#: their way. A slot line takes two round trips, some 10 ms in a region and at
#: most 0.3 s around the globe. Too short a moment starts attempts in vain,
#: never more than ``max_pending``; too long a one idles behind silent servers.
MOMENT: Final = 0.1

#: Failures in a row that end quick roving until a tick's attempt succeeds.
MAX_FAILURES: Final = 8


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
        self._began: OrderedDict[Hashable, tuple[str | None, float]] = OrderedDict()
        #: Servers that failed or hung since the latest tick: quick roving takes
        #: others. Else every third attempt or so would end up at a silent quarter
        #: of the servers, until all of ``max_pending`` hang there.
        self.left_out: set[str] = set()

    def __repr__(self) -> str:
        return f"<Pacing window={self.window} failures={self.failures} ended={self.ended}>"

    @property
    def ended(self) -> bool:
        """Whether no attempt may start before the next tick."""
        return self._ended or self.failures >= MAX_FAILURES

    def tick(self) -> None:
        """Begin a new interval: every server gets another chance."""
        self._ended = False
        self.left_out.clear()

    def end(self) -> None:
        """Start no more attempts until the next tick, and begin anew then."""
        self._ended = True
        self.window = 1

    def begin(self, key: Hashable, id: str | None, now: float) -> None:
        """Count an attempt as on its way; the same key again counts as once, from now."""
        self._began[key] = id, now
        self._began.move_to_end(key)

    def finish(self, key: Hashable) -> None:
        """Count an attempt as over. Unknown keys are no error."""
        self._began.pop(key, None)

    def succeed(self) -> None:
        """Widen the window: a success allows one more attempt on its way."""
        self.failures = 0
        if self.window < self.max_window:
            self.window += 1

    def fail(self, id: str | None) -> None:
        """Halve the window, and leave the server out until the next tick."""
        self.failures += 1
        self.window = max(1, self.window // 2)
        if id is not None:
            self.left_out.add(id)

    def room(self, wanted: int, now: float) -> int:
        """Return how many attempts may start right now (below 1: none).

        :param wanted: how many more connections are wanted.
        """
        if self.ended:
            return 0
        while self._began:
            key, (id, began) = next(iter(self._began.items()))
            if began > now - MOMENT:
                break
            del self._began[key]
            if id is not None:
                self.left_out.add(id)
        return min(self.window, wanted) - len(self._began)
