"""Makes one of what many workers say. No I/O and no clock: time comes in as an argument."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, NoReturn, TypedDict

from gevent_rover.policy.histogram import BOUNDS
from gevent_rover.status.documents import Merged, MergedPool, MergedServer, MergedWorker
from gevent_rover.status.reading import BadSnapshot, Reading, ServerReading, read
from gevent_rover.status.rows import pool_row, server_row, totals, worker_row
from gevent_rover.status.snapshot import VERSION
from gevent_rover.status.watching import Watch

# Characters of an error that are kept: what anybody says may be long.
_MOST_ERROR: Final = 300


class _Somewhere(TypedDict):
    where: str


class Report(_Somewhere, total=False):
    """What one worker says, or why it says nothing: it has one of the two."""

    snapshot: object
    error: str


def reports_of(lines: Iterable[bytes]) -> list[Report]:
    """Return what lines of JSON report; one that can't be read is a worker's error."""
    return [report_of(line) for line in lines]


def report_of(line: bytes, where: str = "a worker") -> Report:
    """Return what a line of JSON reports.

    :param where: who said it, if the line itself doesn't say so.
    """
    try:
        report = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return {"where": where, "error": "what it says is no JSON"}
    if not isinstance(report, dict):
        return {"where": where, "error": "what it says is no report"}
    named = report.get("where")
    if isinstance(named, str) and named:
        where = named
    if "snapshot" in report:
        return {"where": where, "snapshot": report["snapshot"]}
    error = report.get("error")
    return {"where": where, "error": error if isinstance(error, str) else "no snapshot"}


def merged(reports: Iterable[Report]) -> Merged:
    """Return what workers are up to, as one; without rates, since nobody watched before."""
    merger = Merger()
    merger.add(reports, 0.0)
    return merger.merged()


class Merger:
    """Makes one of what workers say, from poll to poll.

    It remembers what those counted that are gone, so that no total falls while it watches,
    and what came in the last while: rates and quantiles are of that.
    """

    def __init__(self) -> None:
        self._watch = Watch()
        self._now = 0.0
        self._readings: list[Reading] = []
        self._errors: dict[str, str] = {}
        # When who is silent now was heard last, or missed first, and what it said.
        self._heard: dict[str, tuple[float, Reading | None]] = {}

    def add(self, reports: Iterable[Report], now: float) -> None:
        """Take over what was reported in one poll, in any order.

        A worker that is reported twice counts once: its latest snapshot. One that isn't
        reported is gone.

        :param now: seconds, of a clock that doesn't go back.
        """
        now = self._now = max(now, self._now)
        errors: dict[str, str] = {}
        found: dict[tuple[str, str | None], Reading] = {}
        for report in reports:
            where = report["where"]
            try:
                if "snapshot" not in report:
                    raise BadSnapshot(report.get("error", "no snapshot"))
                reading = read(where, report["snapshot"])
            except BadSnapshot as exc:
                # Of several, the same one whatever their order.
                errors[where] = max(errors.get(where, ""), str(exc)[:_MOST_ERROR])
                continue
            key = reading.id, reading.name
            found[key] = _later(found.get(key, reading), reading)
        self._readings = sorted(found.values(), key=lambda each: _sortable(each.id, each.name))
        answered = {reading.where: (now, reading) for reading in self._readings}
        self._errors = {where: text for where, text in errors.items() if where not in answered}
        missed = {where: self._heard.get(where, (now, None)) for where in self._errors}
        self._heard = {**missed, **answered}
        self._watch.add(self._readings, self._errors.keys(), now)

    def merged(self) -> Merged:
        """Return what the workers are up to by the latest poll."""
        servers = self._servers()
        return {
            "version": VERSION,
            "time": max((reading.time for reading in self._readings), default=None),
            "bounds": list(BOUNDS),
            "workers": self._workers(),
            "pools": self._pools(),
            "servers": servers,
            "totals": totals(
                self._readings, len(self._errors), servers, self._watch.total, self._now
            ),
        }

    def _workers(self) -> list[MergedWorker]:
        rows = [worker_row(reading.where, reading) for reading in self._readings]
        for where, error in self._errors.items():
            at, reading = self._heard[where]
            rows.append(worker_row(where, reading, error, self._now - at))
        return sorted(rows, key=lambda row: _sortable(row["where"], row["id"], row["pool"]))

    def _pools(self) -> list[MergedPool]:
        by_name: dict[str, list[Reading]] = {}
        for reading in self._readings:
            if reading.name is not None:
                by_name.setdefault(reading.name, []).append(reading)
        return [
            pool_row(name, by_name[name], self._watch.pools[name], self._now)
            for name in sorted(by_name)
        ]

    def _servers(self) -> list[MergedServer]:
        rows: dict[tuple[str | None, str | None], list[ServerReading]] = {}
        for reading in self._readings:
            for server in reading.servers:
                rows.setdefault((reading.name, server.id), []).append(server)
        return [
            server_row(key[0], rows[key], self._watch.servers[key], self._now)
            for key in sorted(rows, key=lambda key: _sortable(*key))
        ]


def _sortable(*texts: str | None) -> list[tuple[bool, str]]:
    return [(text is not None, text or "") for text in texts]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _later(one: Reading, other: Reading) -> Reading:
    """Return the later one of a worker's readings: the same one, whatever their order."""
    if one is not other and (one.time, one.where) == (other.time, other.where):
        return max(one, other, key=lambda reading: json.dumps(reading.source, sort_keys=True))
    return max(one, other, key=lambda reading: (reading.time, reading.where))
