"""Many workers as one: what adds up, what never falls, and what hostile snapshots can't do."""

from __future__ import annotations

import copy
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gevent_rover.policy.histogram import BOUNDS, quantile
from gevent_rover.status.counting import WINDOW
from gevent_rover.status.merge import Merger, Report, merged, report_of, reports_of

COUNTERS = (
    "leases",
    "lease_seconds",
    "failures",
    "waits",
    "wait_seconds",
    "timeouts",
    "rejected",
    "opened",
    "attempts",
    "failed_attempts",
)


def times_of(durations: Iterable[float]) -> list[list[int]]:
    """Return a sparse histogram."""
    counts = Counter(bisect_left(BOUNDS, duration) for duration in durations)
    return [list(pair) for pair in sorted(counts.items())]


def a_server(id: str | None = "web1", **fields: Any) -> dict[str, Any]:
    return {
        "id": id,
        "address": "10.0.0.1:7000",
        "state": "up",
        "slots": [[0, "idle"], [3, "leased"]],
        "idle": 1,
        "leased": 1,
        "preparing": 0,
        "retired": 0,
        "leases": 40,
        "lease_seconds": 0.5,
        "failures": 1,
        "attempts": 6,
        "failed_attempts": 2,
        "latency": 0.002,
        "slowness": 1.0,
        "lease_times": [[10, 30], [11, 9]],
        "error": None,
        "error_since": None,
        "error_at": None,
        **fields,
    }


def a_pool(name: str = "pool", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "closed": False,
        "size": 2,
        "idle": 1,
        "leased": 1,
        "preparing": 0,
        "retired": 0,
        "candidates": 0,
        "waiting": 0,
        "max_slots": 10,
        "min_slots": 0,
        "leases": 40,
        "lease_seconds": 0.5,
        "failures": 1,
        "waits": 3,
        "wait_seconds": 0.25,
        "timeouts": 1,
        "rejected": 0,
        "opened": 4,
        "closed_by": {"ended": 2},
        "wait_times": [[12, 3]],
        **fields,
    }


def a_snapshot(
    id: str = "1-a",
    *,
    servers: Iterable[Any] | None = None,
    pool: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    return {
        "version": 1,
        "time": 1000.0,
        "worker": {"id": id, "pid": 1, "host": "here"},
        "bounds": list(BOUNDS),
        "rover": {"started": True, "pending": 0, "interval": 1.0},
        "pool": a_pool() if pool is None else pool,
        "servers": [a_server()] if servers is None else list(servers),
        **fields,
    }


def a_report(where: str = "unix:/run/1.sock", *args: Any, **fields: Any) -> Report:
    return {"where": where, "snapshot": a_snapshot(*args, **fields)}


def of(document: Any, id: str | None = "web1") -> Any:
    [row] = [row for row in document["servers"] if row["id"] == id]
    return row


def test_two_workers_add_up() -> None:
    document = merged(
        [
            a_report("a", "1-a"),
            a_report("b", "2-b", time=1001.0, servers=[a_server(state="slow", leases=2)]),
        ]
    )
    json.dumps(document, allow_nan=False)
    assert document["time"] == 1001.0
    assert [worker["id"] for worker in document["workers"]] == ["1-a", "2-b"]
    row = of(document)
    assert row["slots"] == [(0, "idle"), (0, "idle"), (3, "leased"), (3, "leased")]
    assert (row["idle"], row["leased"], row["leases"], row["failures"]) == (2, 2, 42, 2)
    assert (row["state"], row["state_workers"], row["workers"]) == ("slow", 1, 2)
    assert row["states"] == {"up": 1, "slow": 1}
    assert row["lease_times"] == [(10, 60), (11, 18)]
    [pool] = document["pools"]
    assert (pool["name"], pool["workers"], pool["closed"]) == ("pool", 2, 0)
    assert (pool["size"], pool["max_slots"], pool["leases"]) == (4, 20, 80)
    assert (pool["waits"], pool["wait_seconds"], pool["closed_by"]) == (6, 0.5, {"ended": 4})
    totals = document["totals"]
    assert (totals["workers"], totals["silent"], totals["servers"]) == (2, 0, 1)
    assert (totals["attempts"], totals["failed_attempts"]) == (12, 4)
    assert totals["states"] == {"slow": 1}


@pytest.mark.parametrize(
    ("states", "worst", "how_many"),
    [
        (["up", "up"], "up", 2),
        (["slow", "draining", "up"], "draining", 1),
        (["suspect", "set aside", "set aside"], "set aside", 2),
        (["error", "unreachable", "unreachable", "up"], "unreachable", 2),
        (["unreachable", "burning"], "unknown", 1),
    ],
)
def test_the_state_is_the_worst_one(states: list[str], worst: str, how_many: int) -> None:
    reports = [
        a_report(str(n), str(n), servers=[a_server(state=state)]) for n, state in enumerate(states)
    ]
    row = of(merged(reports))
    assert (row["state"], row["state_workers"], row["workers"]) == (worst, how_many, len(states))


def test_the_error_is_the_latest_and_the_address_what_most_say() -> None:
    document = merged(
        [
            a_report("a", "a", servers=[a_server(error="old", error_at=5.0, error_since=1.0)]),
            a_report("b", "b", servers=[a_server(error="new", error_at=9.0, error_since=8.0)]),
            a_report("c", "c", servers=[a_server(address="10.0.0.2:7000")]),
        ]
    )
    row = of(document)
    assert (row["error"], row["error_since"], row["error_at"]) == ("new", 8.0, 9.0)
    assert row["address"] == "10.0.0.1:7000"


def test_rows_are_told_apart_by_pool_and_id() -> None:
    document = merged(
        [
            a_report("a", "a", servers=[a_server("x"), a_server(None), a_server("None")]),
            a_report("b", "a", pool=a_pool("other"), servers=[a_server("x")]),
            {"where": "c", "snapshot": {**a_snapshot("c", servers=[a_server("x")]), "pool": None}},
        ]
    )
    rows = [(row["pool"], row["id"]) for row in document["servers"]]
    expected = [(None, "x"), ("other", "x"), ("pool", None), ("pool", "None"), ("pool", "x")]
    assert rows == expected
    assert [pool["name"] for pool in document["pools"]] == ["other", "pool"]
    # One process has two pools.
    assert document["totals"]["workers"] == 2
    assert document["totals"]["leases"] == 80


def test_a_worker_that_is_reported_twice_counts_once() -> None:
    new = a_report("b", time=1002.0, pool=a_pool(leases=50))
    for reports in ([a_report("a"), new], [new, a_report("a")]):
        document = merged(reports)
        assert document["totals"]["leases"] == 50
        assert [worker["where"] for worker in document["workers"]] == ["b"]


def test_of_two_snapshots_at_the_same_time_always_the_same_one_counts() -> None:
    reports = [a_report(pool=a_pool(leases=leases)) for leases in (7, 8)]
    assert merged(reports) == merged(reports[::-1])


def test_rates_and_quantiles_are_of_the_last_while() -> None:
    merger = Merger()
    merger.add([a_report()], 100.0)
    row = of(merger.merged())
    assert row["lease_rate"] is None
    assert row["recent"] is False
    assert row["p50"] == quantile([0] * 10 + [30, 9] + [0] * (len(BOUNDS) - 11), 0.5)
    leased = a_server(leases=60, failures=2, lease_times=[[10, 30], [11, 9], [20, 20]])
    pool = a_pool(leases=60, failures=2, wait_times=[[12, 3], [30, 1]])
    merger.add([a_report(time=1002.0, servers=[leased], pool=pool)], 102.0)
    document: Any = merger.merged()
    [pool_row] = document["pools"]
    for row in (of(document), pool_row, document["totals"]):
        assert row["lease_rate"] == pytest.approx(10)
        assert row["failure_rate"] == pytest.approx(0.5)
        assert row["recent"] is True
        assert BOUNDS[19] <= row["p50"] <= BOUNDS[20]
    assert BOUNDS[29] <= pool_row["wait_p99"] <= BOUNDS[30]
    assert pool_row["waits_recent"] is True
    # Nothing for longer than the window: then of all there is.
    for second in range(103, 115):
        merger.add([a_report(time=900.0 + second, servers=[leased], pool=pool)], float(second))
    row = of(merger.merged())
    assert row["lease_rate"] == 0
    assert row["recent"] is False
    assert BOUNDS[9] <= row["p50"] <= BOUNDS[11]


@pytest.mark.parametrize("every", [0.01, 0.3, 1.0, 4.0, 60.0])
def test_rates_are_right_however_often_one_looks(every: float) -> None:
    merger = Merger()
    for poll in range(int(max(30, 4 * WINDOW) / every) + 3):
        now = poll * every
        counted = int(now * 100)
        report = a_report(time=1000 + now, pool=a_pool(leases=counted))
        merger.add([report], now)
        if poll:
            rate = merger.merged()["totals"]["lease_rate"]
            assert rate == pytest.approx(100, abs=2 / every)


def test_a_worker_that_was_busy_before_anybody_watched_is_no_burst() -> None:
    merger = Merger()
    merger.add([a_report("a", "a")], 0.0)
    busy = a_report("b", "b", pool=a_pool(leases=10**9), servers=[a_server(leases=10**9)])
    merger.add([a_report("a", "a"), busy], 1.0)
    document = merger.merged()
    assert document["totals"]["leases"] == 10**9 + 40
    assert document["totals"]["lease_rate"] == 0
    assert of(document)["lease_rate"] == 0


def test_what_a_worker_counted_stays_when_it_is_gone_and_its_gauges_go() -> None:
    merger = Merger()
    merger.add([a_report("a", "a"), a_report("b", "b")], 0.0)
    merger.add([a_report("b", "b")], 1.0)
    document = merger.merged()
    assert document["totals"]["leases"] == 80
    assert document["totals"]["size"] == 2
    assert of(document)["leases"] == 80
    assert of(document)["leased"] == 1
    assert [worker["where"] for worker in document["workers"]] == ["b"]
    # It is back: it was only away from the reader.
    merger.add([a_report("a", "a"), a_report("b", "b")], 2.0)
    assert merger.merged()["totals"]["leases"] == 80
    # All are gone.
    merger.add([], 3.0)
    document = merger.merged()
    assert (document["servers"], document["pools"], document["workers"]) == ([], [], [])
    assert document["totals"]["leases"] == 80
    assert document["time"] is None
    merger.add([a_report("c", "c")], 4.0)
    assert merger.merged()["totals"]["leases"] == 120
    assert of(merger.merged())["leases"] == 120


def test_a_worker_that_does_not_answer_says_since_when() -> None:
    merger = Merger()
    merger.add([a_report("a", "a"), a_report("b", "b")], 10.0)
    silent: Report = {"where": "a", "error": "no answer within 0.5 s"}
    for now in (11.0, 13.5):
        merger.add([silent, a_report("b", "b")], now)
    document = merger.merged()
    [a, b] = document["workers"]
    assert (a["where"], a["error"], a["silent"]) == ("a", "no answer within 0.5 s", 3.5)
    assert (a["id"], a["pid"], a["host"], a["pool"]) == ("a", 1, "here", "pool")
    assert (b["error"], b["silent"]) == (None, None)
    assert (document["totals"]["workers"], document["totals"]["silent"]) == (1, 1)
    assert document["totals"]["leases"] == 80
    # Who never answered is silent since it was asked first.
    merger.add([{"where": "new", "error": "refused"}], 20.0)
    merger.add([{"where": "new", "error": "refused"}], 21.0)
    [new] = merger.merged()["workers"]
    assert (new["id"], new["silent"]) == (None, 1.0)


def test_a_counter_that_falls_began_anew() -> None:
    merger = Merger()
    merger.add([a_report()], 0.0)
    back = a_server(leases=2, lease_seconds=0.125, failures=0, lease_times=[[10, 2]])
    merger.add([a_report(time=1001.0, servers=[back])], 1.0)
    row = of(merger.merged())
    assert (row["leases"], row["failures"], row["lease_seconds"]) == (42, 1, 0.625)
    assert row["lease_times"] == [(10, 32), (11, 9)]


def test_seconds_that_fall_by_rounding_did_not_begin_anew() -> None:
    merger = Merger()
    merger.add([a_report(pool=a_pool(lease_seconds=1000.1))], 0.0)
    merger.add([a_report(time=1001.0, pool=a_pool(lease_seconds=1000.0999999999))], 1.0)
    assert merger.merged()["totals"]["lease_seconds"] == pytest.approx(1000.1)


def test_an_answer_that_comes_late_takes_nothing_back_and_adds_nothing() -> None:
    def at(time: float, leases: int) -> Report:
        servers = [a_server(leases=leases, lease_times=[[10, leases]])]
        return a_report(str(time), time=time, pool=a_pool(leases=leases), servers=servers)

    merger = Merger()
    for now, report in enumerate([at(2, 50), at(0, 40), at(1, 45), at(2, 50), at(1, 45)]):
        merger.add([report], float(now))
        document = merger.merged()
        assert document["totals"]["leases"] == 50
        assert of(document)["leases"] == 50
        assert of(document)["lease_times"] == [(10, 50)]


def test_the_order_of_reports_changes_not_a_bit() -> None:
    reports = [
        a_report(
            name, name, pool=a_pool(lease_seconds=seconds), servers=[a_server(latency=seconds)]
        )
        for name, seconds in zip("abcd", (0.1, 0.2, 0.3, 1e15), strict=True)
    ]
    documents = [merged(list(order)) for order in permutations(reports)]
    assert [document == documents[0] for document in documents] == [True] * 24


def test_where_one_worker_answers_another_error_is_left_out() -> None:
    # It's seen twice, through two readers, and one of them was late.
    document = merged([a_report("a"), {"where": "a", "error": "late"}])
    assert (document["totals"]["workers"], document["totals"]["silent"]) == (1, 0)
    assert len(document["workers"]) == 1


@pytest.mark.parametrize("value", [-1, True, 2**64, "5", None, [], {}, float("nan"), float("inf")])
def test_numbers_that_make_no_sense_count_as_nothing(value: Any) -> None:
    servers = [a_server(**{name: value for name in a_server() if name in SERVER_NUMBERS})]
    pool = a_pool(**{name: value for name in a_pool() if name in POOL_NUMBERS})
    document = merged([a_report("a", "a", servers=servers, pool=pool, time=value), a_report()])
    alone = merged([a_report()])
    assert document["totals"] == {**alone["totals"], "workers": 2}
    assert document["time"] == 1000.0
    [row], [own] = document["servers"], alone["servers"]
    assert [name for name in SERVER_NUMBERS if row[name] != own[name]] == []  # type: ignore[literal-required]


SERVER_NUMBERS = {
    *("idle", "leased", "preparing", "retired", "leases", "lease_seconds", "failures", "attempts"),
    *("failed_attempts", "latency", "slowness", "lease_times"),
}
POOL_NUMBERS = {
    *("size", "idle", "leased", "preparing", "retired", "candidates", "waiting", "max_slots"),
    *("min_slots", "leases", "lease_seconds", "failures", "waits", "wait_seconds", "timeouts"),
    *("rejected", "opened", "closed_by", "wait_times"),
}


def test_servers_that_left_are_forgotten_after_a_while_and_totals_are_not() -> None:
    merger = Merger()
    merger.add([a_report(servers=[a_server("old")])], 0.0)
    for now in (1.0, 100.0):
        merger.add([a_report(time=1000 + now, servers=[])], now)
    merger.add([a_report(time=1101, servers=[a_server("old")])], 101.0)
    assert of(merger.merged(), "old")["leases"] == 40
    merger.add([a_report(time=1102, servers=[])], 102.0)
    merger.add([a_report(time=1502, servers=[])], 502.0)
    merger.add([a_report(time=1503, servers=[a_server("old", leases=3)])], 503.0)
    assert of(merger.merged(), "old")["leases"] == 3
    assert merger.merged()["totals"]["leases"] == 40


@pytest.mark.integration
def test_ids_that_are_new_in_each_poll_fill_no_memory() -> None:
    merger = Merger()
    ids = iter(range(10**6))
    for now in range(12):
        servers = [a_server(f"web{next(ids)}") for _ in range(300)]
        reports = [
            a_report(f"{now}-{n}", f"{now}-{n}", time=1000.0 + now, servers=servers)
            for n in range(10)
        ]
        reports.append(a_report("stays", "stays", time=1000.0 + now, servers=servers))
        merger.add(reports, float(now))
    watch = merger.__dict__["_watch"].__dict__
    assert len(watch["servers"]) < 2000
    assert len(watch["_sources"]) < 100
    assert max(len(source.servers) for source in watch["_sources"].values()) < 2000
    assert merger.merged()["totals"]["leases"] == 12 * 10 * 40 + 40


# Over any sequence


class Worker:
    """A model of a process with a pool of two servers."""

    def __init__(self, number: int) -> None:
        self.where = f"unix:/run/{number % 3}.sock"
        self.id = f"{number}-x"
        self.time = 1000.0
        self.counted = dict.fromkeys(("x", "y"), 0)

    def report(self) -> Report:
        self.time += 1
        servers = [
            a_server(id, leases=n, failures=n // 3, attempts=n, lease_times=[[10, n]])
            for id, n in self.counted.items()
        ]
        leases = sum(self.counted.values())
        pool = a_pool(
            leases=leases,
            lease_seconds=leases * 0.1,
            failures=leases // 3,
            waits=leases // 2,
            opened=leases,
            closed_by={"ended": leases} if leases else {},
        )
        return a_report(self.where, self.id, time=self.time, servers=servers, pool=pool)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["work", "restart", "start", "hide", "mute", "drop"]),
        st.integers(0, 5),
        st.integers(0, 20),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.randoms(use_true_random=False))
def test_totals_never_fall_and_miss_nothing_that_was_seen(steps: Any, random: Any) -> None:
    merger, other = Merger(), Merger()
    numbers = iter(range(1000))
    workers = [Worker(next(numbers)) for _ in range(2)]
    seen: dict[str, dict[str, int]] = {}
    before: dict[str, Any] = {}
    for now, (step, which, amount, poll) in enumerate(steps):
        hidden: list[Worker] = []
        muted: list[Worker] = []
        if step == "start":
            workers.append(Worker(next(numbers)))
        elif workers:
            worker = workers[which % len(workers)]
            if step == "work":
                worker.counted["xy"[which % 2]] += amount
            elif step == "restart":
                workers[workers.index(worker)] = Worker(next(numbers))
            elif step == "drop":
                workers.remove(worker)
            elif step == "hide":
                hidden.append(worker)
            else:
                muted.append(worker)
        if not poll:
            continue
        reports: list[Report] = []
        for worker in workers:
            if worker in muted:
                reports.append({"where": worker.where, "error": "no answer"})
            elif worker not in hidden:
                reports.append(worker.report())
                seen[worker.id] = dict(worker.counted)
        merger.add(reports, float(now))
        random.shuffle(reports)
        other.add(reports, float(now))
        document = merger.merged()
        assert document == other.merged()
        totals: Any = document["totals"]
        assert totals["leases"] == sum(sum(each.values()) for each in seen.values())
        for row in document["servers"]:
            assert row["leases"] == sum(each[row["id"] or ""] for each in seen.values())
        assert sum(count for _, count in totals["lease_times"]) == totals["leases"]
        if before:
            assert [name for name in COUNTERS if totals[name] < before[name]] == []
        before = totals
        json.dumps(document, allow_nan=False)


DURATIONS = st.lists(st.floats(0, 200), max_size=60)


@given(st.lists(DURATIONS, min_size=1, max_size=5), st.sampled_from([0.5, 0.99]))
def test_quantiles_are_those_of_all_the_data_within_a_bucket(
    workers: list[list[float]], share: float
) -> None:
    reports = [
        a_report(str(n), str(n), servers=[a_server(lease_times=times_of(durations))])
        for n, durations in enumerate(workers)
    ]
    data = sorted(duration for durations in workers for duration in durations)
    found: Any = of(merged(reports))["p50" if share == 0.5 else "p99"]
    if not data:
        assert found is None
        return
    # The first of them that so many don't exceed.
    exact = data[max(0, -int(-share * len(data) // 1) - 1)]
    index = bisect_left(BOUNDS, exact)
    lower = BOUNDS[index - 1] if index else 0.0
    assert lower <= found <= BOUNDS[min(index, len(BOUNDS) - 1)]


def test_other_bounds_of_another_version_are_read_too() -> None:
    other = {"bounds": [0.001, 0.01, 1.0], "servers": [a_server(lease_times=[[1, 4], [3, 2]])]}
    document = merged([{"where": "a", "snapshot": {**a_snapshot(), **other}}])
    assert of(document)["lease_times"] == [(BOUNDS.index(0.01), 4), (len(BOUNDS), 2)]


# Of whatever is said

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**18, 10**30)
    | st.floats()
    | st.text()
    | st.sampled_from(["up", "idle", "1-a", "\x1b[2J", "<script>", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("id"), inner, max_size=4)
    ),
    max_leaves=8,
)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all that is in a value."""
    paths = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, (dict, list)) and key != "bounds":
            paths += places_in(inner, (*path, key))
        else:
            paths.append((*path, key))
    return paths


PLACES = places_in(a_snapshot())[1:]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), ANYTHING, st.booleans()), max_size=4))
def test_whatever_a_worker_says_the_others_are_shown(changes: Any) -> None:
    merger = Merger()
    for now in range(2):
        snapshot = copy.deepcopy(a_snapshot("bad", servers=[a_server("bad")]))
        for path, value, missing in changes if now else ():
            inner: Any = snapshot
            try:
                for key in path[:-1]:
                    inner = inner[key]
                if missing:
                    del inner[path[-1]]
                else:
                    inner[path[-1]] = value
            except (LookupError, TypeError):
                pass  # Another change replaced it.
        merger.add([{"where": "bad", "snapshot": snapshot}, a_report("good", "good")], float(now))
        document = merger.merged()
        json.dumps(document, allow_nan=False)
        assert of(document)["leases"] >= 40
        assert [row["error"] for row in document["workers"] if row["where"] == "good"] == [None]


@given(ANYTHING)
def test_anything_at_all_is_a_worker_or_an_error(value: Any) -> None:
    document = merged([{"where": "bad", "snapshot": value}, a_report("good", "good")])
    json.dumps(document, allow_nan=False)
    assert document["totals"]["workers"] == 1
    assert document["totals"]["silent"] == 1


@pytest.mark.parametrize("version", [2, 0, None, "1", True, 1.5, 10**40])
def test_an_unknown_version_is_that_workers_error(version: object) -> None:
    document = merged([a_report("a", version=version), a_report("b", "b")])
    [a, b] = document["workers"]
    assert "version" in (a["error"] or "")
    assert b["error"] is None
    assert document["totals"]["leases"] == 40


@pytest.mark.parametrize(
    ("line", "report"),
    [
        (b'{"where": "a", "snapshot": 1}', {"where": "a", "snapshot": 1}),
        (b'{"where": "a", "error": "late"}', {"where": "a", "error": "late"}),
        (b'{"snapshot": {}, "more": 1}', {"where": "here", "snapshot": {}}),
        (b'{"where": 3, "error": 4}', {"where": "here", "error": "no snapshot"}),
        (b"[]", {"where": "here", "error": "what it says is no report"}),
        (b"", {"where": "here", "error": "what it says is no JSON"}),
        (b'{"where": "a"', {"where": "here", "error": "what it says is no JSON"}),
        (b'{"where": NaN}', {"where": "here", "error": "what it says is no JSON"}),
        (b"\xff", {"where": "here", "error": "what it says is no JSON"}),
        (b"[" * 10**6, {"where": "here", "error": "what it says is no JSON"}),
        (b"1" * 5000, {"where": "here", "error": "what it says is no JSON"}),
    ],
)
def test_a_line_that_cannot_be_read_is_an_error(line: bytes, report: Report) -> None:
    assert report_of(line, "here") == report


def test_lines_become_reports() -> None:
    lines = [json.dumps(a_report()).encode(), b"?"]
    assert [list(report) for report in reports_of(lines)] == [
        ["where", "snapshot"],
        ["where", "error"],
    ]
