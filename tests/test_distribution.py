"""What is published: an sdist and a wheel that install into an empty environment and work."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from gevent.subprocess import check_output

pytestmark = [pytest.mark.integration, pytest.mark.docs, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent

for tool in ("build", "twine"):
    if importlib.util.find_spec(tool) is None and os.environ.get("CI") != "true":
        pytest.skip(f"{tool} isn't installed", allow_module_level=True)


def run(*command: str, folder: Path, **environ: str) -> str:
    """Return what a command says; it must succeed, and find nothing of the checkout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return check_output(command, cwd=folder, env=clean | environ, text=True)


def build(folder: Path, *options: str, url: str = "") -> Path:
    """Build in a copy of the checkout; return the folder where it all is."""
    source = folder / "source"
    left_out = shutil.ignore_patterns(
        *(".?*", "build", "dist", "_build", "__pycache__", "*.egg-info", "*venv*")
    )
    shutil.copytree(ROOT, source, ignore=left_out)
    command = (sys.executable, "-m", "build", *options, "--outdir", str(folder), ".")
    run(*command, folder=source, GEVENT_ROVER_URL=url)
    return folder


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder with an sdist and a wheel that don't know where the repository is."""
    return build(tmp_path_factory.mktemp("dist"))


def archives(dist: Path) -> Iterator[Path]:
    yield from dist.glob("*.whl")
    yield from dist.glob("*.tar.gz")


def long_description(dist: Path) -> str:
    [wheel] = dist.glob("*.whl")
    with ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        return archive.read(metadata).decode().partition("\n\n")[2]


def test_a_package_index_takes_both(dist: Path) -> None:
    said = run(
        *(sys.executable, "-m", "twine", "check", "--strict"),
        *map(str, archives(dist)),
        folder=dist,
    )
    assert said.count("PASSED") == 2
    assert "warning" not in said.lower()


def targets_of(dist: Path) -> list[str]:
    """Return where the links and pictures of what an index shows lead."""
    text = re.sub(r"(?s)```.*?```", "", long_description(dist))
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    assert [target for target in targets if not target.startswith("https://")] == []
    return targets


def test_no_picture_and_no_link_leads_into_the_repository(dist: Path) -> None:
    assert not [target for target in targets_of(dist) if target.endswith(".png")]


def test_pictures_and_links_lead_to_the_repository_where_that_is_known(tmp_path: Path) -> None:
    targets = targets_of(build(tmp_path, "--wheel", url="https://example.org/rover"))
    inside = [target for target in targets if target.startswith("https://example.org/rover/")]
    assert any(target.endswith(".png") for target in inside)
    for target in inside:
        path = re.sub(r"^https://example.org/rover/(blob|raw)/HEAD/", "", target)
        assert (ROOT / path.partition("#")[0]).exists(), target


def test_the_sdist_has_what_its_own_tests_need(dist: Path) -> None:
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tox.ini", "tests/conftest.py", "docs/index.md", "examples/quickstart.py"} <= names
    assert not [name for name in names if "_build" in name or name.endswith(".pyc")]


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_runs_in_an_empty_environment(dist: Path, kind: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    bin = tmp_path / "venv" / "bin"
    [archive] = dist.glob(kind)
    run(str(bin / "pip"), "install", "-q", str(archive), folder=tmp_path)
    said = run(str(bin / "gevent-rover"), "demo", "--seconds", "2", folder=tmp_path)
    assert "slots held after" in said
    # The page came along, too.
    code = "from gevent_rover.status.page import page; print(len(page()[0]))"
    assert int(run(str(bin / "python"), "-c", code, folder=tmp_path)) > 10_000
