"""What native threads mustn't do to each other: a loop is touched in its own thread alone."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any


def in_thread_of(hub: Any, action: Callable[[], object]) -> None:
    """Call ``action`` in the thread of this hub: at once if that's this one, else soon.

    Also at once if nobody runs the loop: the hub hasn't begun, or it or its thread has ended.
    """
    if hub.thread_ident == get_ident() or hub.dead or not hub or hub.loop is None:
        action()
    else:
        hub.loop.run_callback_threadsafe(action)
