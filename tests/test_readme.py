"""The README's code runs, and its first example is the file that it says it is."""

from __future__ import annotations

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
