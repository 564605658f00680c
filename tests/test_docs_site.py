"""The documentation's site: it builds without a warning, is whole, and asks nobody else."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from time import monotonic
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT
from pages import PAGES

pytest.importorskip("furo", reason="only the extra docs has Sphinx and its theme")

pytestmark = [pytest.mark.integration, pytest.mark.docs, pytest.mark.timeout(180)]

#: Whose names are public.
PACKAGES = [
    name
    for name in (
        "gevent_rover",
        *(f"gevent_rover.{room}" for room in ("discovery", "status", "metrics")),
    )
    if (ROOT / name.replace(".", "/") / "__init__.py").exists()
]


def sphinx(source: Path, to: Path) -> subprocess.CompletedProcess[str]:
    """Build a site as ``tox -e docs`` does; an error is no failure of the test's yet."""
    options = ["-W", "--keep-going", "-n", "-q", "-b", "html", "-d", str(to / ".doctrees")]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(source), str(to)],
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, and return its folder."""
    to = tmp_path_factory.mktemp("site")
    began = monotonic()
    done = sphinx(ROOT / "docs", to)
    assert (done.returncode, done.stderr) == (0, "")
    assert monotonic() - began < 60
    return to


class Page(HTMLParser):
    """What a page of the site refers to, and what may be referred to on it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        #: Where its links lead.
        self.links: list[str] = []
        #: What a browser fetches to show it.
        self.parts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        for name in ("href", "src", "srcset", "data", "poster", "action"):
            if name in given and tag != "form":
                (self.links if (tag, name) == ("a", "href") else self.parts).append(given[name])


def pages_of(site: Path) -> dict[Path, Page]:
    """Return all pages of a site."""
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_link_leads_to_a_page_and_an_anchor_of_the_site(site: Path) -> None:
    pages = pages_of(site)
    assert len(pages) > 50
    followed = 0
    for path, page in pages.items():
        for link in {*page.links, *page.parts}:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path}: {link}"
            followed += 1
    assert followed > 1000


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for path, page in pages_of(site).items():
        for part in page.parts:
            assert urlsplit(part).scheme in ("", "data"), f"{path}: {part}"
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text), path


def test_links_to_elsewhere_are_those_of_the_pages(site: Path) -> None:
    texts = "\n".join([*PAGES.values(), *map(str, docstrings())])
    for path, page in pages_of(site).items():
        for link in page.links:
            if urlsplit(link).scheme not in ("", "mailto"):
                known = link in texts or link == "https://github.com/pradyunsg/furo"
                assert known, f"{path.relative_to(site)}: {link}"


def docstrings() -> Iterator[str | None]:
    """Yield the docstrings of the package's modules."""
    for path in (ROOT / "gevent_rover").rglob("*.py"):
        yield path.read_text(encoding="utf-8")


# What is on it


def inventory(site: Path) -> dict[str, str]:
    """Return the names that a site documents, each with its kind."""
    text = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(text).decode().splitlines()
    return {line.split()[0]: line.split()[1] for line in lines if " py:" in line}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(site: Path, package: str) -> None:
    documented = inventory(site)
    names = importlib.import_module(package).__all__
    assert {f"{package}.{name}" for name in names} <= documented.keys()


def test_what_comments_say_of_values_is_on_the_page(site: Path) -> None:
    texts = {path.stem: text_of(path) for path in (site / "api").glob("*.html")}
    assert "A slot line arrived." in texts["rover"]  # a signal: its own docstring
    assert "it had lived for its max_lifetime" in texts["pool"]  # a type: a comment, elsewhere
    assert "Seconds that a client has for the TLS handshake." in texts["server"]  # a descriptor
    assert "None: for ever" in texts["server"]  # one of a base class


def text_of(path: Path) -> str:
    """Return the words of a page, without its tags."""
    text = re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8"))
    return " ".join(text.split()).replace("&#39;", "'").replace("&quot;", '"')


def test_every_subcommand_says_what_it_takes(site: Path) -> None:
    command = [sys.executable, "-m", "gevent_rover"]
    done = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, timeout=30, check=True
    )
    names = re.findall(r"(?m)^    (\w+) {2,}", done.stdout)
    assert len(names) >= 5
    text = text_of(site / "command.html")
    for name in names:
        assert f"usage: gevent-rover {name} [-h]" in text, name


def test_search_works_without_a_server(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert index.startswith("Search.setIndex(")  # a script: it needs no request
    for word in ("slot", "gunicorn", "zookeep"):  # as stemmed
        assert f'"{word}"' in index or f"{word}:" in index, word


def test_files_of_the_repository_are_pages(site: Path) -> None:
    recipe = text_of(site / "files" / "examples" / "clients" / "redis_pool.py.html")
    assert "class RedisPool" in recipe
    folder = text_of(site / "files" / "examples" / "gunicorn.html")
    assert "app.py" in folder
    assert "def post_worker_init" in folder


def test_pages_elsewhere_in_the_repository_are_part_of_it(site: Path) -> None:
    for page, words in {
        "overview": "The slot line",
        "benchmarks": "What misleads",
        "changelog": "Keep a Changelog",
        "contributing": "Add a fault",
        "corpus": "What is left open",
    }.items():
        assert words in text_of(site / f"{page}.html"), page
    pools = (site / "pools.html").read_text(encoding="utf-8")
    assert 'href="benchmarks.html#balance"' in pools


def test_pictures_are_in_the_readers_colours_and_lead_to_their_full_size(site: Path) -> None:
    text = (site / "status.html").read_text(encoding="utf-8")
    shown = re.findall(r'<a [^>]*href="([^"]+)"[^>]*><img [^>]*class="([^"]+)"[^>]*>', text)
    assert ("_images/status-light.png", "only-light") in shown
    assert ("_images/status-dark.png", "only-dark") in shown


# What it refuses


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("[a page](nowhere.md)", "nowhere"),
        ("[a heading](index.md#nowhere)", "nowhere"),
        ("[a file](../examples/nowhere.py)", "nowhere.py"),
        ("[a file that is no page](../setup.py)", "setup.py"),
        ("{py:class}`gevent_rover.Nowhere`", "Nowhere"),
    ],
)
def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path, line: str, warning: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("extensions", "_static"):
        shutil.copytree(ROOT / "docs" / name, docs / name)
    for name in ("examples", "gevent_rover"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "setup.py").touch()
    shutil.copy(ROOT / "docs" / "conf.py", docs)
    (docs / "index.md").write_text("# A site\n\n[quick](../examples/quickstart.py)\n")
    assert sphinx(docs, tmp_path / "good").returncode == 0
    (docs / "index.md").write_text(f"# A site\n\n{line}\n")
    done = sphinx(docs, tmp_path / "bad")
    assert done.returncode == 1
    assert warning in done.stderr
