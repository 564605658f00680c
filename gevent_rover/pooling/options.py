"""What a pool is told when it's made: checked once, and read by all of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gevent_rover.checks import check_count, check_keepalive, check_seconds
from gevent_rover.policy.choice import Choice

#: Called with a connection's socket and slot; returns the client, or None for the socket.
Setup = Callable[[Any, Any], Any]

#: Called with a connection's client.
Hook = Callable[[Any], Any]


@dataclass(frozen=True)
class Options:
    """The options of a pool; :class:`SlotPool` says what each means."""

    choice: Choice
    failures: tuple[type[BaseException], ...]
    max_lifetime: float | None
    max_idle: float | None
    keepalive: float | None
    max_waiting: int | None
    setup: Setup | None
    check: Hook | None
    check_after: float
    reset: Hook | None
    teardown: Hook | None

    def __post_init__(self) -> None:
        """Check them.

        :raises ValueError: a number that isn't valid.
        :raises TypeError: a hook that can't be called.
        """
        for name in ("max_lifetime", "max_idle"):
            value = getattr(self, name)
            if value is not None:
                check_seconds(name, value)
        check_keepalive(self.keepalive)
        if self.max_waiting is not None:
            check_count("max_waiting", self.max_waiting, least=0)
        if self.check_after != 0:
            check_seconds("check_after", self.check_after)
        for name in ("setup", "check", "reset", "teardown"):
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} must be callable, got {hook!r}")

    @property
    def has_hooks(self) -> bool:
        """Whether the pool calls any function of its user's."""
        hooks = self.setup, self.check, self.reset, self.teardown
        return any(hook is not None for hook in hooks)


def check_failures(failures: Any) -> tuple[type[BaseException], ...]:
    """Check what exceptions speak against a server.

    :returns: them.
    :raises TypeError: one of them isn't an exception.
    """
    if isinstance(failures, type):
        failures = (failures,)
    if not isinstance(failures, Iterable):
        raise TypeError(f"failures must be exceptions, got {failures!r}")
    for each in failures:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"failures must be exceptions, got {each!r}")
    return tuple(failures)
