"""The simulated balance runs, and keeps to what is known of queues and of fleets."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import run_benchmark

sys.path.append(str(Path(__file__).parents[1]))  # behind an installed package

from benchmarks.balance import convergence, queueing, simulation
from benchmarks.balance.fleets import Fleet
from benchmarks.balance.parameters import Setup
from benchmarks.balance.policies import LOWEST, POLICIES

ROOT = Path(__file__).parents[1]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux")


# The commands


@pytest.fixture
def figures(tmp_path: Path) -> tuple[Path, str]:
    """Give what a quick run wrote, and what it printed."""
    output = tmp_path / "simulation.json"
    return output, run_benchmark("benchmarks.balance.simulation", "--quick", "--output", output)


@on_linux
def test_quick_simulation_has_a_row_for_everything_that_it_varies(
    figures: tuple[Path, str],
) -> None:
    report = json.loads(figures[0].read_text())
    phases = [row["phase"] for row in report["convergence"]["rows"]]
    assert phases == ["start", "one dies", "one joins"] * 2
    rows = report["requests"]["rows"]
    assert len(rows) == len(simulation.STARTS) * 2 * len(POLICIES)
    assert {row["start"] for row in rows} == set(simulation.STARTS)
    assert {row["policy"] for row in report["requests"]["varied"]} == set(POLICIES)


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
        "simulation-levelling.svg",
        "simulation-starts.svg",
    ]
    for text in plots[0].values():
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert len(text) < 150_000


# The model and the fleets


def test_the_model_of_one_server_keeps_to_queueing_theory() -> None:
    setup = Setup(servers=1, workers=1, pools=1, max_slots=200, mean=0.01)
    figures = queueing.Model(setup, "random", 0.5, 0, "together", 1).run(60_000)
    # M/M/1: the time in the system is exponential, on average mean / (1 - load).
    assert figures["p50"] == pytest.approx(20 * math.log(2), rel=0.1)
    assert figures["p99"] == pytest.approx(20 * math.log(100), rel=0.1)
    assert figures["load max/mean"] == 1


def test_the_model_gives_every_policy_the_same_requests() -> None:
    setup = Setup()
    runs = [queueing.Model(setup, policy, 0.05, 0, "together", 1).run(2000) for policy in POLICIES]
    # Nobody ever queues, so the time is the work.
    assert len({figures["p50"] for figures in runs}) == 1


def test_in_the_model_slots_of_pools_that_filled_in_turn_lie_close_together() -> None:
    def widths(start: Any) -> float:
        model = queueing.Model(Setup(), LOWEST, 0.1, 0, start, 1)
        model.run(10)
        ranges = [
            max(entry.slot for entry in each.ranking) - min(e.slot for e in each.ranking)
            for each in model.fleet.clients
        ]
        return sum(ranges) / len(ranges)

    assert 2 * widths("in turn") < widths("together")


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
    leased = each.ranking.lease()
    assert leased is not None
    assert fleet.offer(each, low)
    assert (leased.state, len(server.slots), each.closed) == ("retired", 2, 1)
    fleet.release(each, leased)
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
