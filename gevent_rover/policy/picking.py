"""Which server the next attempt goes to: one at random."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from gevent_rover.errors import NoServersError
from gevent_rover.models import Server


class Picker:
    """Picks an id of a registry at random.

    A forked child needs one of its own, or its picks are in step with its parent's.
    """

    def __init__(self) -> None:
        # A generator of its own: a seed that the application sets isn't for us. The
        # operating system's would cost a system call for each pick.
        self._random = Random().random
        self._ids: list[str] = []
        self._picks_left = 0

    def pick(self, servers: dict[str, Server]) -> tuple[str, Server]:
        """Return a random id of ``servers`` and its entry.

        Other greenlets and native threads may change ``servers`` meanwhile.
        ``list(servers)`` is atomic, but takes some 70 µs for 10,000 servers, more
        than half of an attempt. So a list of n ids serves up to n // 256
        picks more, while the number of servers stays the same.

        :raises NoServersError: it is empty.
        """
        while True:
            if self._picks_left <= 0 or len(self._ids) != len(servers):
                self._ids = list(servers)
                self._picks_left = len(self._ids) // 256
                if not self._ids:
                    raise NoServersError("the registry has no servers")
            else:
                self._picks_left -= 1
            id = self._ids[int(self._random() * len(self._ids))]
            try:
                return id, servers[id]
            except KeyError:
                # Dropped since the list was made: look again.
                self._picks_left = 0

    def pick_other(
        self, servers: dict[str, Server], is_avoided: Callable[[str], bool]
    ) -> tuple[str, Server] | None:
        """Return a random id that isn't avoided, and its entry; None if there is none.

        :param is_avoided: tells whether an id isn't to be picked.
        """
        for _ in range(4 if servers else 0):
            id, server = self.pick(servers)
            if not is_avoided(id):
                return id, server
        others = [id for id in list(servers) if not is_avoided(id)]
        while others:
            id = others.pop(int(self._random() * len(others)))
            try:
                return id, servers[id]
            except KeyError:
                pass  # Dropped meanwhile.
        return None
