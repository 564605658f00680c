"""The README and the docs: their code runs, their links lead somewhere, their figures hold."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gevent.subprocess import PIPE, STDOUT, Popen

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "benchmarks" / "README.md",
    ]
}
BLOCKS = [
    pytest.param(code, id=f"{page}-{number}")
    for page, text in PAGES.items()
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    )
]
LINK = re.compile(r"\[([^]]+)\]\((?!\w+:)([^)\s]+)\)")  # a relative one


def without_code(text: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors_of(text: str) -> set[str]:
    """Return what links to the headings of a page may say behind the ``#``, as on GitHub."""
    anchors: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#+ +(.+?) *$", without_code(text), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        anchors.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return anchors


def test_the_quickstart_is_in_the_readme() -> None:
    quickstart = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    assert f"```python\n{quickstart}```\n" in README


def test_only_python_that_runs_is_called_python() -> None:
    for page, text in PAGES.items():
        assert set(re.findall(r"(?m)^```(\w+)", text)) <= {"python", "sh"}, page


@pytest.mark.parametrize("code", BLOCKS)
def test_every_block_runs_as_it_stands(code: str) -> None:
    process = Popen([sys.executable, "-W", "error", "-c", code], stdout=PIPE, stderr=STDOUT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert b"Traceback" not in output, output


def test_anchors_are_those_of_github() -> None:
    text = "# One, `two` & three\n\n```sh\n# none\n```\n\n## [A link](x.md)\n\n## A link\n"
    assert anchors_of(text) == {"one-two--three", "a-link", "a-link-1"}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    for _, target in LINK.findall(without_code(PAGES[page])):
        file, _, anchor = target.partition("#")
        path = ROOT / page if not file else (ROOT / page).parent / file
        assert path.exists(), target
        if anchor:
            assert anchor in anchors_of(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_a_page_names_are_there(page: str) -> None:
    for file, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", PAGES[page]):
        assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_architecture_names_what_there_is() -> None:
    text = PAGES["docs/architecture.md"]
    package = ROOT / "gevent_rover"
    modules = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    for file in re.findall(r"`(\w+/\w+\.py)`", text):
        assert (package / file).is_file() or (ROOT / file).is_file(), file
    names = set(re.findall(r"`([A-Z]\w+)\.(\w+)", text))
    assert len(names) > 50
    for owner, name in sorted(names):
        [module] = [code for code in modules if re.search(rf"(?m)^class {owner}\b", code)]
        assert re.search(rf"\bdef {name}\(|\b{name}: |\b{name} = ", module), (owner, name)


def test_the_figures_are_those_that_the_benchmarks_wrote() -> None:
    results = ROOT / "benchmarks" / "speed" / "results.json"
    report = json.loads(results.read_text(encoding="utf-8"))
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


# On a package index


def metadata(monkeypatch: pytest.MonkeyPatch, url: str) -> dict[str, Any]:
    """Return what setup.py gives to setuptools, which needn't be there."""
    given: dict[str, Any] = {}
    setuptools: Any = ModuleType("setuptools")
    setuptools.setup = lambda **keywords: given.update(keywords)
    setuptools.find_packages = lambda **keywords: []
    monkeypatch.setitem(sys.modules, "setuptools", setuptools)
    monkeypatch.setenv("GEVENT_ROVER_URL", url)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_without_a_url_the_index_shows_words_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    given = metadata(monkeypatch, "")
    text = given["long_description"]
    assert LINK.findall(without_code(text)) == []
    assert given["project_urls"] == {}
    assert text.count("architecture (docs/architecture.md in the source distribution)") == 1
    for _, target in LINK.findall(without_code(README)):
        assert target.partition("#")[0] in text
    # All else is as it was.
    assert text.splitlines()[0] == README.splitlines()[0]
    assert "](https://blinker.readthedocs.io/)" in text
    code = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    assert code.findall(text) == code.findall(README)


def test_with_a_url_the_index_shows_absolute_links(monkeypatch: pytest.MonkeyPatch) -> None:
    given = metadata(monkeypatch, "https://example.org/rover/")
    text = given["long_description"]
    assert LINK.findall(without_code(text)) == []
    for words, target in LINK.findall(without_code(README)):
        assert f"[{words}](https://example.org/rover/blob/HEAD/{target})" in text
    assert given["project_urls"].keys() == {"Source", "Changelog", "Documentation", "Issues"}
    assert given["project_urls"]["Source"] == "https://example.org/rover"
