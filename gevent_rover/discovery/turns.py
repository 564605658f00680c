"""Long work in pieces, between which others run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from gevent import sleep

#: Entries of a registry that are looked at without a switch: some 2 ms.
AT_A_TIME: Final = 500

_Thing = TypeVar("_Thing")


def give_way() -> None:
    """Let others run.

    By a timer: a ``sleep(0)`` would leave timers and sockets waiting, since gevent's loop runs
    up to 50 callbacks, which it makes, before it looks at the clock and at its descriptors.
    """
    sleep(0.0005)


def in_turns(things: Iterable[_Thing]) -> Iterator[_Thing]:
    """Yield ``things``, and let others run after every :data:`AT_A_TIME` of them."""
    for number, thing in enumerate(things, 1):
        yield thing
        if number % AT_A_TIME == 0:
            give_way()
