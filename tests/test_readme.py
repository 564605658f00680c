"""The README and the docs: their code runs, their links lead somewhere, their figures hold."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections import Counter
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT
from gevent.subprocess import PIPE, STDOUT, Popen
from pages import LINK, PAGES, PICTURE, blocks_of, without_code

README = PAGES["README.md"]
BLOCKS = [
    pytest.param(block.code, id=f"{page}-{number}")
    for page, text in PAGES.items()
    if page != "docs/tutorial.md"  # test_tutorial runs it, in order
    for number, block in enumerate(block for block in blocks_of(text) if block.language == "python")
]
#: What blocks may be called that aren't Python; test_blocks says who runs them. So no Python
#: is called ``py``, ``pycon`` or ``console``, and stays unread.
LANGUAGES = {"", "sh", "text", "json", "promql", "yaml", "nginx"}


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
        languages = {block.language for block in blocks_of(text)} - {"python"}
        assert {name for name in languages if name[:1] != "{"} <= LANGUAGES, page


def test_blocks_are_found_with_and_without_a_fence() -> None:
    text = "```sh\none\n```\n\n    two\n\n````text\n```\nthree\n````\n- four\n    five\n"
    assert [(block.language, block.code) for block in blocks_of(text)] == [
        ("sh", "one\n"),
        ("", "two\n"),
        ("text", "```\nthree\n"),
    ]
    assert without_code(text) == "\n\n\n\n- four\n    five\n"


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
    for _, target in PICTURE.findall(without_code(PAGES[page])):
        assert ((ROOT / page).parent / target).is_file(), target


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
    assert "![" not in text
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
    for words, target in PICTURE.findall(README):
        assert f"![{words}](https://example.org/rover/raw/HEAD/{target})" in text
    assert given["project_urls"].keys() == {"Source", "Changelog", "Documentation", "Issues"}
    assert given["project_urls"]["Source"] == "https://example.org/rover"
