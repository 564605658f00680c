"""The idle connections of one server, and in which order they are leased."""

from __future__ import annotations

from heapq import heapify
from typing import Final

from gevent_rover.policy.entry import Entry
from gevent_rover.policy.server_health import ServerHealth

#: Up to so many clients share the servers, each of them takes the servers in turn,
#: though it may have more connections to some. The more clients there are, the better
#: their number evens out what each prefers.
FEW_CLIENTS: Final = 6.0

#: By how many turns of all connections the order of the slots counts for more than
#: whose turn it is, at most: it decides alone then.
TURNS: Final = 64.0

#: A connection's place among others, its order among equals, and the connection.
Idle = tuple[float, tuple[int, int], Entry]
#: A server's cost, then as for its next connection.
Rank = tuple[float, float, tuple[int, int], "IdleGroup"]


class IdleGroup:
    """The idle connections of one server."""

    __slots__ = ("idle", "place", "rank", "resting", "server", "stale")

    def __init__(self, server: ServerHealth) -> None:
        self.server = server
        #: A heap: the next one comes first, and there may be thousands.
        self.idle: list[Idle] = []
        #: The place of the one that was used last.
        self.place = 0
        #: How many idle ones aren't among these: they rest.
        self.resting = 0
        #: Where it stands among the servers; None: nowhere.
        self.rank: Rank | None = None
        #: Whether that isn't up to date.
        self.stale = False

    def discard(self, entry: Entry) -> bool:
        """Forget an idle connection; False: it isn't here, so it rests."""
        for number, idle in enumerate(self.idle):
            if idle[2] is entry:
                del self.idle[number]
                heapify(self.idle)
                return True
        return False

    def spread(self, more: float) -> None:
        """Move each connection by ``more`` times the place of its slot."""
        self.idle = sorted(
            (place + more * scatter(entry.slot), order, entry) for place, order, entry in self.idle
        )


def scatter(slot: int) -> float:
    """Return a slot's place from 0 to 1, such that any run of slots is spread evenly.

    The multiples of the golden ratio leave the smallest gaps. All clients agree which
    slots come first, but clients whose slots are neighbours prefer different servers.
    """
    return slot * 0.6180339887498949 % 1


def clients_of(connections: int, highest: int, servers: int) -> float:
    """Return how many clients seem to share the servers, if all are like this one.

    :param connections: how many this client has.
    :param highest: its highest slot. Each server's slots are taken up to about there, so
        it tells how many connections all clients have.
    :param servers: how many servers there are.
    """
    return (highest + 1) * servers / connections if connections else 0.0


def spread_of(connections: int, in_flight: float, clients: float, servers: int) -> float:
    """Return by how many leases the last slot in the order may come after the first.

    :param connections: how many this client has.
    :param in_flight: how many of them are leased on average.
    :param clients: how many share the servers.
    :param servers: how many servers there are.
    """
    if clients <= FEW_CLIENTS:
        return 0.0
    # Requests under way at a server if all clients have as many as this one. Where there
    # is less than one, order makes no difference to the servers.
    under_way = in_flight * max(0.5, clients / servers)
    weight = min(1.0, max(0.0, under_way - 1)) * (1 - FEW_CLIENTS / clients)
    return TURNS * weight * connections
