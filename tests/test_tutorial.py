"""docs/tutorial.md, as a newcomer goes through it: what is typed there shows what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import gevent
import pytest
from backends import accepts, free_port, program
from browsing import Browser
from conftest import ROOT, wait_until
from gevent.subprocess import PIPE, Popen
from pages import PAGES, Block, blocks_of

pytestmark = [pytest.mark.integration, pytest.mark.docs, pytest.mark.timeout(600)]

PAGE = PAGES["docs/tutorial.md"]

#: The ports of the page: here any free ones stand for them.
PORTS: Final = ("7001", "7002", "7003", "8000")

#: What the page shows where there's a picture of it: a server's port, and its state.
PICTURES: Final = {
    "tutorial-up": ("7002", "up"),
    "tutorial-death": ("7002", "unreachable"),
    "tutorial-slow": ("7003", "slow"),
}

#: Where these go, if they are to be made; then with the page's own ports.
FOLDER: Final = os.environ.get("ROVER_PICTURES")

#: What is copied of the checkout: what a wheel is built of, and the examples.
CLONED: Final = ["gevent_rover", "examples", "setup.py", "pyproject.toml", "README.md", "LICENSE"]

#: How far a count may be from the page's: which of two workers answers is up to the kernel.
TOLERANCE: Final = 9

_COUNT = re.compile(r" *(\d+) (\d+ says /hello)")
_DONE = "--- typed ---"


class Terminal:
    """A shell with job control, as in a terminal, in a folder of its own."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        free = sorted(free_port() for _ in PORTS)  # lists are in the order of addresses
        self._ports = dict(zip(PORTS, PORTS if FOLDER else map(str, free), strict=True))
        self._errors = folder / "errors"
        with self._errors.open("wb") as errors:
            self._shell: Any = Popen(
                ["bash", "--norc", "--noprofile"],
                cwd=folder / "clone",
                env=environ | {"BIND": f"127.0.0.1:{self._ports['8000']}"},
                stdin=PIPE, stdout=PIPE, stderr=errors,
                start_new_session=True,
            )  # fmt: skip
        # If the test is killed the shell's input ends, and its jobs with it.
        self.type("set -m; trap 'kill $(jobs -p) 2>/dev/null' EXIT")

    def type(self, code: str, timeout: float = 60.0) -> str:
        """Type some lines, and return what they print on standard output."""
        code = self._translated(code)
        self._shell.stdin.write(f"{code}\necho '{_DONE}'\n".encode())
        self._shell.stdin.flush()
        printed = ""
        with gevent.Timeout(timeout, AssertionError(f"{code!r} takes longer than {timeout} s")):
            while not printed.endswith(f"{_DONE}\n"):
                line = self._shell.stdout.readline().decode()
                assert line, self.errors
                printed += line
        if killed := re.fullmatch(r"kill '%\?(\d+)'\n", code):
            port = int(killed[1])
            wait_until(lambda: not accepts(port), 30)
        for started in re.findall(r"(?m)^python \S+ (\d+) .* &$", code):
            wait_until(partial(accepts, int(started)), 30)
        return self._translated(printed.removesuffix(f"{_DONE}\n"), back=True)

    def _translated(self, text: str, *, back: bool = False) -> str:
        for there, here in self._ports.items():
            old, new = (here, there) if back else (there, here)
            text = re.sub(rf"\b{old}\b", new, text)
        return text

    def accepts(self, port: str) -> bool:
        """Tell whether anybody listens at a port of the page's."""
        return accepts(int(self._ports[port]))

    def state_of(self, port: str) -> str:
        """Return the state of a server, as the page has it."""
        seen = self.type("curl -s http://127.0.0.1:8000/status/status.json")
        (state,) = (row["state"] for row in json.loads(seen)["servers"] if port in row["id"])
        return str(state)

    @property
    def errors(self) -> str:
        """What was printed on standard error."""
        return self._errors.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End the shell, and whatever was started in it."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                stat = (process / "stat").read_text(encoding="utf-8", errors="replace")
                if int(stat.rpartition(")")[2].split()[3]) == self._shell.pid:  # its session
                    os.kill(int(process.name), signal.SIGKILL)
            except (OSError, ValueError):
                pass  # It has ended meanwhile.
        self._shell.wait()
        self._shell.stdin.close()
        self._shell.stdout.close()


class Watcher:
    """Sees that the page shows what the pictures of it do; makes these, if that's wanted."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._browser: Browser | None = None

    def look(self, name: str) -> None:
        """Look at the page where there's a picture of it."""
        port, state = PICTURES[name]
        deadline = monotonic() + 150  # a busy machine makes servers slow for a while
        while (seen := self._terminal.state_of(port)) != state:
            assert monotonic() < deadline, f"{port} is {seen}, not {state}"
            self._terminal.type("ask")
        if not FOLDER:
            return
        seconds = 15  # so that the plots have something to show
        if self._browser is None:
            seconds = 40
            self._browser = Browser()
            self._browser.look("light", 1440, 630)
            self._browser.open("http://127.0.0.1:8000/status/")
        until = monotonic() + seconds
        while monotonic() < until:
            self._terminal.type("ask")
        self._browser.picture(ROOT / FOLDER / f"{name}.png")

    def close(self) -> None:
        """Close the browser, if there is one."""
        if self._browser is not None:
            self._browser.close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """Give a terminal in a clone, where ``python3`` is this Python."""
    program("curl")
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in CLONED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, clone / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, clone)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "python3").chmod(0o755)
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "COVERAGE", "VIRTUAL_ENV", "GEVENT"))
    }
    terminal = Terminal(
        tmp_path, environ | {"PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "100"}
    )
    yield terminal
    terminal.close()


@pytest.fixture
def watcher(terminal: Terminal) -> Iterator[Watcher]:
    """Give who watches the page meanwhile."""
    with closing(Watcher(terminal)) as watcher:
        yield watcher


def steps() -> Iterator[tuple[str, Block, str | None]]:
    """Yield what stands before each block that is typed or saved, the block, and what one sees."""
    blocks = [block for block in blocks_of(PAGE) if block.language[:1] != "{"]
    before = 0
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        place = PAGE.index(f"```{block.language}\n{block.code}```", before)
        text, before = PAGE[before:place], place + len(block.code)
        if block.language != "text":
            is_seen = following is not None and following.language == "text"
            yield text, block, following.code if following is not None and is_seen else None


def looks_like(seen: str, page: str) -> bool:
    """Tell whether what one sees is what the page says: ``…`` stands for anything.

    So do times; counts may be a little different.
    """
    counts = {what: int(count) for count, what in _COUNT.findall(page)}
    if counts:
        found = {what: int(count) for count, what in _COUNT.findall(seen)}
        if not found.keys() <= counts.keys():
            return False
        if any(abs(found.get(what, 0) - n) > TOLERANCE for what, n in counts.items()):
            return False
        seen, page = _COUNT.sub("", seen), _COUNT.sub("", page)
    pattern = re.escape(page.strip())
    pattern = re.sub(r"\d\d:\d\d:\d\d\\\.\d+|\d+\\\.\d+", r"[\\d:.]+", pattern)
    pattern = re.sub(r"(\\ |\\\n|\s)+", r"\\s+", pattern).replace("…", ".*?")
    return re.fullmatch(pattern, seen.strip(), re.DOTALL) is not None


def test_what_is_seen_is_compared_loosely_but_not_too_loosely() -> None:
    page = "     20 7001 says /hello\n     2 7002 says /hello\n"
    assert looks_like("     25 7001 says /hello\n", page)
    assert not looks_like("     30 7001 says /hello\n", page)
    assert not looks_like("     20 7001 says /hello\n     2 7003 says /hello\n", page)
    assert not looks_like("     20 7001 says /hello\n      1 no connection\n", page)
    page = "22:16:04.140  connection   127.0.0.1:…     0.6 ms  slot 0\n…\n"
    assert looks_like("08:01:02.003  connection  127.0.0.1:7001 12.1 ms  slot 0\nmore\n", page)
    assert not looks_like("08:01:02.003  connection  127.0.0.1:7001 12.1 ms  slot 1\nmore\n", page)


def test_the_tutorial_is_as_it_says(terminal: Terminal, watcher: Watcher, tmp_path: Path) -> None:
    for text, block, page in steps():
        for name in re.findall(r"\(pictures/(.*)\.png\)", text):
            watcher.look(name)
        if block.language == "python":
            (name,) = re.findall(r"Save this as `(\w+\.py)`", text)
            (tmp_path / "clone" / "tutorial" / name).write_text(block.code)
            continue
        seen = terminal.type(block.code, 180)
        if "pip install" in block.code:
            skip_without_an_index(terminal)
        deadline = monotonic() + 150
        while page is not None and not looks_like(seen, page):
            assert monotonic() < deadline, f"{block.code}{seen}{terminal.errors}"
            assert re.search(r"^kill|&$", block.code, re.MULTILINE) is None, f"{block.code}{seen}"
            gevent.sleep(1)
            seen = terminal.type(block.code)
        if re.search(r"^ask$", block.code, re.MULTILINE):
            answers = [line for line in seen.splitlines() if _COUNT.fullmatch(line)]
            assert sum(int(_COUNT.findall(line)[0][0]) for line in answers) == 60, seen
    assert not any(terminal.accepts(port) for port in PORTS)
    log = (tmp_path / "clone" / "tutorial" / "gunicorn.log").read_text()
    assert "Traceback" not in log + terminal.errors, log + terminal.errors


def test_there_is_a_picture_of_each_state_that_is_looked_at() -> None:
    assert re.findall(r"\(pictures/(.*)\.png\)", PAGE) == list(PICTURES)


def skip_without_an_index(terminal: Terminal) -> None:
    """Skip the test where pip finds no package index, but fail where CI has one."""
    if terminal.type("command -v gunicorn").startswith("/") and "ERROR" not in terminal.errors:
        return
    if os.environ.get("CI") != "true" and re.search(
        "No matching distribution|NewConnectionError", terminal.errors
    ):
        pytest.skip("there's no package index here")
    pytest.fail(terminal.errors)
