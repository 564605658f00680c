"""Several addresses of one name at a time: the race of RFC 8305."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from gevent import socket as gevent_socket
from gevent.event import Event

from gevent_rover.net.addresses import Address
from gevent_rover.net.failures import connect_error, connected_to_itself, our_reason
from gevent_rover.net.resources import Resources
from gevent_rover.net.sockets import WRITE

#: Seconds until the next address of a name gets its chance: the Connection
#: Attempt Delay that RFC 8305 (section 5) recommends.
ATTEMPT_DELAY: Final = 0.25


def race(resources: Resources, hub: Any, addresses: list[Address]) -> gevent_socket.socket:
    """Connect to the first of several addresses that answers; block until one has.

    The next address gets its chance after ``ATTEMPT_DELAY``, or at once when one
    fails. The others are closed in the step in which one wins.

    :param resources: what has a timer as its only watcher, and no sockets; the winner
        is its only socket in the end.
    :raises OSError: all failed; a server's error goes before one of ours.
    """
    failures: list[OSError] = []
    ready: deque[tuple[gevent_socket.socket, Any]] = deque()
    happened = Event()

    def note(sock: gevent_socket.socket, watcher: Any) -> None:
        watcher.stop()
        ready.append((sock, watcher))
        happened.set()

    left = deque(addresses)
    while left or resources.sockets:
        if left:
            begun = len(resources.sockets)
            try:
                sock = resources.begin(left.popleft())
            except OSError as exc:
                failures.append(exc)
                for lost in resources.sockets[begun:]:
                    resources.close(lost)
                continue
            watcher = resources.watch(hub, sock, WRITE)
            watcher.start(note, sock, watcher)
        happened.wait(ATTEMPT_DELAY if left else None)
        happened.clear()
        while ready:
            sock, watcher = ready.popleft()
            resources.stop(watcher)
            failure = connect_error(sock) or connected_to_itself(sock)
            if failure is None:
                for other in resources.watchers[1:]:  # all but the deadline's
                    resources.stop(other)
                for other in [other for other in resources.sockets if other is not sock]:
                    resources.close(other)
                return sock
            failures.append(failure)
            resources.close(sock)
    raise min(failures, key=lambda failure: our_reason(failure) is not None)
