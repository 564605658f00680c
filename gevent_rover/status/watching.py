"""What is remembered from poll to poll, so that a worker that ends takes no count with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, Protocol, TypeAlias, TypeVar

from gevent_rover.status.counting import Latest, Total
from gevent_rover.status.reading import PoolReading, Reading, ServerReading

#: What the names of a pool's counters begin with that count closed connections by reason.
CLOSED: Final = "closed_by/"

# How long what no worker lists any more is remembered, in seconds: a server that comes back
# goes on with its counts. And how much of it, at most, beside as much as is listed.
_REMEMBERED_FOR: Final = 300.0
_REMEMBERED: Final = 1000

# Workers that are gone and remembered: one that comes back, since its hub or the network
# was busy, is not to count twice.
_GONE: Final = 64

_PoolKey: TypeAlias = "str | None"
_ServerKey: TypeAlias = "tuple[str | None, str | None]"


class _Listed(Protocol):
    listed_at: float


_Key = TypeVar("_Key")
_Row = TypeVar("_Row", bound=_Listed)


class Watch:
    """The counters of all workers that there are and were."""

    def __init__(self) -> None:
        self._sources: dict[tuple[str, str | None], _Source] = {}
        self._now = 0.0
        #: All of them; those of each pool, and of each server of a pool.
        self.total = Total(0.0)
        self.pools: dict[_PoolKey, Total] = {}
        self.servers: dict[_ServerKey, Total] = {}

    def add(self, readings: Iterable[Reading], silent: Collection[str], now: float) -> None:
        """Take over what workers say now.

        :param readings: each worker's, once; in an order that depends on nothing but them,
            since sums of seconds do.
        :param silent: where workers are that don't answer.
        :param now: seconds, not before the last time.
        """
        if not self._sources:
            self.total = Total(now)
        for reading in readings:
            key = reading.id, reading.name
            source = self._sources.pop(key, None)
            new = source is not None
            source = source or _Source()
            self._sources[key] = source  # those that are gone come first
            source.where, source.listed_at = reading.where, now
            late = reading.time < source.time
            source.time = max(source.time, reading.time)
            if reading.pool is not None:
                self._add_pool(source, reading.name, reading.pool, now, new=new, late=late)
            for server in reading.servers:
                self._add_server(source, reading.name, server, now, new=new, late=late)
            _forget(source.servers, now)
        self.total.tick(now)
        for rows in (self.pools, self.servers):
            for row in rows.values():
                row.tick(now)
        _forget(self.pools, now)
        _forget(self.servers, now)
        gone = [
            key
            for key, source in self._sources.items()
            if source.listed_at < now and source.where not in silent
        ]
        for key in gone[: max(0, len(gone) - _GONE)]:
            del self._sources[key]

    def _add_pool(
        self,
        source: _Source,
        name: str | None,
        pool: PoolReading,
        now: float,
        *,
        new: bool,
        late: bool,
    ) -> None:
        counters = {CLOSED + reason: count for reason, count in pool.closed_by.items()}
        counters.update(pool.counters)
        numbers, times = source.pool.grown(counters, pool.wait_times, late=late)
        for total in (self.total, self._of_pool(name, now)):
            total.add(numbers, new=new)
            total.add_wait_times(times, new=new)

    def _add_server(
        self,
        source: _Source,
        name: str | None,
        server: ServerReading,
        now: float,
        *,
        new: bool,
        late: bool,
    ) -> None:
        latest = source.servers.get(server.id)
        if latest is None:
            latest = source.servers[server.id] = Latest(now)
        latest.listed_at = now
        numbers, times = latest.grown(server.counters, server.lease_times, late=late)
        key = name, server.id
        row = self.servers.get(key)
        if row is None:
            row = self.servers[key] = Total(now)
        row.listed_at = now
        row.add(numbers, new=new)
        # The rest is the pool's to say, who knows of servers that left, too.
        attempts = {each: numbers[each] for each in _ATTEMPTS if each in numbers}
        self.total.add(attempts, new=new)
        if times:
            for total in (row, self.total, self._of_pool(name, now)):
                total.add_times(times, new=new)

    def _of_pool(self, name: str | None, now: float) -> Total:
        total = self.pools.get(name)
        if total is None:
            total = self.pools[name] = Total(now)
        total.listed_at = now
        return total


_ATTEMPTS: Final[tuple[str, ...]] = ("attempts", "failed_attempts")


class _Source:
    """A worker's pool and servers, as they were when it was last asked."""

    __slots__ = ("listed_at", "pool", "servers", "time", "where")

    def __init__(self) -> None:
        self.where = ""
        self.time = self.listed_at = 0.0
        self.pool = Latest(0.0)
        self.servers: dict[str | None, Latest] = {}


def _forget(rows: dict[_Key, _Row], now: float) -> None:
    """Forget what hasn't been listed for long, and what isn't listed if it's too much."""
    unlisted = [key for key, row in rows.items() if row.listed_at < now]
    if not unlisted:
        return
    too_many = len(unlisted) > len(rows) - len(unlisted) + _REMEMBERED
    for key in unlisted:
        if too_many or now - rows[key].listed_at > _REMEMBERED_FOR:
            del rows[key]
