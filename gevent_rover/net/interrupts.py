"""What a POSIX signal's handler must not do at once: end things amid a step of this package.

``signal.signal`` runs its handler between any two bytecodes of the main thread: between
a socket's creation and the line that takes note of it, say. What calls ``stop()`` there
would close all but that socket. ``gevent.signal_handler`` is the better way: its handler
is a greenlet. Where somebody takes the other, what must not be interrupted is put off
until the hub runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, Final, TypeVar

from gevent import get_hub

_Function = TypeVar("_Function", bound=Callable[..., Any])

_PACKAGE: Final = __name__.partition(".")[0] + "."
# The command's own code is a user's of the rest.
_USERS: Final = _PACKAGE + "command."

_calling_out: Final[set[CodeType]] = set()


def calls_out(function: _Function) -> _Function:
    """Mark a function that calls users' code, and can stand whatever that does.

    What is called from there isn't taken for an interruption.
    """
    _calling_out.add(function.__code__)
    return function


def put_off(action: Callable[[], object]) -> bool:
    """Have the hub call ``action`` soon, if the caller of the caller interrupts a step of ours.

    It does if the innermost function of this package that is on the stack, the
    caller's own aside, isn't one that calls users' code. Looking takes a microsecond
    or so, and costs nothing where nobody looks; a mark that is set at the beginning of
    each step would cost every lease.

    :returns: whether it's put off. It is called once, in the hub, and must not block.
    """
    frame = sys._getframe(1).f_back
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(_PACKAGE) and not name.startswith(_USERS):
            if frame.f_code in _calling_out:
                return False
            # A handler may run in any thread's hub, but this is where it interrupts.
            get_hub().loop.run_callback_threadsafe(action)
            return True
        frame = frame.f_back
    return False
