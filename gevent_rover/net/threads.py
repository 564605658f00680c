"""What native threads mustn't do to each other: a loop is touched in its own thread alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from gevent.monkey import get_original

#: Return the number of the thread, and not of the greenlet, in a patched process, too.
get_ident: Final[Callable[[], int]] = get_original("_thread", "get_ident")


def in_thread_of(hub: Any, action: Callable[[], object]) -> None:
    """Call ``action`` in the thread of this hub: at once if that's this one, else soon.

    Also at once if nobody runs the loop: the hub hasn't begun, or it or its thread has ended.
    """
    # A thread is gone for Python a moment before greenlet knows that its hub is dead.
    ended = hub.dead or hub.loop is None or hub.thread_ident not in sys._current_frames()
    if hub.thread_ident == get_ident() or ended or not hub:
        action()
    else:
        hub.loop.run_callback_threadsafe(action)
