"""The receivers that a rover keeps alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blinker import NamedSignal

from gevent_rover.signals import SIGNALS


class Receivers:
    """The receivers of one sender, by signal; each is connected once.

    Two are the same if blinker takes them for one: the same object, or the same
    method of the same object. Equal ones may be two.
    """

    def __init__(self) -> None:
        self._by_signal: dict[str, list[Callable[..., Any]]] = {name: [] for name in SIGNALS}

    def add(self, name: str, receiver: Callable[..., Any], sender: object) -> None:
        """Connect a receiver; nothing happens if it is already.

        :raises ValueError: there is no such signal.
        """
        signal = signal_named(name)
        if self._index(name, receiver) is None:
            signal.connect(receiver, sender=sender)
            # Only now: what can't be connected isn't one.
            self._by_signal[name].append(receiver)

    def remove(self, name: str, receiver: Callable[..., Any], sender: object) -> None:
        """Disconnect a receiver; one that isn't connected is no error.

        :raises ValueError: there is no such signal.
        """
        signal = signal_named(name)
        index = self._index(name, receiver)
        if index is not None:
            signal.disconnect(self._by_signal[name].pop(index), sender=sender)

    def _index(self, name: str, receiver: object) -> int | None:
        identity = _identity_of(receiver)
        for index, other in enumerate(self._by_signal[name]):
            if _identity_of(other) == identity:
                return index
        return None


def signal_named(name: str) -> NamedSignal:
    """Return the signal of that name.

    :raises ValueError: there is none.
    """
    try:
        return SIGNALS[name]
    except KeyError:
        known = ", ".join(SIGNALS)
        raise ValueError(f"unknown signal {name!r}: expected one of {known}") from None


def _identity_of(receiver: Any) -> tuple[int, ...]:
    # Each access to a method makes another object.
    bound_to = getattr(receiver, "__self__", None)
    function = getattr(receiver, "__func__", None)
    if bound_to is None or function is None:
        return (id(receiver),)
    return id(bound_to), id(function)
