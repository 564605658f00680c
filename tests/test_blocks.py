"""Every block of code is run: the pages' Python by test_readme, all else as is said here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import proxying
import pytest
from backends import free_port, program
from conftest import ROOT, run_benchmark
from pages import PAGES, blocks_of, without_code
from test_adoption import Stage, shell

from gevent_rover import SlotPool

#: Who runs blocks that aren't Python: for each page, in order, how a block begins, and the
#: test, or the function of ``.ci/run``. Where that is ``LOOKED_AT``, the block isn't run, but
#: what it names is there; each has the reason beside it.
LOOKED_AT: Final = "test_blocks::test_what_commands_name_is_there"
RUN_BY: Final = {
    "README.md": [
        ("pip install . && gevent-rover demo", ".ci/run newcomer"),
        ("pip install -e '.[test]' && pytest", ".ci/run newcomer"),
        (
            "gevent-rover front 10.0.0.1:7379",
            "test_blocks::test_redis_answers_as_the_readme_has_it",
        ),
    ],
    "CONTRIBUTING.md": [
        ("pip install -e '.[dev]'", LOOKED_AT),  # .ci/run does all of it but the hooks of git
        (
            "python -m benchmarks.speed",
            "test_benchmarks::test_quick_run_prints_a_table_and_writes_its_figures",
        ),
    ],
    "docs/index.md": [
        (
            "pip install . && gevent-rover demo",
            "test_blocks::test_the_landing_page_begins_as_the_readme_does",
        ),
    ],
    "docs/adoption.md": [
        *[
            (line, "test_adoption::test_redis_answers_through_the_relay_as_the_page_has_it")
            for line in ("gevent-rover front 10.0.0.7:7379", "gevent-rover relay 127.0.0.1:8379")
        ],
        *[
            (line, "test_adoption::test_memcached_answers_through_the_relay_as_the_page_has_it")
            for line in ("gevent-rover front 10.0.0.7:12211", "gevent-rover relay 127.0.0.1:8211")
        ],
        *[
            (line, "test_adoption::test_nginx_answers_through_the_relay_as_the_page_has_it")
            for line in ("gevent-rover front 10.0.0.7:8080", "gevent-rover relay 127.0.0.1:8082")
        ],
        # It would change the machine.
        (
            "python3 -m venv /opt/gevent-rover",
            "test_adoption::test_the_page_says_how_to_make_what_the_units_run",
        ),
        (
            "gevent-rover front 10.0.0.7:7379",
            "test_adoption::test_tls_is_between_front_and_relay_as_the_page_has_it",
        ),
        (
            "gevent-rover rove 10.0.0.7:7379",
            "test_adoption::test_the_check_for_a_monitor_fails_where_there_is_no_slot",
        ),
    ],
    "docs/status.md": [
        (
            "gevent-rover top 127.0.0.1:8001",  # and page, which another test runs there
            "test_status_docs::test_a_line_shows_the_servers",
        ),
        ("gevent-rover top --once", "test_status_docs::test_a_line_shows_the_servers"),
    ],
    "docs/metrics.md": [
        (
            "# A server that can't be reached",
            "test_blocks::test_alerts_ask_for_metrics_that_the_page_has",
        ),
    ],
    "docs/tls.md": [
        ("openssl req -x509", "test_blocks::test_certificates_are_made_as_the_page_has_it"),
    ],
    "benchmarks/README.md": [
        (
            "python -m benchmarks.speed",
            "test_benchmarks::test_quick_run_prints_a_table_and_writes_its_figures",
        ),
        (
            "python -m benchmarks.speed.versions FOLDER",
            "test_blocks::test_two_versions_and_a_large_directory_are_measured",
        ),
        (
            "pip install -e '.[bench]'",
            "test_balance_benchmark::test_quick_run_has_a_row_for_every_scenario_and_policy",
        ),
        (
            "pip install -e '.[bench]'",
            "test_workers_benchmark"
            "::test_quick_run_has_a_row_for_every_part_and_peer_and_leaves_no_process",
        ),
        (
            "python -m benchmarks.peers",
            "test_peers_benchmark::test_quick_run_has_a_row_for_every_scenario_and_peer",
        ),
        (
            "pip install -e '.[clients]'",
            "test_proxying_benchmark::test_quick_run_has_a_row_for_everything_and_everybody",
        ),
        (
            "pip install -e '.[metrics,bench]'",
            "test_metrics_benchmark::test_quick_run_has_a_row_for_everything",
        ),
    ],
}

#: Pages that are run as a whole, Python too.
WHOLE: Final = {"docs/tutorial.md": "test_tutorial::test_the_tutorial_is_as_it_says"}


@pytest.mark.parametrize("page", sorted(PAGES.keys() - WHOLE.keys()))
def test_every_block_has_who_runs_it(page: str) -> None:
    begins = [
        block.first_line
        for block in blocks_of(PAGES[page])
        if block.language != "python"  # test_readme runs it
        and not block.language.startswith("{")  # the site's build does what it says
    ]
    run = RUN_BY.get(page, [])
    assert len(begins) == len(run), f"{page} has blocks that nobody runs, or lost some: {begins}"
    for begin, (known, _) in zip(begins, run, strict=True):
        assert begin.startswith(known), page


def test_who_runs_blocks_is_there() -> None:
    assert RUN_BY.keys() | WHOLE.keys() <= PAGES.keys()
    for runner in {*WHOLE.values(), *(runner for runs in RUN_BY.values() for _, runner in runs)}:
        if runner.startswith(".ci/run "):
            name = runner.removeprefix(".ci/run ")
            assert f"\n{name}() {{" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        else:
            module, name = runner.split("::")
            assert f"\ndef {name}(" in (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")


# Docstrings, which the site shows, too


def docstring_blocks() -> list[str]:
    """Return the blocks of code in the package's docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for path in sorted((ROOT / "gevent_rover").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, documented):
                text = f"{ast.get_docstring(node)}\n"
                found += re.findall(r"(?m)::\n\n((?: {4}.*\n|\n)+)", text)
    return [re.sub("(?m)^ {4}", "", block) for block in found]


@pytest.mark.parametrize("code", docstring_blocks())
def test_the_code_of_docstrings_runs(code: str, pool: SlotPool[Any]) -> None:
    before = pool.stats().leases
    exec(code, {"pool": pool})
    assert (pool.stats().leases, pool.leased) == (before + 1, 0)


def test_docstrings_have_code() -> None:
    assert len(docstring_blocks()) == 1


# What commands name


def lines_of(page: str) -> list[str]:
    """Return the commands on a page: those of blocks, and those in the text."""
    blocks = "\n".join(block.code for block in blocks_of(PAGES[page]) if block.language != "python")
    lines = re.sub(r"\\\n\s*", " ", blocks).splitlines()
    lines += re.findall(r"`([^`]+)`", without_code(PAGES[page]))
    return [command.strip() for line in lines for command in re.split(r" #|&&|[|]", line)]


@cache
def help_of(command: str) -> str:
    """Return what a subcommand says of its options, ``""`` if there is no such."""
    done = subprocess.run(
        [sys.executable, "-m", "gevent_rover", command, "--help"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done.stdout


@pytest.mark.integration
@pytest.mark.parametrize("page", PAGES)
def test_what_commands_name_is_there(page: str) -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for line in lines_of(page):
        words = line.split()
        options = [word.partition("=")[0] for word in words if re.match("--?[a-z]", word)]
        if words[:1] == ["gevent-rover"] and len(words) > 1 and words[1].isalpha():
            known = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", help_of(words[1]))
            assert known, f"{page}: {line}"
            assert set(options) <= set(known), f"{page}: {line}"
        if "python -m benchmarks" in line:
            place = ROOT / words[words.index("-m") + 1].replace(".", "/")
            sources = [*place.glob("*.py"), *place.parent.glob("*.py")]
            assert place.is_dir() or place.with_suffix(".py") in sources, line
            code = "".join(path.read_text(encoding="utf-8") for path in sources)
            assert all(f'"{option}"' in code for option in options if option != "-m"), line
        if "pip install" in line:
            for extras in re.findall(r"\[([a-z,]+)\]", line.replace("gunicorn[gevent]", "")):
                names = set(extras.split(","))
                assert names <= set(re.findall(r'(?m)^ {8}"(\w+)": ', setup)), line


# Those that nobody else runs


def test_the_landing_page_begins_as_the_readme_does() -> None:
    first = [next(blocks_of(PAGES[page])) for page in ("README.md", "docs/index.md")]
    assert first[0] == first[1]


def test_alerts_ask_for_metrics_that_the_page_has() -> None:
    text = PAGES["docs/metrics.md"]
    (alerts,) = (block.code for block in blocks_of(text) if block.language != "python")
    table = dict(re.findall(r"(?m)^\| `(\w+)` \|(.*)$", without_code(text)))
    asked = re.findall(r"\b(gevent_rover_\w+)(?:\{(.*?)\})?", alerts)
    assert len(asked) == 4
    for name, selected in asked:
        assert name in table
        for label, values in re.findall(r'(\w+)=~?"(.*?)"', selected):
            assert f"`{label}`" in table[name]
            assert all(f"`{value}`" in table[name] for value in values.split("|"))
    for labels in re.findall(r"sum by \((.*?)\)", alerts):
        assert all(f"`{label}`" in table[asked[0][0]] for label in labels.split(", "))


@pytest.mark.integration
def test_redis_answers_as_the_readme_has_it(tmp_path: Path) -> None:
    program("redis-cli")
    _, _, block = (block for block in blocks_of(PAGES["README.md"]) if block.language == "sh")
    front, relay, ping = (line.split(" #")[0] for line in block.code.splitlines())
    stage = Stage(tmp_path)
    with stage.stack, proxying.redis(tmp_path) as redis:
        stage.place("127.0.0.1:6379", redis.port)
        for machine in ("10.0.0.1", "10.0.0.2"):
            stage.run_line(front.replace("10.0.0.1", machine))
        port = free_port()  # the relay is on another machine, where nothing has redis' port
        stage.place("127.0.0.1:6379", port)
        stage.run_line(relay)
        assert shell(ping.replace("redis-cli", f"redis-cli -p {port}")) == "PONG\n"


@pytest.mark.integration
def test_certificates_are_made_as_the_page_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "OpenSSL 3" not in shell(f"{program('openssl')} version"):
        pytest.skip("the page is for OpenSSL 3")
    text = PAGES["docs/tls.md"]
    (block,) = (block for block in blocks_of(text) if block.language == "sh")
    *making, serve = re.sub(r"\\\n\s*", " ", block.code).splitlines()
    (rove,) = re.findall(r"`(gevent-rover rove [^`]*--ca[^`]*)`", text)
    monkeypatch.chdir(tmp_path)
    for line in making:
        shell(line)
    stage = Stage(tmp_path)
    with stage.stack:
        stage.listening(*stage.staged(serve).split()[1:])
        assert "  connection  " in stage.run_line(f"{rove} --count 1")


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_two_versions_and_a_large_directory_are_measured() -> None:
    assert "request" in run_benchmark("benchmarks.speed.versions", ROOT, "--quick")
    printed = run_benchmark("benchmarks.speed.feeding", "--rounds", 1, "--servers", 100)
    assert "a file of lines" in printed
