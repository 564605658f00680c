"""Calling the hooks of a pool's user: each under a deadline."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutine
from typing import Any

from gevent import Timeout

from gevent_rover.net.interrupts import calls_out


class HookTimeout(TimeoutError):
    """A hook took too long."""


@calls_out
def call_hook(name: str, seconds: float, hook: Callable[..., Any], *arguments: Any) -> Any:
    """Call a hook, and return what it returns. It may switch.

    The deadline is a :class:`gevent.Timeout` within the hook, which is none of the
    exceptions that clients retry after.

    :param name: for the errors.
    :param seconds: how long it may take.
    :raises HookTimeout: it took longer.
    :raises TypeError: it's an ``async def``, which nobody would run.
    """
    deadline = Timeout(seconds)
    deadline.start()
    try:
        result = hook(*arguments)
    except Timeout as exc:
        if exc is not deadline:
            raise
        raise HookTimeout(f"{name} took longer than {seconds:.3g} s") from None
    finally:
        deadline.close()
    if iscoroutine(result):
        result.close()
        raise TypeError(f"{hook!r} is async: {name} must be a plain function")
    return result
