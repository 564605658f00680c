"""``LeastLoaded``: the default choice."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from gevent_rover.policy.choice import LeaseOutcome
from gevent_rover.policy.entry import Entry
from gevent_rover.policy.idle_group import (
    FEW_CLIENTS,
    Idle,
    IdleGroup,
    Rank,
    clients_of,
    scatter,
    spread_of,
)
from gevent_rover.policy.server_health import SET_ASIDE_AFTER, Known, ServerHealth
from gevent_rover.policy.trials import Trials

#: More than any cost: for the servers that are set aside.
_LAST: Final = 1e9

# The weight of a lease in the mean number of leases in flight.
_WEIGHT: Final = 0.02

# Seconds and leases after which costs and places are looked at anew, at least.
_LOOK_SECONDS: Final = 0.1
_LOOK_LEASES: Final = 16


class LeastLoaded:
    """A connection of the server with the lowest cost: (leases in flight + 1) × slowness.

    Slowness is how many times longer than typical a server's leases take: 1 within a
    dead band, and for the fast ones, so that speed gains a server nothing. A server
    whose leases failed three times in a row comes after all others, but for a trial now
    and then; so does a slow one get a trial, since it may have recovered.

    Among equal costs: the server that was used longest ago, so that few requests go
    round; where many clients share the servers, the connection. And where requests are
    under way at every server then, it is the lowest slot instead, in an order that
    scatters neighbours: all clients use the low slots, and each server has few of those.

    One for each pool. What it knows of the servers is the pool's, and shared with the
    rover.
    """

    def __init__(self) -> None:
        self._groups: dict[ServerHealth, IdleGroup] = {}
        self._order: list[Rank] = []
        self._stale: list[IdleGroup] = []  # what changed since the latest lease began
        self._known = Known()
        self._clock = 0  # counts what comes back
        self._in_flight = 0.0  # a moving average
        self._by_server = True  # whether servers take turns, instead of connections
        self._spread = 0.0  # what the order of the slots counts for, in leases
        # The lease, and the time, from which on something is to be done beside leasing,
        self._due_after, self._due_at = 0.0, 0.0
        # and those of the next look at all weights and costs.
        self._look_after, self._look_at = 0.0, 0.0
        self._leased = 0
        self._rest_until = 0.0  # of the connection whose lease has just ended; 0: not at all
        # A heap of connections of servers that answer too fast; the place is until when.
        self._resting: list[Idle] = []
        self._trials = Trials()

    def __repr__(self) -> str:
        return f"<LeastLoaded servers={len(self._groups)} idle={len(self)}>"

    def __len__(self) -> int:
        return sum(len(group.idle) for group in self._groups.values()) + len(self._resting)

    def add(self, entry: Entry) -> None:
        server = entry.server
        group = self._groups.get(server)
        if group is None:
            group = self._groups[server] = IdleGroup(server)
            self._known = server.known
            if server.slow:
                self._trials.add(group)
        entry.note = group
        self._due_after = self._look_after = 0.0  # More connections, other weights.
        self._insert(entry, group)

    def put_back(self, entry: Entry) -> None:
        group: IdleGroup = entry.note
        if self._rest_until:
            group.resting += 1
            heappush(self._resting, (self._rest_until, entry.order, entry))
            self._due_at = min(self._due_at, self._rest_until)
            self._changed(group)
            return
        self._clock = group.place = place = self._clock + 1
        spread = self._spread
        heappush(
            group.idle,
            (place + spread * scatter(entry.slot) if spread else place, entry.order, entry),
        )
        if not group.stale:
            group.stale = True
            self._stale.append(group)

    def take(self, now: float) -> Entry | None:
        leases = self._known.leases
        self._in_flight += (self._leased - self._in_flight) * _WEIGHT
        self._leased += 1
        if leases >= self._due_after or now >= self._due_at:
            group = self._do_what_is_due(leases, now)
            if group is not None:
                return self._take_of(group)
        order = self._order
        for group in self._stale:
            group.stale = False
            idle = group.idle
            if idle:
                first = idle[0]
                server = group.server
                cost = self._cost(group, 0.0) if server.unusual else server.leased
                place = group.place if self._by_server else first[0]
                group.rank = rank = cost, place, first[1], group
                heappush(order, rank)
            else:
                group.rank = None
        self._stale.clear()
        while order:
            rank = heappop(order)
            group = rank[3]
            if group.rank is rank:
                if self._resting and rank[0] >= _LAST:
                    heappush(order, rank)
                    return self._take_resting()
                group.rank = None
                group.stale = True
                self._stale.append(group)
                return heappop(group.idle)[2]
        if self._resting:
            return self._take_resting()
        self._leased -= 1  # Nobody gets any.
        return None

    def finished(self, entry: Entry, now: float, outcome: LeaseOutcome) -> None:
        group: IdleGroup = entry.note
        self._rest_until = 0.0
        self._leased -= 1
        if group.server.unusual:
            self._finished_unusually(entry, now, outcome)
        if not group.stale:
            group.stale = True
            self._stale.append(group)

    def _finished_unusually(self, entry: Entry, now: float, outcome: LeaseOutcome) -> None:
        server = entry.server
        if server.fast and outcome == "answered":
            until = entry.leased_at + server.known.typical
            if until > now:
                self._rest_until = until
        if server.slow:
            self._due_after = min(self._due_after, self._trials.add(entry.note))
            self._due_at = min(self._due_at, server.retry_at)
        if server.failures >= SET_ASIDE_AFTER:
            self._look_at = min(self._look_at, server.set_aside_until)
            self._due_at = min(self._due_at, self._look_at)

    def remove(self, entry: Entry) -> None:
        group: IdleGroup = entry.note
        if not group.discard(entry):
            self._resting = [each for each in self._resting if each[2] is not entry]
            heapify(self._resting)
            group.resting -= 1
        self._changed(group)

    def clear(self) -> None:
        self._groups.clear()
        self._order.clear()
        self._stale.clear()
        self._trials.clear()
        self._resting.clear()
        self._leased = 0
        self._in_flight = self._rest_until = 0.0

    # Places

    def _changed(self, group: IdleGroup) -> None:
        """Have a server's rank looked at when the next lease begins."""
        group.rank = None
        if not group.stale:
            group.stale = True
            self._stale.append(group)

    def _insert(self, entry: Entry, group: IdleGroup) -> None:
        """Make a connection one of its server's idle ones, as if it were used now."""
        place = self._clock + self._spread * scatter(entry.slot)
        heappush(group.idle, (place, entry.order, entry))
        self._changed(group)

    def _cost(self, group: IdleGroup, now: float) -> float:
        """Return what a further lease costs, less 1: the same order, and quicker to tell."""
        server = group.server
        cost = (server.leased + group.resting + 1) * server.slowness - 1
        return cost + _LAST if server.is_set_aside(now) else cost

    def _take_of(self, group: IdleGroup) -> Entry:
        self._changed(group)
        return heappop(group.idle)[2]

    def _take_resting(self) -> Entry:
        """Take the one that has rested longest: no other is idle."""
        entry = heappop(self._resting)[2]
        group: IdleGroup = entry.note
        group.resting -= 1
        self._changed(group)
        return entry

    # What is due now and then

    def _do_what_is_due(self, leases: int, now: float) -> IdleGroup | None:
        """Look at what changes with time; return the slow server to try again, if one is due."""
        while self._resting and self._resting[0][0] <= now:
            entry = heappop(self._resting)[2]
            group: IdleGroup = entry.note
            group.resting -= 1
            group.place = self._clock  # As if it were used until now.
            self._insert(entry, group)
        if leases >= self._look_after or now >= self._look_at:
            self._look(leases, now)
        self._due_after, self._due_at = self._look_after, self._look_at
        if self._resting:
            self._due_at = min(self._due_at, self._resting[0][0])
        if not self._trials:
            return None
        found = self._trials.choose(leases, now)
        self._due_after = min(self._due_after, self._trials.next_after(leases))
        return found

    def _look(self, leases: int, now: float) -> None:
        """Look anew at all weights and costs."""
        groups = self._groups
        leased = connections = 0
        for group in list(groups.values()):
            leased += group.server.leased
            connections += len(group.idle) + group.resting
            if not (group.idle or group.resting or group.server.leased):
                del groups[group.server]
                self._trials.remove(group)
        connections += leased
        self._set_spread(connections)
        self._look_after = leases + max(_LOOK_LEASES, connections)
        self._look_at = now + _LOOK_SECONDS + len(groups) / 1000
        self._stale.clear()
        self._order.clear()
        for group in groups.values():
            group.stale = False
            group.rank = None
            if group.idle:
                place, order, _ = group.idle[0]
                if self._by_server:
                    place = group.place
                group.rank = self._cost(group, now), place, order, group
                self._order.append(group.rank)
            if group.server.set_aside_until > now:
                self._look_at = min(self._look_at, group.server.set_aside_until)
        heapify(self._order)

    def _set_spread(self, connections: int) -> None:
        """See what the order of the slots counts for now."""
        groups = self._groups.values()
        highest = max((entry.slot for group in groups for _, _, entry in group.idle), default=0)
        servers = self._known.servers or len(groups)
        clients = clients_of(connections, highest, servers)
        self._by_server = clients <= FEW_CLIENTS
        spread = spread_of(connections, self._in_flight, clients, servers)
        more = spread - self._spread
        if abs(more) > self._spread / 8:
            self._spread = spread
            for group in groups:
                group.spread(more)
