"""A browser for tests of the status page, and the processes that it looks at."""

from __future__ import annotations

import base64
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import pytest

from gevent_rover.policy.server_health import ServerState

ROOT: Final = Path(__file__).parents[1]

#: Where workers have their sockets: a path that is short, and says nothing of the machine.
SOCKETS: Final = "run"

#: What axe-core checks: WCAG 2.1, A and AA.
RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]

#: What a server may be, the worst last.
STATES: Final = get_args(ServerState)

Found = TypeVar("Found")


def program_at(name: str) -> str:
    """Return where a program is. Skip the test if it's nowhere; where CI is true, fail it."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} isn't installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def needed(*modules: str) -> None:
    """Skip the test if one of the modules isn't installed; where CI is true, fail it."""
    for module in modules:
        if os.environ.get("CI") == "true":
            importlib.import_module(module)
        else:
            pytest.importorskip(module)


def until(question: Callable[[], Found | None], seconds: float = 10.0, what: object = "") -> Found:
    """Ask until the answer is true, and return it; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited {seconds} s in vain {what}"
        time.sleep(0.02)


# Processes


class Program:
    """A process that writes lines, which are all kept; see ``status_script.py``."""

    def __init__(self, *command: str, folder: Path = ROOT) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)

    def told(self, what: Callable[[str], Found | None], since: int = 0) -> Found:
        """Wait for a line, behind the first so many, of which ``what`` makes something true."""

        def look() -> Found | None:
            assert self._process.poll() is None, "it has ended"
            return next(filter(None, map(what, self.lines[since:])), None)

        return until(look, 20, self.lines[-3:])

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._end()

    def stop(self) -> None:
        self._process.terminate()
        self._end()

    def _end(self) -> None:
        self._process.wait(timeout=10)
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


class Script(Program):
    """A role of ``status_script.py``."""

    def __init__(self, role: str, folder: Path = ROOT, **parameters: object) -> None:
        command = [sys.executable, str(ROOT / "tests" / "status_script.py"), role]
        super().__init__(*command, json.dumps(parameters), folder=folder)
        try:
            self.ready: dict[str, Any] = self.told(json.loads)
        except BaseException:
            self.kill()
            raise

    def do(self, action: str, **arguments: object) -> None:
        """Have it do what it can, and return when that's done."""
        since = len(self.lines)
        self.write(json.dumps({"do": action, **arguments}))
        self.told(lambda line: json.loads(line).get("done"), since)

    def changes(self, id: str) -> list[tuple[float, str]]:
        """Return when a worker knew of each state that a server came to be in."""
        told = [json.loads(line) for line in list(self.lines)]
        return [(each["time"], each["state"]) for each in told if each.get("id") == id]


class PageProgram:
    """``gevent-rover page``, always at the same port, which no other process is given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        host, port = self._held.getsockname()
        self._place = f"{host}:{port}"
        self.url = f"http://{self._place}/"
        self._program: Program | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "gevent_rover", "page", SOCKETS]
        self._program = Program(*command, "--listen", self._place, folder=self._folder)
        self._program.told(lambda line: "listening" in line)

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
        self._program = None

    def close(self) -> None:
        self.stop()
        self._held.close()


class Site:
    """Servers, workers that lease from them all the time, and the page that shows them.

    :param folder: in which all of them run.
    """

    def __init__(self, folder: Path, names: list[str], workers: int, **parameters: Any) -> None:
        self._folder = folder
        self.workers: list[Script] = []
        with ExitStack() as stack:
            self.servers = Script("servers", names=names)
            stack.callback(self.servers.stop)
            self._parameters = {
                "ports": self.servers.ready["ports"],
                "sockets": SOCKETS,
                "max_slots": 2 * len(names),
                **parameters,
            }
            stack.callback(self._stop_workers)
            for _ in range(workers):
                self.add_worker()
            self.page = PageProgram(folder)
            stack.callback(self.page.close)
            self.page.start()
            self._open = stack.pop_all()

    def add_worker(self) -> None:
        self.workers.append(Script("worker", self._folder, **self._parameters))

    def _stop_workers(self) -> None:
        for worker in self.workers:
            worker.stop()

    def close(self) -> None:
        self._open.close()

    def known(self, id: str, state: str) -> float:
        """Wait until a server's worst state is this one, for those who know of it.

        :returns: since when, in seconds since the epoch.
        """
        return until(lambda: self._known(id, state), 20, f"for {id} to be {state}")

    def _known(self, id: str, state: str) -> float | None:
        changes = sorted(
            (time, index, state)
            for index, worker in enumerate(self.workers)
            for time, state in worker.changes(id)
        )
        since, worst, states = 0.0, "", {}
        for time_, index, each in changes:
            states[index] = each
            now = max(states.values(), key=STATES.index)
            if now != worst:
                since, worst = time_, now
        return since if worst == state else None


# The browser


class Browser:
    """Chromium, without a window."""

    def __init__(self) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = program_at("chromium")
        for option in (
            *("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars"),
            *("disable-background-networking", "disable-component-update", "no-first-run"),
        ):
            options.add_argument(f"--{option}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # With its path given, Selenium looks for nothing to download.
        self.driver: Any = webdriver.Chrome(options, Service(program_at("chromedriver")))
        self.driver.set_script_timeout(20)
        self.axe = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
        self.look()

    def close(self) -> None:
        self.driver.quit()

    def open(self, url: str) -> None:
        """Open a page anew, and wait until it shows an answer."""
        self.driver.get("about:blank")
        self.driver.get(url)
        until(lambda: self.text("#updated"))

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript in the page, and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def command(self, name: str, **parameters: object) -> Any:
        """Send a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def look(self, scheme: str = "light", width: int = 1440, height: int = 900) -> None:
        """Have the page seen in a colour scheme, in a window of this size."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=features)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)

    def picture(self, path: Path) -> None:
        """Write what is seen to a PNG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = self.command("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(picture["data"]))

    def console(self) -> list[str]:
        """Return what is in the console since the last time: errors, refusals of the CSP."""
        return [f"{entry['level']} {entry['message']}" for entry in self.driver.get_log("browser")]

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def seconds_of_cpu(self) -> float:
        """Return how much of the CPU the page's main thread took so far, in seconds."""
        self.command("Performance.disable")
        self.command("Performance.enable", timeDomain="threadTicks")
        metrics = self.command("Performance.getMetrics")["metrics"]
        found: float = next(each["value"] for each in metrics if each["name"] == "TaskDuration")
        return found

    def violations(self) -> list[str]:
        """Return what axe-core finds against :data:`RULES`, with where it is."""
        if not self.run("return 'axe' in window"):
            self.run(self.axe)
        found = self.driver.execute_async_script(
            """
            const [rules, done] = arguments;
            axe.run(document, {runOnly: rules, resultTypes: ["violations"]}).then(done);
            """,
            RULES,
        )
        return [
            f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
            for violation in found["violations"]
            for node in violation["nodes"]
        ]

    # What the page shows

    def wait_for_update(self, count: int = 1) -> None:
        """Wait until the page has shown so many answers more."""
        self.driver.execute_async_script(
            """
            let [left, done] = arguments;
            new MutationObserver((changes, observer) => {
                left -= 1;
                if (left) return;
                observer.disconnect();
                done();
            }).observe(document.getElementById("updated"), {childList: true});
            """,
            count,
        )

    def text(self, selector: str) -> str:
        """Return the text of an element; none: ``""``."""
        found = self.run("return document.querySelector(arguments[0])?.textContent", selector)
        return found or ""

    def rows(self, table: str) -> list[dict[str, str]]:
        """Return the rows of a table that are shown, in order, and its foot: texts by columns."""
        rows: list[dict[str, str]] = self.run(
            """
            const table = document.getElementById(arguments[0]);
            const names = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.column);
            const rows = [...table.tBodies[0].rows, ...(table.tFoot?.rows ?? [])];
            return rows.filter((row) => !row.hidden).map((row) =>
                Object.fromEntries(names.map((name, i) => [name, row.cells[i].textContent])));
            """,
            table,
        )
        return rows

    def pools(self) -> list[dict[str, str]]:
        """Return the rows of the pools, without the sum."""
        return self.rows("pools")[:-1]

    def ids(self) -> list[str]:
        """Return the ids of the servers that are shown, in order."""
        return [row["id"] for row in self.rows("servers")]

    def row(self, id: str) -> dict[str, str]:
        """Return the row of a server; empty if there is none."""
        return next((row for row in self.rows("servers") if row["id"] == id), {})

    def focused(self) -> str:
        """Return what has the focus: its id, or its text."""
        focused: str = self.run(
            "const node = document.activeElement; return node.id || node.value || node.textContent"
        )
        return focused.strip()

    def tab_to(self, name: str, most: int = 60) -> None:
        """Press the tabulator until what has this id, value or text has the focus."""
        from selenium.webdriver import Keys

        for _ in range(most):
            if self.focused() == name:
                return
            self.press(Keys.TAB)
        pytest.fail(f"{most} tabs lead to no {name!r}, but to {self.focused()!r}")


@contextmanager
def closing_all() -> Iterator[Callable[[Any], Any]]:
    """Give a function that has what it's given closed in the end."""
    things: list[Any] = []

    def closing(thing: Any) -> Any:
        things.append(thing)
        return thing

    try:
        yield closing
    finally:
        for thing in reversed(things):
            thing.close()
