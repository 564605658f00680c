"""Makes the rows of the document of what workers say and what was counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import fsum

from gevent_rover.status.counting import Total
from gevent_rover.status.documents import (
    Counted,
    MergedPool,
    MergedServer,
    MergedWorker,
    Pooled,
    Totals,
)
from gevent_rover.status.reading import (
    STATES,
    Reading,
    ServerReading,
    sparse,
)
from gevent_rover.status.watching import CLOSED


def worker_row(
    where: str, reading: Reading | None, error: str | None = None, silent: float | None = None
) -> MergedWorker:
    """Return the row of a worker.

    :param reading: what it says, or said last; None: nobody knows.
    :param error: why it says nothing now.
    :param silent: for how many seconds it hasn't.
    """
    row: MergedWorker = {
        "where": where,
        "id": None,
        "pid": None,
        "host": None,
        "pool": None,
        "time": None,
        "rover": None,
        "error": error,
        "silent": silent,
    }
    if reading is not None:
        row["id"], row["pid"], row["host"] = reading.id, reading.pid, reading.host
        row["pool"], row["time"], row["rover"] = reading.name, reading.time, reading.rover
    return row


def pool_row(name: str, readings: Sequence[Reading], total: Total, now: float) -> MergedPool:
    """Return the row of a pool, of what the workers say that have it."""
    pools = [reading.pool for reading in readings if reading.pool is not None]
    return {
        "name": name,
        "workers": len(pools),
        "closed": sum(pool.closed for pool in pools),
        **_pooled(readings, total, now),
    }


def server_row(
    pool: str | None, rows: Sequence[ServerReading], total: Total, now: float
) -> MergedServer:
    """Return the row of a server, of what the workers say that know it.

    :param pool: the name of their pools.
    :param rows: at least one.
    """
    states = Counter(row.state for row in rows)
    worst = max(states, key=STATES.index)
    addresses = Counter(row.address for row in rows if row.address is not None)
    latencies = [row.latency for row in rows if row.latency]
    # The later one; of two at the same time any, but always the same.
    failed = max(rows, key=lambda row: (row.error_at or 0.0, row.error or ""))
    gauges = _sums(row.gauges for row in rows)
    return {
        "pool": pool,
        "id": rows[0].id,
        "address": max(addresses, key=lambda text: (addresses[text], text), default=None),
        "state": worst,
        "state_workers": states[worst],
        "workers": len(rows),
        "states": {state: states[state] for state in STATES if states[state]},
        "slots": sorted(slot for row in rows for slot in row.slots),
        "idle": gauges["idle"],
        "leased": gauges["leased"],
        "preparing": gauges["preparing"],
        "retired": gauges["retired"],
        **_counted(total, now),
        "attempts": int(total.numbers.get("attempts", 0)),
        "failed_attempts": int(total.numbers.get("failed_attempts", 0)),
        "latency": fsum(latencies) / len(latencies) if latencies else 0.0,
        "slowness": max(row.slowness for row in rows),
        "error": failed.error,
        "error_since": failed.error_since,
        "error_at": failed.error_at,
    }


def totals(
    readings: Sequence[Reading],
    silent: int,
    servers: Sequence[MergedServer],
    total: Total,
    now: float,
) -> Totals:
    """Return the totals of all pools and servers.

    :param silent: how many places there are where nobody answers.
    """
    states = Counter(server["state"] for server in servers)
    return {
        "workers": len({reading.id for reading in readings}),
        "silent": silent,
        "servers": len(servers),
        "states": {state: states[state] for state in STATES if states[state]},
        "attempts": int(total.numbers.get("attempts", 0)),
        "failed_attempts": int(total.numbers.get("failed_attempts", 0)),
        **_pooled(readings, total, now),
    }


def _pooled(readings: Iterable[Reading], total: Total, now: float) -> Pooled:
    gauges = _sums(reading.pool.gauges for reading in readings if reading.pool is not None)
    numbers = total.numbers
    wait_p50, wait_p99, waits_recent = total.wait_quantiles()
    return {
        "size": gauges["size"],
        "idle": gauges["idle"],
        "leased": gauges["leased"],
        "preparing": gauges["preparing"],
        "retired": gauges["retired"],
        "candidates": gauges["candidates"],
        "waiting": gauges["waiting"],
        "max_slots": gauges["max_slots"],
        "min_slots": gauges["min_slots"],
        **_counted(total, now),
        "waits": int(numbers.get("waits", 0)),
        "wait_seconds": float(numbers.get("wait_seconds", 0)),
        "wait_p50": wait_p50,
        "wait_p99": wait_p99,
        "waits_recent": waits_recent,
        "timeouts": int(numbers.get("timeouts", 0)),
        "rejected": int(numbers.get("rejected", 0)),
        "opened": int(numbers.get("opened", 0)),
        "closed_by": {
            name.removeprefix(CLOSED): int(numbers[name])
            for name in sorted(numbers)
            if name.startswith(CLOSED)
        },
    }


def _sums(gauges: Iterable[dict[str, int]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for each in gauges:
        sums.update(each)
    return sums


def _counted(total: Total, now: float) -> Counted:
    numbers = total.numbers
    lease_rate, failure_rate = total.rates(now)
    p50, p99, recent = total.quantiles()
    return {
        "leases": int(numbers.get("leases", 0)),
        "lease_seconds": float(numbers.get("lease_seconds", 0)),
        "failures": int(numbers.get("failures", 0)),
        "lease_rate": lease_rate,
        "failure_rate": failure_rate,
        "p50": p50,
        "p99": p99,
        "recent": recent,
        "lease_times": sparse(total.times),
    }
