"""A connection to a server that says no slot, within a deadline."""

from __future__ import annotations

import errno

from gevent import get_hub, getcurrent
from gevent import socket as gevent_socket

from gevent_rover.models import Server
from gevent_rover.net.addresses import addresses_of
from gevent_rover.net.dial import DeadlinePassed
from gevent_rover.net.failures import connect_error, connected_to_itself
from gevent_rover.net.race import race
from gevent_rover.net.resources import Resources
from gevent_rover.net.sockets import WRITE


def connect(server: Server, timeout: float) -> gevent_socket.socket:
    """Connect to a server, whatever it says first.

    Several addresses of a name are tried as :func:`~gevent_rover.net.race.race` does.

    :param timeout: seconds for all of it, a name's lookup included.
    :returns: the connection, which is the caller's.
    :raises OSError: there is none: refused, or late (``TimeoutError``), or no such name.
    """
    resources = Resources()
    hub = get_hub()
    try:
        deadline = hub.loop.timer(timeout)
        resources.watchers.append(deadline)
        deadline.start(getcurrent().throw, DeadlinePassed, update=True)
        addresses = addresses_of(hub, server)
        if len(addresses) > 1:
            sock = race(resources, hub, addresses)
        else:
            sock = resources.begin(addresses[0])
            hub.wait(resources.watch(hub, sock, WRITE))
            failure = connect_error(sock) or connected_to_itself(sock)
            if failure is not None:
                raise failure
        resources.sockets.remove(sock)
        return sock
    except DeadlinePassed:
        message = f"no connection within {timeout:g} s"
        raise TimeoutError(errno.ETIMEDOUT, message) from None
    finally:
        resources.release()
