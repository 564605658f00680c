"""How the numbers that users pass in are checked: a rule for each kind, errors that name them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from operator import attrgetter
from typing import Any, Final

#: The most seconds that Python's own locks wait for: some 292 years. A larger number
#: can't be a duration, and overflows in the event loops.
MAX_SECONDS: Final = threading.TIMEOUT_MAX

# The most seconds that the kernel waits before it probes a connection: Linux, tcp(7).
_MAX_KEEPALIVE: Final = 32767


def check_seconds(name: str, value: Any) -> float:
    """Check a duration that must be longer than nothing.

    :returns: ``value``.
    :raises ValueError: it isn't a positive number of seconds; the message names it.
    """
    if not _is_number(value) or not 0 < value <= MAX_SECONDS:
        raise ValueError(f"{name} must be a positive number of seconds, got {_shown(value)}")
    return value  # type: ignore[no-any-return]


def check_timeout(name: str, value: Any) -> float | None:
    """Check how long to wait: a number, 0 or less for not at all, None for ever.

    :returns: ``value``; None for more seconds than anybody can wait.
    :raises ValueError: it is neither; the message names it.
    """
    if value is None:
        return None
    if not _is_number(value) or value != value:  # NaN
        raise ValueError(f"{name} must be a number of seconds or None, got {_shown(value)}")
    return None if value > MAX_SECONDS else value


def check_keepalive(keepalive: Any) -> float | None:
    """Return the seconds of TCP keepalive, checked; None: it isn't wanted.

    :raises ValueError: they aren't a number above 0 that the kernel takes.
    """
    if keepalive is None:
        return None
    seconds = check_seconds("keepalive", keepalive)
    if seconds > _MAX_KEEPALIVE:
        raise ValueError(f"keepalive must be {_MAX_KEEPALIVE} s at most, got {seconds}")
    return seconds


def check_count(name: str, value: Any, least: int = 1, most: float = inf) -> int:
    """Check a number of things.

    :returns: ``value``.
    :raises ValueError: it isn't an int from ``least`` to ``most``; the message names it.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        limits = f"of at least {least}" if most == inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be an int {limits}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no more than 4,300 digits.
        return "one of thousands of digits"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def checked(check: Callable[[str, Any], object], default: object) -> Any:
    """Return an attribute for a class's body: it refuses what isn't valid whenever it's assigned.

    :param check: called with the attribute's name and what is assigned; raises, or
        returns what is stored.
    :param default: its value until it's assigned.
    """
    return _Checked(check, default)


class _Checked(property):
    """A property whose getter is C: a server looks at two for each connection."""

    def __init__(self, check: Callable[[str, Any], object], default: object) -> None:
        super().__init__()
        self._check = check
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        stored, check = f"_checked_{name}", self._check
        setattr(owner, stored, self._default)

        def assign(instance: object, value: object) -> None:
            setattr(instance, stored, check(name, value))

        super().__init__(attrgetter(stored), assign, doc="Checked whenever it's assigned.")
