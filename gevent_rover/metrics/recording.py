"""What changed from one snapshot to the next, written to the instruments."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from prometheus_client import Counter, Gauge, Histogram

from gevent_rover.metrics.families import Families
from gevent_rover.metrics.histograms import add_counts
from gevent_rover.metrics.labels import NONE, Labels, as_label
from gevent_rover.models import Attempt
from gevent_rover.status.snapshot import PoolSeen, ServerSeen, Snapshot, SparseHistogram

_Family = TypeVar("_Family", Counter, Gauge, Histogram)

#: An instrument, and its labels but for the pool's.
_Gauge = tuple[Gauge, tuple[str, ...]]
_Counter = tuple[Counter, tuple[str, ...]]

_NOTHING: Final[SparseHistogram] = []


def folder() -> str | None:
    """Return where several processes put their values; None: this one is on its own.

    The client library looks at the same variable, as it's imported.
    """
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR")


@dataclass(slots=True)
class _Changes:
    """What is to be written."""

    counts: defaultdict[_Counter, float] = field(default_factory=partial(defaultdict, float))
    #: With the durations in each of a pool's buckets, and their sum; None: it isn't known.
    times: list[tuple[Histogram, tuple[str, ...], SparseHistogram, float | None]] = field(
        default_factory=list
    )
    #: By how much the sums over all servers have grown.
    leases: float = 0
    failures: float = 0


class _Leases(NamedTuple):
    """What is counted of a server's leases."""

    began: int
    failed: int
    in_use: int
    #: Of all that have ended, answered or not.
    seconds: float
    times: SparseHistogram


_NO_LEASES: Final = _Leases(0, 0, 0, 0.0, _NOTHING)


class Recorder:
    """Writes to the instruments of one pool what has changed; none of it switches.

    :param name: the pool's.
    :param seen: how things are now: what was counted until now isn't counted again.
    """

    def __init__(self, families: Families, name: str, labels: Labels, seen: Snapshot) -> None:
        self._families = families
        self._name = as_label(name)
        self._labels = labels
        # The instruments with their labels: the client library takes 1 µs to find one.
        self._found: dict[tuple[object, tuple[str, ...]], Any] = {}
        # The gauges as they were written; None: somebody else may have.
        self._shown: dict[_Gauge, float | None] = {}
        # The highest value of each of a pool's counters, by what it counts, and of what.
        self._highest: dict[tuple[str, str | None], float] = {}
        self._waits = _NOTHING
        self._leases: dict[str | None, _Leases] = {}
        self._changes(seen)

    def __len__(self) -> int:
        """Return how many servers have a label of their own."""
        return len(self._labels)

    def forget(self) -> None:
        """Begin anew, in a forked child, where the pool and its counters do."""
        self._highest.clear()
        self._waits = _NOTHING
        self._leases.clear()
        self._shown = dict.fromkeys(self._shown)

    def clear(self) -> None:
        """Show nothing any more; counters stay."""
        self._show({})

    # Events

    def attempted(self, attempt: Attempt) -> None:
        """Count an attempt of the rover."""
        families = self._families
        label = self._labels.of(attempt.id)
        self._find(families.attempts, label, attempt.outcome).inc()
        if attempt.outcome == "connection":
            self._find(families.create_time).observe(attempt.elapsed)

    def record(self, seen: Snapshot, *, in_use: bool) -> None:
        """Write what has changed since the latest snapshot.

        :param in_use: whether gauges tell anything: else they are 0.
        """
        self._find(self._families.create_time)  # It's there from the start, too.
        changes = self._changes(seen)
        for (counter, labels), more in changes.counts.items():
            if more or (counter, labels) not in self._found:  # From the start, as 0.
                self._find(counter, *labels).inc(more)
        for histogram, labels, counts, seconds in changes.times:
            add_counts(self._find(histogram, *labels), counts, seconds)
        self._show(self._gauges(seen) if in_use else {})

    def forget_servers(self, seen: Snapshot, is_known: Callable[[str], bool]) -> None:
        """Forget the servers that nobody knows any more.

        A process on its own exports no more of them, and others may have their labels. Among
        several, nothing that was exported can be taken back.

        :param is_known: tells whether anything is known of a server still.
        """
        ids = {row["id"] for row in seen["servers"]}
        gone = {id for id in {*self._leases, *self._labels.ids()} - ids if id and not is_known(id)}
        for id in gone:
            self._leases.pop(id, None)
            for what in ("leases", "failures"):
                self._highest.pop((what, id), None)
            if folder() is None and id in self._labels.ids():
                self._remove(self._labels.forget(id))

    # What has changed

    def _changes(self, seen: Snapshot) -> _Changes:
        changes = _Changes()
        pool = seen["pool"]
        if pool is not None:
            self._pool(pool, changes)
            for row in seen["servers"]:
                self._server(row, changes)
            self._rest(pool, changes)
        return changes

    def _pool(self, pool: PoolSeen, changes: _Changes) -> None:
        families = self._families
        for counter, what, value in (
            (families.timeouts, "timeouts", pool["timeouts"]),
            (families.rejected_requests, "rejected", pool["rejected"]),
            (families.opened, "opened", pool["opened"]),
        ):
            changes.counts[counter, ()] += self._more(what, None, value)
        for reason, value in pool["closed_by"].items():
            more = self._more("closed", reason, value)
            changes.counts[families.closed, (reason,)] += more
        waits, before = pool["wait_times"], self._waits
        self._waits = waits
        more = self._more("wait_seconds", None, pool["wait_seconds"])
        changes.times.append((families.wait_time, (), _difference(waits, before) or [], more))

    def _server(self, row: ServerSeen, changes: _Changes) -> None:
        families = self._families
        id, in_use = row["id"], row["leased"] + row["retired"]
        now = _Leases(
            row["leases"], row["failures"], in_use, row["lease_seconds"], row["lease_times"]
        )
        before = self._leases.get(id)
        labels = (self._labels.of(id),)
        if now == before and (families.leases, labels) in self._found:
            return
        self._leases[id] = now
        leases = self._more("leases", id, now.began)
        failures = self._more("failures", id, now.failed)
        changes.leases += leases
        changes.failures += failures
        changes.counts[families.leases, labels] += leases
        changes.counts[families.lease_failures, labels] += failures
        if before is None:
            before = _NO_LEASES
        answered = _difference(now.times, before.times)
        if answered is None:
            answered, before = now.times, _NO_LEASES
        ended = now.began - now.in_use - (before.began - before.in_use)
        seconds: float | None = None
        if ended == sum(more for _, more in answered):
            # All that ended were answered, so it's known how long these took.
            seconds = max(0.0, now.seconds - before.seconds)
        changes.times.append((families.use_time, labels, answered, seconds))

    def _rest(self, pool: PoolSeen, changes: _Changes) -> None:
        """Have the sums over all servers be the pool's, which may have forgotten a server."""
        families = self._families
        leases = self._more("leases of all", None, pool["leases"]) - changes.leases
        failures = self._more("failures of all", None, pool["failures"]) - changes.failures
        if leases > 0:
            changes.counts[families.leases, (NONE,)] += leases
        if failures > 0:
            changes.counts[families.lease_failures, (NONE,)] += failures

    def _more(self, what: str, of: str | None, value: float) -> float:
        """Return by how much a counter has grown.

        A pool takes a lease back if a check fails. So what it falls by isn't counted when it
        grows again.
        """
        before = self._highest.get((what, of), 0)
        if value <= before:
            return 0
        self._highest[what, of] = value
        return value - before

    def _gauges(self, seen: Snapshot) -> Mapping[_Gauge, float]:
        families = self._families
        gauges: defaultdict[_Gauge, float] = defaultdict(float)
        pool = seen["pool"]
        if pool is not None:
            gauges[families.max, ()] = pool["max_slots"]
            gauges[families.idle_min, ()] = pool["min_slots"]
            gauges[families.pending_requests, ()] = pool["waiting"]
        for row in seen["servers"]:
            label = self._labels.of(row["id"])
            if pool is not None:
                gauges[families.connections, (label, "idle")] += row["idle"]
                gauges[families.connections, (label, "used")] += row["leased"]
                for state, count in (("preparing", row["preparing"]), ("retired", row["retired"])):
                    if count:
                        gauges[families.connections, (label, state)] += count
            if row["id"] is not None:
                gauges[families.server_state, (label, row["state"])] += 1
        return gauges

    # The instruments

    def _show(self, gauges: Mapping[_Gauge, float]) -> None:
        shown = self._shown
        for gauge in shown.keys() - gauges.keys():
            self._find(gauge[0], *gauge[1]).set(0)
            del shown[gauge]
        for gauge, value in gauges.items():
            if shown.get(gauge) != value:
                self._find(gauge[0], *gauge[1]).set(value)
                shown[gauge] = value

    def _find(self, family: _Family, *labels: str) -> _Family:
        found: _Family | None = self._found.get((family, labels))
        if found is None:
            found = self._found[family, labels] = family.labels(self._name, *labels)
        return found

    def _remove(self, label: str) -> None:
        families = self._families
        by_server = (
            families.connections,
            families.use_time,
            families.leases,
            families.lease_failures,
            families.attempts,
            families.server_state,
        )
        for family, labels in list(self._found):
            if family in by_server and labels[0] == label:
                del self._found[family, labels]
                family.remove(self._name, *labels)


def _difference(now: SparseHistogram, before: SparseHistogram) -> SparseHistogram | None:
    """Return what was added to a histogram; None: it isn't what was there before."""
    old = dict(before)
    more = [(index, count - old.pop(index, 0)) for index, count in now]
    if old or any(count < 0 for _, count in more):
        return None
    return [(index, count) for index, count in more if count]
