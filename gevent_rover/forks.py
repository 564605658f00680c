"""What a forked child does before anything else: it lets go of what is its parent's."""

from __future__ import annotations

import os
from typing import Final, Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """What holds sockets, watchers or greenlets that no child may use."""

    def _after_fork(self) -> None:
        """Let go of them, in the child: without a switch, without the hub, without an error."""


_forkables: Final[WeakSet[Forkable]] = WeakSet()


def follow(forkable: Forkable) -> None:
    """Have ``forkable`` told in every child of this process, for as long as it lives."""
    _forkables.add(forkable)


def _after_fork_in_child() -> None:
    for forkable in list(_forkables):
        forkable._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
