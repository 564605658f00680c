"""What can be seen of a pool: its sizes, its counts, its statistics."""

from __future__ import annotations

from time import monotonic

from gevent_rover.checks import check_count
from gevent_rover.net.forks import check_fork
from gevent_rover.policy.entry import Entry
from gevent_rover.policy.health import Health
from gevent_rover.pooling.stats import PoolStats, ServerUse, server_stats, use_of
from gevent_rover.pooling.stock import Stock


class PoolState:
    """The state of a pool. Exact whenever another greenlet can look; none of it switches."""

    _stock: Stock

    def __repr__(self) -> str:
        return repr(self._stock)

    @property
    def max_slots(self) -> int:
        """How many connections to keep at most, leased ones included.

        May be assigned at any time. The pool grows, or gives up its highest slots at
        once; leased ones of these are retired.

        :raises ValueError: it isn't an int of at least 1, or less than ``min_slots``;
            nothing changes then.
        """
        return self._stock.max_slots

    @max_slots.setter
    def max_slots(self, max_slots: int) -> None:
        check_sizes(max_slots, self._stock.min_slots)
        self._stock.resize(max_slots, self._stock.min_slots)

    @property
    def min_slots(self) -> int:
        """How many connections to keep when fewer are needed, if ``max_idle`` closes others.

        May be assigned at any time.

        :raises ValueError: it isn't an int from 0 to ``max_slots``; nothing changes then.
        """
        return self._stock.min_slots

    @min_slots.setter
    def min_slots(self, min_slots: int) -> None:
        check_sizes(self._stock.max_slots, min_slots)
        self._stock.resize(self._stock.max_slots, min_slots)

    @property
    def size(self) -> int:
        """How many connections the pool keeps: those idle, leased, and preparing."""
        return len(self._stock.ranking)

    @property
    def idle(self) -> int:
        """How many connections can be leased right now."""
        return self._stock.ranking.idle

    @property
    def leased(self) -> int:
        """How many connections are leased and come back into the pool."""
        return self.size - self.idle - self.preparing

    @property
    def preparing(self) -> int:
        """How many connections are kept whose ``setup`` hasn't ended."""
        return len(self._stock.preparing)

    @property
    def retired(self) -> int:
        """How many connections are leased and will be closed when they come back."""
        return len(self._stock.by_socket) - self.size

    @property
    def waiting(self) -> int:
        """How many greenlets wait for a connection."""
        return len(self._stock.waiters.queue)

    @property
    def deficit(self) -> int:
        """How many connections are missing: ``max_slots - size``, unless fewer are needed."""
        return self._stock.ranking.max_slots - self.size

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._stock.closed

    @property
    def health(self) -> Health:
        """What this client knows of each server; its rover's, if there is one. To be read."""
        return self._stock.health

    def slots(self) -> list[tuple[int, bool]]:
        """Return a snapshot: ``(slot, leased)`` of each connection, sorted by slot."""
        used = ("leased", "resetting")
        return [(connection.slot, connection.state in used) for connection in self._stock.ranking]

    def stats(self, *, servers: bool = True) -> PoolStats:
        """Return what the pool is up to, and what it has counted since it was made.

        It takes time in proportion to the connections and servers: not for each request.

        :param servers: whether to look at each server, too.
        """
        check_fork()
        stock, now = self._stock, monotonic()
        tally, health = stock.tally, stock.health
        leases, lease_seconds, failures = tally.total.with_open(stock.by_socket.values())
        return PoolStats(
            size=self.size,
            idle=self.idle,
            leased=self.leased,
            preparing=self.preparing,
            retired=self.retired,
            candidates=len(stock.candidates),
            waiting=self.waiting,
            max_slots=self.max_slots,
            min_slots=self.min_slots,
            leases=leases,
            lease_seconds=lease_seconds,
            failures=failures,
            waits=tally.waits,
            wait_seconds=tally.wait_seconds,
            wait_times=tuple(tally.wait_times),
            timeouts=tally.timeouts,
            rejected=tally.rejected,
            opened=tally.total.opened,
            closed=dict(tally.total.closed),
            servers={
                id: server_stats(id, health.of(id), use, tally.by_server[id], now)
                for id, use in (self.use() if servers else {}).items()
            },
        )

    def use(self) -> dict[str | None, ServerUse]:
        """Return what the pool makes of each server that it has had connections of.

        It's that part of :meth:`stats` which changes with each lease, for who asks often.
        """
        check_fork()
        tally = self._stock.tally
        by_server: dict[str | None, list[Entry]] = {id: [] for id in tally.by_server}
        for connection in self._stock.by_socket.values():
            by_server[connection.server_id].append(connection)
        return {id: use_of(own, tally.by_server[id]) for id, own in by_server.items()}


def check_sizes(max_slots: int, min_slots: int) -> None:
    """Check the sizes of a pool.

    :raises ValueError: one isn't valid; the message names it.
    """
    check_count("max_slots", max_slots)
    check_count("min_slots", min_slots, least=0)
    if min_slots > max_slots:
        raise ValueError(f"min_slots is {min_slots}, more than max_slots, {max_slots}")
