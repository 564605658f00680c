"""What a forked child does before anything else: it lets go of what is its parent's."""

from __future__ import annotations

import os
from typing import Final
from weakref import WeakSet

_forkables: Final[WeakSet[Forkable]] = WeakSet()


class Forkable:
    """What holds sockets, watchers or greenlets that no forked child may use."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        _forkables.add(self)

    def _check_pid(self) -> None:
        """Notice a fork that ran none of Python's hooks: one made in C."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._after_fork()

    def _after_fork(self) -> None:
        """Let go of them, in the child: without a switch, without the hub, without an error."""
        raise NotImplementedError


def _after_fork_in_child() -> None:
    for forkable in list(_forkables):
        forkable._check_pid()


os.register_at_fork(after_in_child=_after_fork_in_child)
