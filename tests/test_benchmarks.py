"""The benchmarks run, and what they report is whole. What they measure is not a test's business."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import run_benchmark

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux"),
    pytest.mark.timeout(120),
]


def test_quick_run_prints_a_table_and_writes_its_figures(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    printed = run_benchmark("benchmarks.speed", "--quick", "--output", output)
    report = json.loads(output.read_text())
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(report["rows"])
    sections = {row["section"] for row in report["rows"]}
    assert sections == {
        "attempts",
        "server",
        "lease",
        "choose",
        "request",
        "fill",
        "memory",
        "lag",
    }
    for line, row in zip(lines[2:], report["rows"], strict=True):
        for column in ("what", "peer", "outcome"):
            assert row[column] in line
        if row["skipped"]:
            assert row["outcome"] == f"skipped: {row['skipped']}"
            continue
        assert row["outcome"] in ("reached", "missed")
        for name in ("figure", "ratio") if row["peer"] else ("figure",):
            assert 0 < row[name]["low"] <= row[name]["median"] <= row[name]["high"]


def test_only_leaves_the_other_sections_out(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    run_benchmark(
        "benchmarks.speed", "--quick", "--only", "lease", "--rounds", 2, "--output", output
    )
    report = json.loads(output.read_text())
    assert report["rounds"] == 2
    assert {row["section"] for row in report["rows"]} == {"lease"}


def test_without_node_its_rows_say_why_they_are_skipped(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    printed = run_benchmark(
        "benchmarks.speed", "--quick", "--only", "server", "--output", output, PATH=str(tmp_path)
    )
    bare, node = json.loads(output.read_text())["rows"]
    assert (bare["peer"], bare["skipped"]) == ("bare StreamServer", "")
    assert node["outcome"] == "skipped: there is no node command"
    assert node["outcome"] in printed


def test_outcome_compares_the_median_with_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.measure import compare

    figures = {"ours": [10.0, 20.0, 90.0], "theirs": [10.0, 10.0, 10.0]}
    row = compare("section", figures, "ours", "theirs", 2.0)
    assert row.ratio is not None
    assert (row.ratio.median, row.ratio.low, row.ratio.high) == (2.0, 1.0, 9.0)
    assert row.outcome == "reached"
    assert compare("section", figures, "ours", "theirs", 1.9).outcome == "missed"


def test_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.measure import percentile

    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 99) == 99.0
    assert percentile(values, 100) == 100.0
    assert percentile([5.0], 99) == 5.0
