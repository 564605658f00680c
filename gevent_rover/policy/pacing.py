"""Quick roving: how many attempts may be on their way while connections are wanted.

Clocked by success, like TCP's slow start.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final

#: Seconds until an attempt counts as hanging: it no longer is one of those on
#: their way. A slot line takes two round trips, some 10 ms in a region and at
#: most 0.3 s around the globe. Too short a time starts attempts in vain,
#: never more than ``max_pending``; too long a one idles behind silent servers.
HANGS_AFTER: Final = 0.1

#: Failures in a row that end quick roving until a tick's attempt succeeds.
MAX_FAILURES: Final = 8


class Pacing:
    """The window of quick roving.

    :param max_window: the window's limit: the rover's ``max_pending``.
    """

    def __init__(self, max_window: int) -> None:
        self._max_window = max_window
        self.window = 1
        self.failures = 0
        # Why no attempt may start before the next tick.
        self._stopped = self._all_avoided = False
        # What is on its way, oldest first: the id of its server, and when it began.
        self._began: dict[Hashable, tuple[str | None, float]] = {}

    def __repr__(self) -> str:
        return f"<Pacing window={self.window} failures={self.failures} ended={self.ended}>"

    @property
    def max_window(self) -> int:
        """The window's limit, at least 1; may be changed at any time."""
        return self._max_window

    @max_window.setter
    def max_window(self, max_window: int) -> None:
        self._max_window = max_window
        self.window = min(self.window, max_window)

    @property
    def ended(self) -> bool:
        """Whether no attempt may start before the next tick."""
        return self._stopped or self._all_avoided or self.failures >= MAX_FAILURES

    def tick(self) -> None:
        """Begin a new interval."""
        self._stopped = self._all_avoided = False

    def end(self, *, all_avoided: bool = False) -> None:
        """Start no more attempts until the next tick, and begin anew then.

        :param all_avoided: whether that's only since all servers are avoided.
        """
        if all_avoided:
            self._all_avoided = True
        else:
            self._stopped = True
        self.window = 1

    def resume(self) -> None:
        """Go on in this interval, if all that kept it from that was that servers are avoided."""
        self._all_avoided = False

    def begin(self, key: Hashable, id: str | None, now: float) -> None:
        """Count an attempt as on its way; the same key again counts as once, from now."""
        self._began.pop(key, None)
        self._began[key] = id, now

    def finish(self, key: Hashable) -> None:
        """Count an attempt as over. Unknown keys are no error."""
        self._began.pop(key, None)

    def hung(self, key: Hashable) -> bool:
        """Tell whether an attempt that isn't over has come to hang."""
        return key not in self._began

    def succeed(self) -> None:
        """Widen the window: a success allows one more attempt on its way."""
        self.failures = 0
        if self.window < self._max_window:
            self.window += 1

    def fail(self, *, counts: bool = True) -> None:
        """Halve the window.

        :param counts: whether it's one of the failures in a row. Further failures of
            one server in an interval aren't: those attempts had begun before the first
            one failed. Else a wide window would take one dead server of four for a
            dead fleet.
        """
        self.failures += counts
        self.window = max(1, self.window // 2)

    def hanging(self, now: float) -> Iterator[str | None]:
        """Count what hangs as on its way no more, and yield the ids of its servers."""
        while self._began:
            key, (id, began) = next(iter(self._began.items()))
            if began > now - HANGS_AFTER:
                return
            del self._began[key]
            yield id

    def room(self, wanted: int) -> int:
        """Return how many attempts may start right now (below 1: none).

        :param wanted: how many more connections are wanted.
        """
        return 0 if self.ended else min(self.window, wanted) - len(self._began)
