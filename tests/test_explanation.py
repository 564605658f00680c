"""docs/explanation.md: its figures and plots are those of the benchmarks' results."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import ROOT
from pages import PAGES

PAGE = PAGES["docs/explanation.md"]
PLOTS = ROOT / "docs" / "plots"
DESCRIPTION = ".//{http://purl.org/dc/elements/1.1/}description"


def results(name: str) -> Any:
    """Return what a benchmark wrote."""
    return json.loads((ROOT / "benchmarks" / name).read_text(encoding="utf-8"))


def tables() -> list[list[list[str]]]:
    """Return the cells of the page's tables, each with its heading and without the line below."""
    found = re.findall(r"(?m)(?:^\|.*\n)+", PAGE)
    rows = [[line.strip("|").split("|") for line in table.splitlines()] for table in found]
    return [[[cell.strip() for cell in row] for row in [table[0], *table[2:]]] for table in rows]


def test_levelling_takes_as_long_as_was_simulated() -> None:
    (_, *quoted), _, _ = tables()
    phases: dict[tuple[int, int], dict[str, Any]] = {}
    for row in results("balance/simulation.json")["convergence"]["rows"]:
        if (row["max_slots"], row["roving_interval"]) == (10, 1.0):
            phases.setdefault((row["clients"], row["servers"]), {})[row["phase"]] = row
    assert len(quoted) == 4
    for clients, servers, full, level, joined in quoted:
        fleet = int(clients.replace(",", "")), int(servers.replace(",", ""))
        start, joins = (phases[fleet][phase] for phase in ("start", "one joins"))
        figures = start["full, s"], start["nearly level, s"], joins["joined, s"]
        assert (full, level, joined) == tuple(f"{figure:g}" for figure in figures)


@pytest.mark.parametrize(("number", "figure", "form"), [(1, "p99", ".0f"), (2, "failed, %", ".3g")])
def test_policies_do_as_they_did_when_simulated(number: int, figure: str, form: str) -> None:
    (_, *policies), *quoted = tables()[number]
    found = {
        (row["case"], row["policy"]): format(row[figure], form)
        for row in results("balance/simulation.json")["requests"]["rows"]
        if row["load"] == 0.7 and row[figure] is not None
    }
    assert quoted
    for case, *cells in quoted:
        for policy, cell in zip(policies, cells, strict=True):
            assert cell == found[case, policy.removesuffix(" (ours)")], (case, policy)


def test_what_the_text_says_was_measured() -> None:
    healed = {
        row["case"]: row["healed share"]
        for row in results("balance/simulation.json")["requests"]["rows"]
        if row["policy"] == "least loaded" and row["load"] == 0.7
    }
    many, few = healed["300 clients, one browns out"], healed["one browns out"]
    assert "That is the price: with 300 clients, each of which makes few requests" in PAGE
    assert f"has had {many:.1g} of its share ten seconds after, with 30 clients {few:.2g}" in PAGE
    ratios = {
        row["peer"]: row["ratio"]["median"]
        for row in results("peers/peers.json")["rows"]
        if row["scenario"] == "closed loop, one core"
    }
    assert "as many requests per second as one gets through HAProxy with kept connections" in PAGE
    assert ratios["HAProxy leastconn, kept"] == pytest.approx(1, abs=0.05)
    assert "three quarters of what bare sockets do" in PAGE
    assert ratios["two choices by hand"] == pytest.approx(0.75, abs=0.02)


def test_plots_show_what_was_measured() -> None:
    pytest.importorskip("matplotlib", reason="only the extra bench has matplotlib")
    draw = runpy.run_path(str(PLOTS / "draw.py"))
    for name in ("slots", "slow-server", "slow-share"):
        drawn = ElementTree.parse(PLOTS / f"{name}.svg").findtext(DESCRIPTION)
        assert drawn is not None
        figures = {
            "slots": draw["stages"],
            "slow-server": draw["slow_server"],
            "slow-share": draw["slow_shares"],
        }[name]()
        assert json.loads(drawn) == json.loads(json.dumps(figures)), f"draw {name}.svg again"


def test_each_plot_is_shown() -> None:
    assert {path.name for path in PLOTS.glob("*.svg")} == {
        Path(target).name for target in re.findall(r"\]\((plots/[^)]+)\)", PAGE)
    }
