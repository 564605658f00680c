"""What a rover goes by: its registry and its numbers."""

from __future__ import annotations

from typing import Any

from gevent_rover.checks import check_count, check_seconds, checked
from gevent_rover.models import Server


class Settings:
    """What attempts need to know of their rover; looked at whenever it matters.

    Each may be assigned at any time. A bad one raises a :class:`ValueError` that names
    it, and changes nothing.
    """

    #: Seconds from one attempt to the next. Another one holds from the next tick on;
    #: :meth:`Rover.wake` makes that now.
    roving_interval: float = checked(check_seconds, 1.0)
    #: Seconds that one attempt may take in all.
    timeout: float = checked(check_seconds, 5.0)
    #: How many of the loop's attempts may be in flight at a time.
    max_pending: int = checked(check_count, 64)

    #: The registry. Any greenlet and any native thread may change it at any time.
    servers: dict[str, Server]
    #: What makes it TLS; None: nothing does.
    ssl_context: Any
