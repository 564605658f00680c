"""The named signals, what they carry, and how they are sent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import iscoroutine
from typing import Any, Final, Literal

from blinker import NamedSignal, Namespace
from gevent import get_hub

from gevent_rover.registry import Server

_namespace: Final = Namespace()

connection: Final = _namespace.signal(
    "connection",
    """A slot line arrived. Keywords: ``slot`` (a :class:`Slot`) and ``socket``.

    The receivers own the socket as soon as one of them returns normally.""",
)
unreachable: Final = _namespace.signal(
    "unreachable",
    """No slot could be had from a server. Keywords: ``id`` and ``server``.""",
)
error: Final = _namespace.signal(
    "error",
    """Something is wrong that trying another server doesn't explain.

    Keyword: ``error`` (a :class:`RoverError`).""",
)
attempt: Final = _namespace.signal(
    "attempt",
    """An attempt is over, whatever its outcome. Keyword: ``attempt`` (an :class:`Attempt`).""",
)

#: The signals by name, for :meth:`Rover.on`.
SIGNALS: Final[dict[str, NamedSignal]] = dict(_namespace)


class Slot(int):
    """A slot: an ``int`` that also knows the server it is a slot of."""

    server_id: str
    #: The registry's own entry of that server.
    server: Server

    def __new__(cls, slot: int, server_id: str, server: Server) -> Slot:
        self = int.__new__(cls, slot)
        self.server_id = server_id
        self.server = server
        return self

    def __getnewargs__(self) -> tuple[int, str, Server]:  # type: ignore[override]
        return int(self), self.server_id, self.server


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt ended."""

    #: The id of the server that was picked; None when there was none.
    id: str | None
    #: The registry's own entry of that server.
    server: Server | None
    outcome: Literal["connection", "unreachable", "error", "discarded"]
    #: The slot that arrived; None with every outcome but ``"connection"``.
    slot: Slot | None
    #: Why there is no connection; None with ``"connection"`` and ``"discarded"``.
    error: Exception | None
    #: Seconds from the pick to the outcome.
    elapsed: float


def deliver(signal: NamedSignal, sender: object, **keywords: Any) -> Iterator[bool]:
    """Send a signal so that no receiver can spoil it for the others.

    A receiver that raises an :class:`Exception` is reported through the hub's
    ``handle_error``, and the others still run. An ``async def`` receiver counts
    as raising: nobody would run it. Any other :class:`BaseException` (a kill, a
    caller's :class:`gevent.Timeout`) passes through at once.

    :returns: an iterator that calls one live receiver a step (none if there is
        none) and yields whether it returned normally.
    """
    if not signal.receivers or signal.is_muted:
        return
    # has_receivers_for() counts weak receivers that are gone: look.
    for receiver in list(signal.receivers_for(sender)):
        try:
            result = receiver(sender, **keywords)
            if result is not None and iscoroutine(result):
                result.close()
                raise TypeError(f"{receiver!r} is async: a receiver must be a plain function")
        except Exception:
            get_hub().handle_error(receiver, *sys.exc_info())
            yield False
        else:
            yield True
