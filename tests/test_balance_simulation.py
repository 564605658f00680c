"""The simulated balance runs, and keeps to what is known of queues and of fleets."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import run_benchmark

sys.path.append(str(Path(__file__).parents[1]))  # behind an installed package

from benchmarks.balance import convergence, simulation
from benchmarks.balance.cases import CASES, Case, Failure
from benchmarks.balance.fleets import Fleet
from benchmarks.balance.parameters import Setup
from benchmarks.balance.policies import LOWEST, ORACLE, OURS, POLICIES
from benchmarks.balance.queueing import Figures, Model, work_of
from benchmarks.balance.stations import Events, Request, Station
from benchmarks.balance.targets import beside_best, targets

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux")


# The commands


@pytest.fixture
def figures(tmp_path: Path) -> tuple[Path, str]:
    """Give what a quick run wrote, and what it printed."""
    output = tmp_path / "simulation.json"
    return output, run_benchmark(
        "benchmarks.balance.simulation", "--quick", "--jobs", 2, "--output", output
    )


@on_linux
def test_quick_simulation_has_a_row_for_everything_that_it_varies(
    figures: tuple[Path, str],
) -> None:
    report = json.loads(figures[0].read_text())
    phases = [row["phase"] for row in report["convergence"]["rows"]]
    assert phases == ["start", "one dies", "one joins"] * 2
    rows = report["requests"]["rows"]
    assert len(rows) == len(simulation.QUICK) * len(POLICIES)
    assert {f"{row['case']}, {row['load']:.0%}" for row in rows} == set(simulation.QUICK)
    assert {row["policy"] for row in rows} == set(POLICIES)
    assert report["requests"]["targets"]
    for target in report["requests"]["targets"]:
        assert target["what"] in figures[1]


@on_linux
def test_one_process_finds_what_several_find(figures: tuple[Path, str], tmp_path: Path) -> None:
    output = tmp_path / "one.json"
    arguments = ("--quick", "--jobs", 1, "--only", "requests", "--output", output)
    run_benchmark("benchmarks.balance.simulation", *arguments)
    several, one = (json.loads(path.read_text())["requests"] for path in (figures[0], output))
    assert one == several


def test_each_case_has_a_name_of_its_own() -> None:
    names = [str(case) for case in CASES]
    assert len(set(names)) == len(names)
    assert set(simulation.QUICK) < set(names)


@on_linux
@pytest.mark.integration
@pytest.mark.timeout(120)
def test_plots_are_svgs_that_come_out_the_same_each_time(
    figures: tuple[Path, str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="only the extra bench has matplotlib")
    balance = ROOT / "benchmarks" / "balance" / "balance.json"
    plots = []
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        run_benchmark(
            "benchmarks.balance.plots",
            f"--simulation={figures[0]}",
            f"--balance={balance}",
            f"--to={directory}",
            MPLCONFIGDIR=tempfile.gettempdir(),  # its cache of fonts
        )
        plots.append({path.name: path.read_text() for path in directory.iterdir()})
    assert plots[0] == plots[1]
    assert sorted(plots[0]) == [
        "balance-latency.svg",
        "simulation-cases.svg",
        "simulation-levelling.svg",
    ]
    for text in plots[0].values():
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert len(text) < 150_000


# The model


def run(case: Case, policy: str = OURS, requests: int = 3000) -> Figures:
    return Model(case, policy, 1).run(requests)


def number(figures: Figures, name: str) -> float:
    figure = figures[name]
    assert figure is not None
    return figure


def test_the_model_of_one_server_keeps_to_queueing_theory() -> None:
    setup = Setup(servers=1, workers=1, pools=1, max_slots=200, mean=0.01)
    figures = run(Case("one", 0.5, setup), "random", 60_000)
    # M/M/1: the time in the system is exponential, on average mean / (1 - load).
    assert figures["p50"] == pytest.approx(20 * math.log(2), rel=0.1)
    assert figures["p99"] == pytest.approx(20 * math.log(100), rel=0.1)
    assert figures["load max/mean"] == 1


def test_the_model_gives_every_policy_the_same_requests() -> None:
    runs = [run(Case("idle", 0.05), policy, 1000) for policy in POLICIES]
    # Nobody ever queues, so the time is the work.
    assert len({figures["p50"] for figures in runs}) == 1


@pytest.mark.parametrize("policy", [OURS, "random"])
@pytest.mark.parametrize("failure", ["told", "hangs up"])
def test_a_seed_repeats_a_run(policy: str, failure: Failure) -> None:
    case = Case("twice", event="fails fast", failure=failure)
    assert run(case, policy) == run(case, policy) != Model(case, policy, 2).run(3000)


def test_heavy_tailed_work_is_as_much_on_average_and_longer_at_most() -> None:
    works = []
    for heavy_tailed in (False, True):
        case, random = Case("work", heavy_tailed=heavy_tailed), Random(1)
        works.append(sorted(work_of(case, random) for _ in range(50_000)))
    for each in works:
        assert sum(each) / len(each) == pytest.approx(Setup().mean, rel=0.1)
    exponential, heavy = works
    assert heavy[25_000] < exponential[25_000]
    assert heavy[-50] > 2 * exponential[-50]


def test_in_the_model_slots_of_pools_that_filled_in_turn_lie_close_together() -> None:
    def widths(start: Any) -> float:
        model = Model(Case("start", 0.1, start=start), LOWEST, 1)
        model.run(10)
        ranges = [
            max(entry.slot for entry in each.ranking) - min(e.slot for e in each.ranking)
            for each in model.fleet.clients
        ]
        return sum(ranges) / len(ranges)

    assert 2 * widths("in turn") < widths("together")


def test_a_station_serves_in_order_and_answers_nothing_while_it_stalls() -> None:
    events = Events()
    answers: list[tuple[float, float]] = []
    (client,) = Fleet(1, 1, 1, 1).clients
    station = Station(events, 1, 2.0, lambda request: answers.append((events.now, request.work)))
    for at, work in ((0.0, 1.0), (0.5, 2.0), (0.6, 3.0)):
        events.after(at, station.receive, Request(at, client, work, True))
    events.after(1.0, station.stall)
    events.after(5.0, station.resume)
    events.run()
    # Slower by 2: the first is through at 2, but answers at 5, and the second begins then.
    assert answers == [(5.0, 1.0), (9.0, 2.0), (15.0, 3.0)]


def test_a_station_that_fails_says_so_at_once_whatever_waits() -> None:
    events = Events()
    answers: list[tuple[float, bool]] = []
    (client,) = Fleet(1, 1, 1, 1).clients
    station = Station(events, 1, 1.0, lambda request: answers.append((events.now, request.failed)))
    station.receive(Request(0.0, client, 1.0, True))
    station.fails = True
    station.receive(Request(0.0, client, 1.0, True))
    events.run()
    assert answers == [(0.001, True), (1.0, False)]


def test_a_stall_holds_up_all_connections_of_clients_that_dont_look() -> None:
    stalled = run(Case("stall", event="stalls"), "random")
    assert number(stalled, "p99") > 1000  # ms
    assert number(stalled, "p99") > 2 * number(run(Case("stall", event="stalls")), "p99")


def test_of_a_server_that_fails_fast_fewer_requests_fail_if_the_pool_is_told() -> None:
    def failed(failure: Failure, policy: str = OURS) -> float:
        case = Case("fast", event="fails fast", failure=failure)
        return number(run(case, policy, 20_000), "failed, %")

    assert max(failed("told"), failed("hangs up")) < failed("not told") / 3
    # Who doesn't look at outcomes, and has no speed to look at, has a tenth of them fail.
    assert failed("told", "random") == pytest.approx(10, rel=0.2)


def test_a_client_that_hangs_up_has_another_connection_soon() -> None:
    model = Model(Case("fast", event="fails fast", failure="hangs up"), OURS, 1)
    model.run(3000)
    assert {each.deficit for each in model.fleet.clients} == {0}
    kept = sum(len(each.ranking) for each in model.fleet.clients)
    assert sum(model.fleet.counts()) == kept


def test_a_healed_server_has_no_share_before_it_is_observed() -> None:
    assert run(Case("brown", event="browns out"), requests=1000)["healed share"] is None


def test_a_strided_server_has_half_the_connections() -> None:
    model = Model(Case("stride", 0.3, stride=2), "random", 1)
    figures = model.run(10_000)
    counts = model.fleet.counts()
    assert counts[0] == pytest.approx(sum(counts[1:]) / 9 / 2, abs=1)
    # Any connection is as likely as another one.
    assert figures["requests per connection"] == pytest.approx(1, abs=0.2)


# What is to be reached


def rows(**p99: float) -> list[dict[str, Any]]:
    """Return the rows of one case; of a policy's name, what is in the parameter's."""
    names = {"ours": OURS, "lowest": LOWEST, "random": "random", "oracle": ORACLE}
    return [
        {
            "case": "two slow",
            "load": 0.7,
            "event": "",
            "failure": "",
            "policy": names[name],
            "p99": figure,
            "failed, %": None,
            "healed share": None,
            "requests per connection": None,
        }
        for name, figure in p99.items()
    ]


def test_the_best_is_neither_the_oracle_nor_ours() -> None:
    (row,) = beside_best(rows(ours=120.0, lowest=300.0, random=100.0, oracle=50.0))
    assert (row["best"], row["best policy"], row["ratio"]) == (100.0, "random", 1.2)
    assert beside_best(rows(ours=120.0, oracle=50.0)) == []
    assert targets(rows(lowest=300.0)) == []


def test_targets_say_what_is_reached_and_missed() -> None:
    found = targets(rows(ours=103.0, lowest=100.0, random=100.0))
    assert [target.outcome for target in found] == ["reached", "reached", "missed"]
    failing = rows(ours=103.0, lowest=100.0)
    for row in failing:
        row |= {"event": "fails fast", "failure": "not told", "failed, %": 12.5}
    assert beside_best(failing) == []  # Who fails more requests has fewer to answer.
    assert [target.outcome for target in targets(failing)] == ["missed", "missed"]
    browned = rows(ours=103.0)
    browned[0] |= {"event": "browns out", "requests per connection": 1.1}
    assert [target.outcome for target in targets(browned)] == ["skipped", "reached"]


# Fleets


def test_a_fleet_that_loses_a_server_has_no_connection_to_it() -> None:
    fleet = Fleet(5, 3, 6, 1)
    for _ in range(30):
        for each in fleet.clients:
            fleet.tick(each)
    assert (sum(fleet.counts()), len(fleet.counts())) == (30, 3)
    fleet.kill("0")
    assert len(fleet.counts()) == 2
    kept = [entry.server_id for each in fleet.clients for entry in each.ranking]
    assert sum(fleet.counts()) == len(kept) < 30
    assert "0" not in kept
    fleet.revive("0")
    assert fleet.counts()[0] == 0


def test_a_simulated_connection_that_was_given_up_while_leased_frees_its_slot_when_back() -> None:
    fleet = Fleet(1, 1, 1, 1)
    (each,) = fleet.clients
    server = fleet.servers["0"]
    low, high = server.take(), server.take()
    assert fleet.offer(each, high)
    leased = each.ranking.lease(0.0)
    assert leased is not None
    assert fleet.offer(each, low)
    assert (leased.state, len(server.slots), each.closed) == ("retired", 2, 1)
    fleet.release(each, leased, 1.0, "answered")
    assert (leased.state, len(server.slots), each.deficit) == ("closed", 1, 0)
    assert not fleet.offer(each, server.take())
    assert len(server.slots) == 1


def test_a_simulated_fleet_levels_itself_and_a_newcomer_joins_in_max_slots_intervals() -> None:
    start, dies, joins = convergence.Simulation(40, 8, 10, 2.0, 1).run(100)
    assert start.full is not None and start.full * 2.0 < 0.05
    assert start.attempts_to_full == 10
    for phase in (start, dies, joins):
        assert phase.level is not None
        assert phase.variations[-1] <= 0.05
    assert dies.attempts_to_full < 10
    assert joins.joined is not None and 5 <= joins.joined <= 20
    row = convergence.as_row(40, 8, 10, 2.0, joins)
    assert row["joined, s"] == joins.joined * 2.0
    assert row["attempts/s"] == pytest.approx(20)
