"""The balance benchmark runs, its policies choose as they say, its figures are what they say."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import pytest
from conftest import entry, run_benchmark, wait_until
from gevent import socket
from gevent.select import select

from gevent_rover import (
    Choice,
    Entry,
    LeaseOutcome,
    LeastLoaded,
    LowestSlot,
    Rover,
    Server,
    Slot,
    SlotServer,
)
from gevent_rover.policy.health import Health
from gevent_rover.policy.idle_group import scatter
from gevent_rover.policy.ranking import Ranking

sys.path.append(str(Path(__file__).parents[1]))  # behind an installed package

from benchmarks.balance.fleet import WORK
from benchmarks.balance.fleets import excess, variation
from benchmarks.balance.parameters import Setup
from benchmarks.balance.policies import (
    LOWEST,
    MEASURED,
    ORACLE,
    OURS,
    POLICIES,
    Oracle,
    maker,
    server_of,
)
from benchmarks.balance.pools import CountingPool, Switching
from benchmarks.balance.rows import rows_of
from benchmarks.balance.scenarios import SCENARIOS, arrivals
from benchmarks.child import python
from benchmarks.report import write

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux")
SERVER: Server = {"host": "192.0.2.1", "port": 1}
CAPACITY = {"a": 1.0, "b": 1.0, "c": 1.0}


# The commands


@on_linux
@pytest.mark.integration
@pytest.mark.timeout(120)
def test_quick_run_has_a_row_for_every_scenario_and_policy(tmp_path: Path) -> None:
    output = tmp_path / "balance.json"
    printed = run_benchmark("benchmarks.balance", "--quick", "--output", output)
    rows = json.loads(output.read_text())["rows"]
    found = [(row["scenario"], row["policy"]) for row in rows]
    assert found == [
        (scenario.name, policy) for scenario in SCENARIOS.values() for policy in MEASURED
    ]
    lines = [line for line in printed.splitlines() if line.startswith("|")][2:]
    for row, line in zip(rows, lines, strict=True):
        assert row["scenario"] in line and row["policy"] in line
        assert 0 < row["p50"]["median"] <= row["p99"]["median"] <= row["p99.9"]["median"]
        assert row["load max/mean"]["median"] >= 1
        assert row["requests"]["median"] > 10
        if row["scenario"] != "one dies":
            assert row["failures"]["median"] == 0
    # The same requests for all, but those that a death fails.
    for scenario in SCENARIOS.values():
        answered = [row["requests"]["median"] for row in rows if row["scenario"] == scenario.name]
        failed = [row["failures"]["median"] for row in rows if row["scenario"] == scenario.name]
        assert max(answered) <= min(map(sum, zip(answered, failed, strict=True)))


def test_reports_keep_four_digits_and_a_row_a_line(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    rows = [{"name": "a", "value": 1234.567}, {"name": "b", "value": 3}]
    write(path, {"about": "x", "part": {"rows": rows, "times": (0.123456,)}})
    assert '\n{"name": "a", "value": 1235.0},\n{"name": "b", "value": 3}\n' in path.read_text()
    assert json.loads(path.read_text())["part"]["times"] == [0.1235]


# Statistics


def test_variation_and_excess_compare_with_the_mean() -> None:
    assert variation([3.0, 3.0, 3.0]) == 0
    assert variation([1, 3]) == 0.5
    assert excess([1, 3]) == 1.5
    assert (variation([0, 0]), excess([0, 0])) == (0, 0)


def test_rows_take_ratios_within_each_round() -> None:
    def rounds(*values: float) -> list[dict[str, float]]:
        return [{"p99": value} for value in values]

    figures = {
        ("steady", 0.7, OURS): rounds(10, 20, 40),
        ("steady", 0.7, "random"): rounds(20, 30, 40),
    }
    ours, other = rows_of(figures)
    assert ours["p99 ratio"] == {"median": 1, "low": 1, "high": 1}
    assert other["p99"] == {"median": 30, "low": 20, "high": 40}
    assert other["p99 ratio"] == {"median": 1.5, "low": 1, "high": 2}


def test_arrivals_are_the_same_for_a_seed_and_as_many_as_the_rate_says() -> None:
    setup = Setup(warm_up=1.0, seconds=99.0)
    one, again = (list(arrivals(setup, 50.0, seed=1)) for _ in range(2))
    assert one == again != list(arrivals(setup, 50.0, seed=2))
    times = [at for at, _, _ in one]
    assert times == sorted(times)
    assert times[-1] < 100
    # 5000 on average, give or take five standard deviations of a Poisson distribution.
    assert abs(len(one) - 5000) < 5 * math.sqrt(5000)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert variation(gaps) == pytest.approx(1, abs=0.1)  # as of an exponential distribution
    assert sum(work for _, _, work in one) / len(one) == pytest.approx(setup.mean, rel=0.1)
    assert {pool for _, pool, _ in one} == set(range(setup.pools))


def test_load_is_that_of_the_fleet_at_its_smallest() -> None:
    setup = Setup(servers=10, workers=4, mean=0.04, slowness=4.0)
    assert SCENARIOS["steady"].rate(setup, 0.5) == pytest.approx(500)
    assert SCENARIOS["two slow servers"].rate(setup, 0.5) == pytest.approx(425)
    assert SCENARIOS["one dies"].rate(setup, 0.5) == pytest.approx(450)
    assert SCENARIOS["one joins"].rate(setup, 0.5) == pytest.approx(450)


# Policies


Client = Ranking[Entry]
OUTCOMES: tuple[LeaseOutcome, ...] = ("answered", "failed", "unknown")


def client(policy: str, *slots: str, seed: int = 1) -> tuple[Client, dict[str, Entry]]:
    """Return the ranking of a client with these idle slots (``a3``: slot 3 of server a)."""
    return with_slots(maker(policy, seed, CAPACITY)(), *slots)


def with_slots(choice: Choice, *slots: str) -> tuple[Client, dict[str, Entry]]:
    ranking: Client = Ranking(100, choice)
    health = Health()
    made = {name: entry_of(health, int(name[1:]), name[0]) for name in slots}
    for one in made.values():
        ranking.add(one)
        ranking.make_idle(one)
    return ranking, made


def entry_of(health: Health, slot: int, id: str) -> Entry:
    return Entry(Slot(slot, id, SERVER), health.of(id))


def lease_entry(ranking: Client, now: float = 0.0) -> Entry:
    leased = ranking.lease(now)
    assert leased is not None
    return leased


def lease(ranking: Client, now: float = 0.0) -> str:
    leased = lease_entry(ranking, now)
    return f"{server_of(leased)}{int(leased.slot)}"


def give_back(
    ranking: Client, entry: Entry, now: float = 0.0, outcome: LeaseOutcome = "answered"
) -> None:
    ranking.give_back(entry, now, outcome)


def answer(ranking: Client, made: dict[str, Entry], **seconds: float) -> None:
    """Lease all connections at 0 s, and give each back after so many seconds of its server's."""
    for _ in made:
        lease_entry(ranking)
    for each in sorted(made.values(), key=lambda each: seconds[server_of(each)]):
        give_back(ranking, each, seconds[server_of(each)])


def test_our_policies_are_the_librarys_choices_themselves() -> None:
    assert type(maker(OURS, 1, CAPACITY)()) is LeastLoaded
    assert type(maker(LOWEST, 1, CAPACITY)()) is LowestSlot
    assert set(MEASURED) < set(POLICIES)
    ranking, _ = client(LOWEST, "a3", "b1", "c2")
    assert [lease(ranking) for _ in range(3)] == ["b1", "c2", "a3"]


def test_random_takes_each_as_often() -> None:
    ranking, made = client("random", "a0", "b9", "b10", "c50")
    chosen = []
    for _ in range(4000):
        chosen.append(lease_entry(ranking))
        give_back(ranking, chosen[-1])
    # 1000 of each, give or take five standard deviations of a binomial distribution.
    assert all(abs(chosen.count(each) - 1000) < 5 * 28 for each in made.values())
    assert any(one is another for one, another in pairwise(chosen))  # not in turn


def test_round_robin_takes_servers_in_turn_and_skips_those_with_none_idle() -> None:
    ranking, _ = client("round robin", "a0", "a1", "a2", "b0", "b1", "c0")
    order = [lease(ranking)[0] for _ in range(6)]
    assert sorted(order[:3]) == ["a", "b", "c"]
    assert order[3:5] == [id for id in order[:3] if id != "c"]
    assert order[5] == "a"
    orders = {
        "".join(lease(client("round robin", "a0", "b0", "c0", seed=seed)[0]) for _ in "1")
        for seed in range(20)
    }
    assert orders == {"a0", "b0", "c0"}  # not all clients begin with the same server


def test_least_used_takes_a_server_with_the_fewest_requests_of_this_client() -> None:
    ranking, _ = client("least used", "a0", "a1", "a2", "b7", "c9")
    assert sorted(lease(ranking)[0] for _ in range(3)) == ["a", "b", "c"]
    assert [lease(ranking)[0] for _ in range(2)] == ["a", "a"]


def test_least_used_leaves_ties_to_chance() -> None:
    firsts = {lease(client("least used", "a0", "b0", "c0", seed=seed)[0]) for seed in range(30)}
    assert firsts == {"a0", "b0", "c0"}


def test_two_choices_never_takes_the_most_used_of_the_three() -> None:
    for seed in range(30):
        ranking, _ = client("two choices", "a0", "a1", "b0", "c0", seed=seed)
        busy = lease_entry(ranking)
        while server_of(busy) != "a":  # until a's first is the one that is leased
            give_back(ranking, busy)
            busy = lease_entry(ranking)
        assert lease(ranking)[0] in "bc"


def test_two_choices_takes_the_last_server_that_has_any() -> None:
    ranking, _ = client("two choices", "a0", "a1")
    assert [lease(ranking)[0] for _ in range(2)] == ["a", "a"]
    assert ranking.lease(0.0) is None


@pytest.mark.parametrize("policy", ["peak EWMA", "load × EWMA", "load × EWMA, scattered"])
def test_ewmas_count_the_load_as_many_times_as_a_server_is_slow(policy: str) -> None:
    ranking, made = client(policy, *(f"{id}{slot}" for id in "ab" for slot in range(8)))
    answer(ranking, made, a=1.0, b=4.2)
    # 1, 2, 3 and 4 against 4.2, then 5 against 4.2; but the third multiplies by up to 2.
    order = "".join(lease(ranking, 4.2)[0] for _ in range(6))
    assert order[:2] == "aa"
    assert 1 <= order.count("b") <= 2


def test_peak_ewma_follows_a_longer_answer_at_once_and_shorter_ones_slowly() -> None:
    ranking, made = client("peak EWMA", "a0", "b0")
    answer(ranking, made, a=1.0, b=2.0)
    assert lease(ranking, 2.0) == "a0"
    give_back(ranking, made["a0"], 12.0)  # 10 s: it's the slower one now
    for now in range(12, 16):
        assert lease(ranking, now) == "b0"
        give_back(ranking, made["b0"], now + 1.0)


def test_peak_ewma_sends_one_request_to_who_has_not_answered_yet() -> None:
    ranking, _ = client("peak EWMA", "a0", "a1", "b0", "b1")
    first = lease_entry(ranking)
    give_back(ranking, first, 1.0)
    order = [lease(ranking, 1.0)[0] for _ in range(2)]
    assert order[0] != server_of(first)
    assert order[1] == server_of(first)


@pytest.mark.parametrize("outcome", ["failed", "unknown"])
def test_ewmas_learn_from_answers_alone(outcome: LeaseOutcome) -> None:
    ranking, made = client("load × EWMA", "a0", "b0")
    answer(ranking, made, a=1.0, b=2.0)
    assert lease(ranking, 2.0) == "a0"
    give_back(ranking, made["a0"], 12.0, outcome)
    assert lease(ranking, 12.0) == "a0"


def test_the_oracle_sees_the_requests_of_all_clients_and_the_speed_of_the_servers() -> None:
    make = maker(ORACLE, 1, {"a": 1.0, "b": 4.0})
    one, _ = with_slots(make(), "a0", "b0", "b1", "b2")
    other, _ = with_slots(make(), "a1", "b3", "b4", "b5")
    # b is four times faster: 1/4, 2/4, 3/4 of the time that a takes for one.
    assert [lease(client)[0] for client in (one, other, one)] == ["b", "b", "b"]
    # 4/4 against 1: either; then the other one's.
    assert sorted(lease(client)[0] for client in (other, one)) == ["a", "b"]


def test_the_scattered_order_spreads_any_run_of_slots() -> None:
    for first in (0, 17, 1000):
        places = sorted(scatter(slot) for slot in range(first, first + 20))
        gaps = [later - earlier for earlier, later in pairwise(places)]
        assert max(gaps) < 2 / 20


def test_least_used_scattered_looks_at_the_use_first() -> None:
    ranking, made = client("least used, scattered", "a0", "a5", "b1", "c2")
    order = [lease(ranking) for _ in made]
    assert order == ["a0", "c2", "b1", "a5"]  # a5 would be second if it weren't for the use


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_keeps_the_same_connections(policy: str) -> None:
    random = Random(1)
    choice = maker(policy, 1, CAPACITY)()
    health = Health()
    ranking: Client = Ranking(8, choice)
    plain: Client = Ranking(8, LowestSlot())
    twins: dict[Entry, Entry] = {}  # of the plain one, by those of the policy
    retired: list[Entry] = []
    most = 0
    for now in range(2000):
        leased = [each for each in twins if each.state == "leased"]
        action = random.choice(("offer", "lease", "give back", "remove", "retired"))
        if action == "offer":
            new = entry_of(health, random.randrange(20), random.choice("abc"))
            slot = new.slot
            assert ranking.admits(slot) == plain.admits(slot)
            if ranking.admits(slot):
                twins[new] = twin = Entry(slot)
                ranking.add(new)
                plain.add(twin)
                excess = ranking.excess()
                if excess is not None:
                    assert twins[excess].slot == plain.excess().slot  # type: ignore[union-attr]
                    closed = ranking.give_up(excess)
                    assert plain.give_up(twins[excess]) == closed
                    if closed:
                        del twins[excess]
                    else:
                        retired.append(excess)
                ranking.make_idle(new)
                plain.make_idle(twin)
        elif action == "lease":
            chosen = ranking.lease(now)
            assert (chosen is None) == (not plain.idle)
            if chosen is not None:
                take(plain, twins[chosen])
        elif action == "give back" and leased:
            give_back(ranking, leased[0], now, random.choice(OUTCOMES))
            give_back(plain, twins[leased[0]])
        elif action == "remove" and twins:
            victim = random.choice([each for each in twins if each.state != "retired"] or [*twins])
            if victim.state != "retired":
                ranking.remove(victim, now, random.choice(OUTCOMES))
                plain.remove(twins.pop(victim))
        elif action == "retired" and retired:
            back = retired.pop()
            ranking.remove(back, now, random.choice(OUTCOMES))
            plain.remove(twins.pop(back))
        most = max(most, len(ranking))
        assert (len(ranking), ranking.idle) == (len(plain), plain.idle)
        assert [each.slot for each in ranking] == [each.slot for each in plain]
        assert [each.state for each in twins] == [twin.state for twin in twins.values()]
        busy = Counter(server_of(e) for e in twins if e.state in ("leased", "retired"))
        assert [health.of(id).leased for id in "abc"] == [busy[id] for id in "abc"]
        if isinstance(choice, Oracle):
            assert +choice.outstanding == busy
    assert most == 8
    ranking.clear()
    assert (len(choice), choice.take(2000.0)) == (0, None)


def take(plain: Client, wanted: Entry) -> None:
    """Lease just this one."""
    others = []
    while (leased := lease_entry(plain)) is not wanted:
        others.append(leased)
    for other in others:
        give_back(plain, other)


@pytest.mark.parametrize("policy", POLICIES)
def test_another_policy_takes_over_all_that_is_idle(policy: str) -> None:
    switching = Switching()
    switching.use(LowestSlot())
    ranking, made = with_slots(switching, "a2", "b1", "c0", "a5")
    leased = lease_entry(ranking)
    assert leased is made.pop("c0")
    ranking.remove(made.pop("a5"))
    with pytest.raises(AssertionError):
        switching.use(maker(policy, 1, CAPACITY)())  # while one is leased
    ranking.remove(leased, 1.0)
    switching.use(maker(policy, 1, CAPACITY)())
    assert ranking.idle == len(switching) == 2
    # The one takes the connection first that the pool had first.
    likewise, _ = client(policy, *(("a2", "b1") if policy == OURS else ("b1", "a2")))
    assert [lease(ranking) for _ in made] == [lease(likewise) for _ in made]
    assert ranking.lease(0.0) is None
    for each in made.values():
        give_back(ranking, each)
    switching.use(LowestSlot())
    assert lease(ranking) == "b1"
    ranking.clear()
    assert (len(switching), switching.take(1.0)) == (0, None)
    switching.use(LowestSlot())  # Nothing is leased any more.


def test_another_policy_begins_with_no_experience_of_the_servers() -> None:
    switching = Switching()
    ranking, made = with_slots(switching, "a0", "a1", "b0", "b1")
    assert made["a0"].server is made["a1"].server is not made["b0"].server
    for now in range(30):
        for _ in made:
            lease_entry(ranking, now)
        for each in made.values():
            give_back(ranking, each, now + 0.1, "failed" if server_of(each) == "a" else "answered")
    record = made["a0"].server
    assert (record.failures, made["b0"].server.samples > 0) == (60, True)
    switching.use(LeastLoaded())
    for each in made.values():
        server = each.server
        assert (server.connections, server.failures, server.samples) == (2, 0, 0)
    assert record.connections == 0
    assert {lease(ranking, 30.0)[0] for _ in range(2)} == {"a", "b"}


# The real servers and pools


@on_linux
def test_a_server_works_off_its_requests_in_order_and_as_slowly_as_it_is_told() -> None:
    with python("balance.fleet", 1, 1, []) as child:
        (port,) = child.receive()
        socks = []
        for slot in range(2):
            sock = socket.create_connection(("127.0.0.1", port))
            assert sock.recv(64) == b"%d\r\n" % slot
            socks.append(sock)
        child.ask({"slow": [100.0]})
        began = monotonic()
        socks[0].sendall(WORK.pack(0.001))  # 100 ms, since it's slow
        wait_until(lambda: child.ask({})[1] == [1])
        socks[1].sendall(WORK.pack(0.0005))
        readable, _, _ = select(socks, [], [], 5)
        assert socks[0] in readable
        assert monotonic() - began >= 0.1
        assert [sock.recv(1) for sock in socks] == [b"!", b"!"]
        child.ask({"listen": False})
        assert [sock.recv(1) for sock in socks] == [b"", b""]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        child.ask({"listen": True})
        socket.create_connection(("127.0.0.1", port)).close()
        for sock in socks:
            sock.close()


def test_a_pool_changes_its_policy_and_keeps_its_connections(
    slot_server: Any, closing: Any
) -> None:
    server: SlotServer = slot_server()
    rover = closing(Rover({"a": entry(server)}))
    pool = closing(CountingPool(rover, 5))
    rover.start()
    wait_until(lambda: pool.quiet)
    before = pool.slots()
    pool.policy.use(maker("random", 1, {"a": 1.0})())
    assert pool.slots() == before
    assert (pool.idle, pool.kept) == (5, 5)
    leases = [pool.acquire() for _ in range(5)]
    assert {pool.server_of[sock] for sock in leases} == {"a"}
    assert pool.idle == 0
    for sock in leases:
        pool.release(sock)
    assert pool.quiet
    server.stop()
    wait_until(lambda: pool.size == 0)  # Their ends are seen, as before.
