"""How the numbers that users pass in are checked: a rule for each kind, errors that name them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from typing import Any, Final, Generic, TypeVar, overload

#: The most seconds that Python's own locks wait for: some 292 years. A larger number
#: can't be a duration, and overflows in the event loops.
MAX_SECONDS: Final = threading.TIMEOUT_MAX

_Number = TypeVar("_Number")


def check_seconds(name: str, value: Any) -> float:
    """Check a duration that must be longer than nothing.

    :returns: ``value``.
    :raises ValueError: it isn't a positive number of seconds; the message names it.
    """
    if not _is_number(value) or not 0 < value <= MAX_SECONDS:
        raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
    return value  # type: ignore[no-any-return]


def check_timeout(name: str, value: Any) -> float | None:
    """Check how long to wait: a number, 0 or less for not at all, None for ever.

    :returns: ``value``; None for more seconds than anybody can wait.
    :raises ValueError: it is neither; the message names it.
    """
    if value is None:
        return None
    if not _is_number(value) or value != value:  # NaN
        raise ValueError(f"{name} must be a number of seconds or None, got {value!r}")
    return None if value > MAX_SECONDS else value


def check_count(name: str, value: Any, least: int = 1, most: float = inf) -> int:
    """Check a number of things.

    :returns: ``value``.
    :raises ValueError: it isn't an int from ``least`` to ``most``; the message names it.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        limits = f"of at least {least}" if most == inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be an int {limits}, got {value!r}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Checked(Generic[_Number]):
    """An attribute that may be assigned at any time, and that refuses what isn't valid.

    :param check: called with the attribute's name and what is assigned; raises, or
        returns what is stored.
    :param default: its value until it's assigned.
    """

    def __init__(self, check: Callable[[str, Any], _Number], default: _Number) -> None:
        self._check = check
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> _Number: ...

    @overload
    def __get__(self, instance: object, owner: type) -> _Number: ...

    def __get__(self, instance: object | None, owner: type) -> _Number:
        if instance is None:
            return self._default
        value: _Number = vars(instance).get(self._name, self._default)
        return value

    def __set__(self, instance: object, value: _Number) -> None:
        vars(instance)[self._name] = self._check(self._name, value)
