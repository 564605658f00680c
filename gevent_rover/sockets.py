"""What all that handles sockets needs to know of them: which are TCP, and how they surely close."""

from __future__ import annotations

import _socket
from typing import Any, Final

#: The address families of TCP, the only sockets here that have TCP_NODELAY.
INTERNET: Final = frozenset({_socket.AF_INET, _socket.AF_INET6})


def close_whole(sock: Any) -> None:
    """Close a gevent socket even if a ``makefile()`` of its user is still open.

    ``close()`` alone would wait for that, and the traceback of a user that
    raised keeps such a file alive until the collector runs: the connection,
    and the slot with it, would stay. The private method is the standard
    library's, too; :func:`close_now` would pull the descriptor away under a
    greenlet that waits for it.
    """
    sock.close()
    sock._real_close()


def close_now(sock: Any) -> None:
    """Close a socket that nobody uses any more, by ``close()`` alone and at once.

    gevent's own ``close`` may put it off until the hub runs, which a forked
    child perhaps never does.
    """
    descriptor = sock.detach()
    if descriptor >= 0:
        _socket.close(descriptor)
