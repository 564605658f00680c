"""The protocol under a coverage-guided fuzzer, and whether that finds anything.

``ROVER_FUZZ_RUNS`` says how many streams it tries (default: 1,000,000); where it is set,
nothing is skipped. libFuzzer prints its seed and the input that fails.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_protocol import check, seeds

from gevent_rover.policy import protocol

RUNS = int(os.environ.get("ROVER_FUZZ_RUNS", "1000000"))
SECONDS = 60 + RUNS // 5000

FUZZER = Path(__file__).with_name("fuzz_protocol.py")
PROTOCOL = FUZZER.parent.parent / "gevent_rover" / "policy" / "protocol.py"

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None and "ROVER_FUZZ_RUNS" not in os.environ,
    reason="atheris isn't installed: the extra dev has it, where there is one",
)


def fuzz(folder: Path, runs: int, file: Path = PROTOCOL) -> subprocess.CompletedProcess[str]:
    (folder / "seeds").mkdir()
    command = [sys.executable, str(FUZZER), f"-runs={runs}", "-max_len=64", "-timeout=10"]
    return subprocess.run(
        [*command, f"-artifact_prefix={folder}/", str(folder / "seeds")],
        env=os.environ | {"ROVER_FUZZ_PROTOCOL": str(file)},
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_what_servers_of_the_corpus_say_is_read_as_the_grammar_says() -> None:
    for seed in seeds():
        check(protocol, seed)


@needs_atheris
@pytest.mark.integration
@pytest.mark.timeout(SECONDS + 10)
def test_any_stream_is_read_as_the_grammar_says_and_no_further(tmp_path: Path) -> None:
    fuzzed = fuzz(tmp_path, RUNS)
    assert fuzzed.returncode == 0, fuzzed.stdout + fuzzed.stderr
    assert f"Done {RUNS} runs" in fuzzed.stderr


@needs_atheris
@pytest.mark.integration
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (r"([0-9]{1,19})\r\n", r"([0-9]{1,20})\r\n"),
        (r"([0-9]{1,19})\r\n", r"([0-9]{1,19})\r?\n"),
        (r"([0-9]{1,19})\r\n", r"([0-9_]{1,19})\r\n"),
        (r"{1,19}\r?)?", r"{1,20}\r?)?"),
        ("return 3", "return 4"),
        ('return 1 if data.endswith(b"\\r") else 2', "return 2"),
        ("int(line[1])", "int(line[1]) & 0x7FFFFFFFFFFFFFFF"),
        ("MAX_DIGITS + 2", "MAX_DIGITS + 3"),
    ],
)
def test_a_planted_bug_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    source = PROTOCOL.read_text(encoding="utf-8")
    assert right in source
    planted = tmp_path / "planted.py"
    planted.write_text(source.replace(right, wrong), encoding="utf-8")
    fuzzed = fuzz(tmp_path, 200_000, planted)
    assert fuzzed.returncode == 77  # libFuzzer's for an input that fails
    assert "Error" in fuzzed.stdout
