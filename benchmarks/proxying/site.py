"""Which core is whose, and which ports are free."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

from benchmarks.loopback import Address
from benchmarks.proxying.setup import Setup


class Site:
    """Two cores: one is that of the proxies, all else is on the other.

    Left to the scheduler, a process would be now on the same core as the one that it talks
    to and now on another, and waking one on another core costs several times more.

    :param stack: ends all of it.
    """

    def __init__(self, setup: Setup, stack: ExitStack) -> None:
        self.setup = setup
        self.stack = stack
        cores = sorted(os.sched_getaffinity(0))
        #: The proxies' core, and that of clients and servers.
        self.proxying, self.other = cores[0], cores[-1]

    def address(self) -> Address:
        """Return one that no other process is given; one that is told it may listen there."""
        sock = self.stack.enter_context(socket.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
        return host, port
