"""The benchmark of being seen: it runs, and the README has what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_benchmark

pytest.importorskip("prometheus_client", reason="prometheus_client isn't installed")

README = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


def spread(figure: dict[str, float]) -> str:
    return f"{figure['median']:.3g} ({figure['low']:.3g}–{figure['high']:.3g})"


def line_of(row: dict[str, Any]) -> str:
    """Return the README's line for a row."""
    name, ours, target = row["what"], f"{spread(row['figure'])} {row['unit']}", row["target"]
    if row["compared"] == "ratio":
        outcome = f"≤ {target:g}: {row['outcome']}"
        return f"| {name} | {row['peer']} | {ours} | {spread(row['ratio'])} | {outcome} |"
    return f"| {name} | | {ours} | | ≤ {target:g} {row['unit']}: {row['outcome']} |"


def test_the_readme_has_what_the_benchmark_wrote() -> None:
    path = ROOT / "benchmarks" / "metrics" / "metrics.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    section = README.partition("## Being seen\n")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert table == [line_of(row) for row in rows]


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_quick_run_has_a_row_for_everything(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn", reason="gunicorn isn't installed")
    output = tmp_path / "metrics.json"
    run_benchmark("benchmarks.metrics", "--quick", "--output", output)
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 10
    assert {row["what"].split(",")[0] for row in rows} >= {"instrumented", "looks"}
    assert all(row["figure"]["median"] is not None for row in rows)
