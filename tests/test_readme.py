"""The README's code runs, and its first example is the file that it says it is."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from gevent.subprocess import PIPE, STDOUT, Popen

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_example_is_the_quickstart() -> None:
    assert (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8") == BLOCKS[0]


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_every_block_runs_as_it_stands(code: str) -> None:
    process = Popen([sys.executable, "-W", "error", "-c", code], stdout=PIPE, stderr=STDOUT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert b"Traceback" not in output, output


def test_the_figures_are_those_that_the_benchmarks_wrote() -> None:
    report = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    section = README.partition("## Measured\n")[2].partition("\n## ")[0]
    for key in ("date", "machine", "python", "gevent", "command"):
        assert report[key] in section
    quoted = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ][2:]
    assert len(quoted) == len(report["rows"])
    for (what, peer, measured, _, outcome), row in zip(quoted, report["rows"], strict=True):
        assert what.startswith(row["what"])
        assert (peer, outcome) == (row["peer"], row["outcome"])
        if row["compared"] == "ratio":
            assert measured == f"{row['ratio']['median']:.2f}×"
        else:
            assert measured == f"{row['figure']['median']:.1f} {row['unit']}"
