"""The greenlets of a pool's own: those that run its user's hooks, and tell what was closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import Greenlet, getcurrent, joinall

from gevent_rover.net.forks import kill_copy


class Tasks:
    """Greenlets with one owner. None is left running unless something it calls never returns."""

    def __init__(self) -> None:
        self._greenlets: set[Greenlet[..., Any]] = set()

    def spawn(self, function: Callable[..., Any], *args: Any) -> Greenlet[..., Any]:
        """Have a greenlet call ``function``. Doesn't switch."""
        greenlet = Greenlet(function, *args)
        self._greenlets.add(greenlet)
        greenlet.rawlink(self._greenlets.discard)
        greenlet.start()
        return greenlet

    def join(self, timeout: float | None) -> None:
        """Wait until all of them have ended, but for the caller.

        :param timeout: seconds; None: as long as it takes.
        """
        others = [greenlet for greenlet in self._greenlets if greenlet is not getcurrent()]
        if others:
            joinall(others, timeout)

    def abandon(self) -> None:
        """Let go of them, in a forked child, where they are copies of the parent's."""
        for greenlet in self._greenlets:
            kill_copy(greenlet)
        self._greenlets.clear()
