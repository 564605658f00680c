"""The named signals, and how they are sent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import iscoroutine
from typing import Any, Final

from blinker import NamedSignal, Namespace
from gevent import get_hub

_namespace: Final = Namespace()

connection: Final = _namespace.signal(
    "connection",
    """A slot line arrived. Keywords: ``slot`` (a :class:`Slot`) and ``socket``.

    The receivers own the socket as soon as one of them returns normally.""",
)
unreachable: Final = _namespace.signal(
    "unreachable",
    """No slot could be had from a server: an outage. Keywords: ``id`` and ``server``.""",
)
error: Final = _namespace.signal(
    "error",
    """A fault that a person must fix: configuration, trust, protocol, local resources.

    Keyword: ``error`` (a :class:`RoverError`).""",
)
attempt: Final = _namespace.signal(
    "attempt",
    """An attempt is over, whatever its outcome. Keyword: ``attempt`` (an :class:`Attempt`).""",
)

#: The rover's signals by name, for :meth:`Rover.on`.
SIGNALS: Final[dict[str, NamedSignal]] = dict(_namespace)

closed: Final = _namespace.signal(
    "closed",
    """A pool has closed one of its connections. The sender is the pool.

    Keywords: ``slot``, ``client`` (or the socket, if there was none) and ``reason``
    (a :class:`CloseReason`). It is sent in a greenlet of the pool's own, after the
    ``teardown``, when the socket is closed.""",
)


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
