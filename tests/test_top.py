"""``gevent-rover top``: in pipes and on terminals, with workers that come, go and lie."""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import os
import re
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import entry, port_of, wait_until
from gevent.event import Event
from gevent.os import nb_read
from gevent.select import select
from gevent.subprocess import PIPE, Popen
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_cli import COMMAND, run
from test_status_merge import COUNTERS, a_pool, a_report, a_server

from gevent_rover import Rover, SlotPool, SlotServer
from gevent_rover.command.console import Output
from gevent_rover.command.stream import Stream
from gevent_rover.command.top import add_options
from gevent_rover.command.top_cells import Glyphs, age, chosen, seconds_text
from gevent_rover.command.top_screen import fitted
from gevent_rover.command.top_text import Frames, lines_of
from gevent_rover.status import PageServer, StatusApp, StatusServer
from gevent_rover.status.merge import merged

# Almost each of them starts the command.
pytestmark = pytest.mark.integration

Closing = Callable[[Any], Any]

HOSTILE = "a\n\x1b[2Jb[bold]c\u202e\x9b5m\t中"


@pytest.fixture
def app(
    closing: Closing, slot_server: Callable[..., SlotServer], tmp_path: Path
) -> Iterator[StatusServer]:
    """Give a status server of a rover and a pool that is leased from, at ``app.sock``."""

    def echo(slot: int, sock: Any, address: Any) -> None:
        while data := sock.recv(100):
            sock.sendall(data)

    def work() -> None:
        while True:
            with pool.lease() as sock:
                sock.sendall(b"x")
                sock.recv(1)
            gevent.sleep(0.01)

    rover = closing(Rover({"web1": entry(slot_server(echo))}, roving_interval=0.05))
    rover.start()
    pool = closing(SlotPool[Any](rover, max_slots=3))
    pool.wait_ready()
    working = gevent.spawn(work)
    server = StatusServer(rover, pool, f"unix:{tmp_path}/app.sock")
    with server:
        yield server
    working.kill()


@pytest.fixture
def shows(closing: Closing) -> Callable[[Callable[[], Sequence[Any]]], str]:
    """Give a function that serves reports, made anew for each reader, and returns the URL."""

    def shows(reports: Callable[[], Sequence[Any]]) -> str:
        app = StatusApp(lambda: [json.dumps(report).encode() for report in reports()])
        server = closing(PageServer(app, "127.0.0.1:0"))
        server.start()
        return str(server.url)

    return shows


@pytest.fixture
def top(processes: list[Any]) -> Callable[..., Any]:
    """Give a function that starts the command with a pipe; what still runs is ended."""

    def top(*arguments: str, **options: Any) -> Any:
        command = [sys.executable, "-W", "error", *COMMAND[1:], "top", *arguments]
        process: Any = Popen(command, **{"stdout": PIPE, "stderr": PIPE, "text": True, **options})
        processes.append(process)
        return process

    return top


def ended(process: Any, number: int = signal.SIGTERM, within: float = 1.5) -> None:
    """Send a signal, and see the process end well and soon."""
    process.send_signal(number)
    began = time.monotonic()
    assert process.wait(timeout=10) == 0
    assert time.monotonic() - began < within


class Terminal:
    """A terminal that a command runs on; it keeps what was written."""

    def __init__(self, top: Callable[..., Any], *arguments: str, size: str, **environ: str) -> None:
        self.written = b""
        self.master, slave = os.openpty()
        self.resize(size)
        environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environ}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            environment.pop(name, None)

        # As a login has it: the kernel tells the command of a key or a size.
        def log_in() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        terminal = {"stdin": slave, "stdout": slave, "env": environment, "preexec_fn": log_in}
        self.process = top(*arguments, **terminal)
        os.close(slave)
        os.set_blocking(self.master, False)
        self._reader = gevent.spawn(self._read)

    def resize(self, size: str) -> None:
        width, height = map(int, size.split("x"))
        window = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, window)

    def _read(self) -> None:
        try:
            while data := nb_read(self.master, 65536):
                self.written += data
        except OSError:
            pass  # The command has ended.

    def frame(self) -> list[str]:
        """Return the lines of the latest frame that is whole, without styles."""
        frames = self.written.decode("utf-8", "replace").split("\x1b[H")
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frames[-1])
        return [line.rstrip() for line in text.replace("\r", "").split("\n")]

    def wait_for(self, text: str) -> list[str]:
        wait_until(lambda: text in "\n".join(self.frame()), timeout=20)
        return self.frame()

    def stop_reading(self) -> None:
        self._reader.kill()

    def close(self) -> None:
        self._reader.kill()
        os.close(self.master)


@pytest.fixture
def terminal(top: Callable[..., Any]) -> Iterator[Callable[..., Terminal]]:
    """Give a function that starts the command on a terminal, ``size`` cells large."""
    terminals: list[Terminal] = []

    def terminal(*arguments: str, size: str = "100x20", **environ: str) -> Terminal:
        terminals.append(Terminal(top, *arguments, size=size, **environ))
        return terminals[-1]

    yield terminal
    for each in terminals:
        each.close()


def servers_in(lines: Sequence[str]) -> list[str]:
    """Return the ids of the servers' table."""
    [header] = [n for n, line in enumerate(lines) if line.startswith("server ")]
    below = [line.split("  ")[0] for line in lines[header + 1 :]]
    return [id for id in below if id and not id.startswith(("…", "..."))]


def test_once_is_a_table_with_rates(app: StatusServer, tmp_path: Path) -> None:
    code, output, errors = run("top", str(tmp_path), "--once", "--interval", "0.5")
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  1 worker", lines[0])
    assert lines[1].startswith("1 server  1 up  ")
    rate = re.match(r"([0-9.]+) leases/s  p50 [0-9.]+ ms  p99 ", lines[2])
    assert rate is not None
    assert 5 < float(rate[1]) < 200
    assert servers_in(lines) == ["web1"]
    assert re.search(r"web1 +127\.0\.0\.1:\d+  up +[■□]{3} ", output)
    assert [line for line in lines if line.startswith("pool ")]
    assert lines[-1] != ""


def test_once_as_json_is_one_document(app: StatusServer) -> None:
    code, output, _ = run("top", app.url, "--once", "--json", "--interval", "0.3")
    [line] = output.splitlines()
    document = json.loads(line)
    assert code == 0
    assert [worker["where"] for worker in document["workers"]] == [app.url]
    assert document["totals"]["lease_rate"] > 0
    assert document["servers"][0]["id"] == "web1"


def test_json_is_a_line_for_each_poll(app: StatusServer, top: Callable[..., Any]) -> None:
    process = top(app.url, "--json", "--interval", "0.1")
    documents = [json.loads(process.stdout.readline()) for _ in range(4)]
    times = [document["time"] for document in documents]
    assert times == sorted(set(times))
    assert times[-1] - times[0] == pytest.approx(0.3, abs=0.25)
    ended(process, signal.SIGINT)
    assert process.stderr.read() == ""


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_once_fails_if_nobody_answers(arguments: list[str], tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/missing.sock"
    code, output, errors = run("top", where, "--once", "--interval", "0.1", *arguments)
    assert (code, errors) == (1, "")
    assert where in output
    assert "No such file or directory" in output
    assert ("nobody has answered yet" in output) is (arguments == [])


def test_an_empty_folder_is_nobody(tmp_path: Path) -> None:
    code, output, _ = run("top", str(tmp_path), "--once", "--interval", "0.1")
    assert code == 1
    assert "0 workers" in output


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ([], "WHERE"),
        (["unix:"], "'unix:'"),
        (["https://127.0.0.1/"], "https://127.0.0.1/"),
        (["x", "--interval", "0"], "--interval"),
        (["x", "--sort", "beauty"], "beauty"),
        (["x", "--twice"], "--twice"),
        (["http://a\x1b[2J/"], "x1b"),
    ],
)
def test_a_bad_argument_gets_one_line_that_names_it(arguments: list[str], culprit: str) -> None:
    code, output, errors = run("top", *arguments)
    assert (code, output) == (2, "")
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("gevent-rover top: ")
    assert culprit in errors
    assert "\x1b" not in errors


def test_help_documents_the_places_and_the_json() -> None:
    code, output, _ = run("top", "--help")
    assert code == 0
    for word in ("unix:PATH", "FOLDER", "--once", "failures", "silent", "Exit"):
        assert word in output, word


def some_servers() -> list[Any]:
    return [
        a_report(
            "one",
            "one",
            servers=[
                a_server("up1", leases=5, lease_times=[[12, 9]], failures=0),
                a_server("up2", leases=9, lease_times=[[20, 9]], address=None, failures=0),
                a_server(
                    "gone",
                    state="unreachable",
                    error="OSError: no route",
                    error_since=time.time() - 130,
                    failures=3,
                ),
                a_server(
                    "slow", state="slow", lease_times=[], slots=[[n, "idle"] for n in range(30)]
                ),
            ],
        ),
        a_report("two", "two", servers=[a_server("gone"), a_server("up1", failures=0)]),
    ]


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        ([], ["gone", "slow", "up1", "up2"]),
        (["--sort", "id"], ["gone", "slow", "up1", "up2"]),
        (["--sort", "leases"], ["gone", "up1", "slow", "up2"]),
        (["--sort", "p99"], ["up2", "up1", "gone", "slow"]),
        (["--sort", "slots"], ["slow", "gone", "up1", "up2"]),
        (["--sort", "address"], ["gone", "slow", "up1", "up2"]),
        (["--sort", "failures"], ["gone", "slow", "up1", "up2"]),
        (["--filter", "UP"], ["up1", "up2"]),
        (["--filter", "no ROUTE"], ["gone"]),
        (["--filter", "10.0.0.1", "--sort", "since"], ["gone", "slow", "up1"]),
        (["--filter", "nowhere"], []),
    ],
)
def test_servers_are_sorted_and_filtered(arguments: list[str], ids: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(["x", *arguments])
    document = merged(some_servers())
    assert [row["id"] for row in chosen(document["servers"], options.sort, options.filter)] == ids
    frame = Frames(options.sort, options.filter, Glyphs.of("utf-8")).frame(document, 0.0)
    lines = lines_of(frame)
    assert (servers_in(lines) if ids else ids) == ids
    assert (f"… {4 - len(ids)} left out by the filter" in lines) is (len(ids) < 4)


def test_a_filter_and_a_sort_are_for_servers_alone(shows: Any) -> None:
    url, arguments = shows(some_servers), ["--once", "--interval", "0.1", "--filter", "UP"]
    _, output, _ = run("top", url, *arguments, "--sort", "leases")
    assert servers_in(output.splitlines()) == ["up1", "up2"]
    assert "4 servers  1 unreachable" in output
    _, output, _ = run("top", url, *arguments, "--sort", "p99", "--json")
    document = json.loads(output)
    assert [row["id"] for row in document["servers"]] == ["up2", "up1"]
    assert document["totals"]["servers"] == 4


def test_numbers_in_ids_are_sorted_by_their_size() -> None:
    ids = ["", "9", "10", "web", "web1", "web2", "web10", "web010a", "web10b", "web" + "9" * 5000]
    rows = merged([a_report(servers=[a_server(id) for id in [*reversed(ids), None]])])["servers"]
    assert [row["id"] for row in chosen(rows, "id", "")] == [*ids, None]
    assert [row["id"] or "" for row in chosen(rows, "state", "")] == ["", *ids]


def test_what_a_row_says(shows: Any) -> None:
    _, output, _ = run("top", shows(some_servers), "--once", "--interval", "0.1")
    row = {line.split()[0]: line for line in output.splitlines() if line}
    assert "unreachable 1/2" in row["gone"]
    assert "2 min  OSError: no route" in row["gone"]
    assert "□" * 24 + " +6" in row["slow"]
    assert re.search(r"\(\d+.\d ms\)", row["up2"])  # of all there was: nothing was leased lately
    assert "1 unreachable  1 slow  2 up" in output


def test_a_pool_that_is_closed_says_so() -> None:
    reports = [a_report("a", "a", pool=a_pool(closed=True)), a_report("b", "b")]
    frame = Frames("state", "", Glyphs.of("utf-8")).frame(merged(reports), 0.0)
    assert "pool (closed 1/2)  " in "\n".join(lines_of(frame))


def test_workers_that_do_not_answer_are_named(shows: Any) -> None:
    silent = [{"where": f"unix:/run/{n}.sock", "error": "late"} for n in range(5)]
    url = shows(lambda: [a_report("one"), *silent])
    _, output, _ = run("top", url, "--once", "--interval", "1.0")
    lines = output.splitlines()
    assert lines[0].endswith("1 worker  5 without an answer")
    assert lines[1:4] == [f"unix:/run/{n}.sock: late, for 1 s" for n in range(3)]
    assert lines[4] == "… 2 more"


@pytest.mark.parametrize("on_terminal", [False, True])
def test_nothing_from_outside_steers_a_terminal(
    on_terminal: bool, shows: Any, terminal: Callable[..., Terminal]
) -> None:
    def reports() -> list[Any]:
        odd = a_server(HOSTILE, address=HOSTILE, error=HOSTILE, error_at=1.0, error_since=1.0)
        return [
            a_report(HOSTILE, HOSTILE, servers=[odd, a_server("next")], pool=a_pool(HOSTILE)),
            {"where": HOSTILE + "2", "error": HOSTILE},
        ]

    if on_terminal:
        screen = terminal(shows(reports), size="200x30")
        lines = screen.wait_for("next ")
        raw = screen.written.split(b"\x1b[H", 1)[1].decode()
        # Nothing but rich's own styles and positions.
        assert set(re.findall(r"\x1b(?:\[[0-9;]*m)?", raw)) - {"\x1b"} != set()
        assert re.sub(r"\x1b\[([0-9;]*m|H|\?25l)", "", raw).count("\x1b") == 0
    else:
        _, output, _ = run("top", shows(reports), "--once", "--interval", "0.1")
        lines = output.splitlines()
        raw = output
        assert "\x1b" not in raw
    for character in ("\u202e", "\x9b", "\t"):
        assert character not in raw
    shown = [line for line in lines if line.startswith(r"a\n\x1b[2Jb[bold]c\u202e\x9b5m\t中")]
    assert len(shown) >= 3  # where it was asked, the pool, the server
    assert servers_in(lines)[-1] == "next"


def test_a_character_set_without_squares_has_others(app: StatusServer, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [*COMMAND, "top", str(tmp_path), "--once", "--interval", "0.1"]
    process = Popen(command, stdout=PIPE, stderr=PIPE, env=environment)
    output, errors = process.communicate(timeout=20)
    assert errors == b""
    assert re.search(rb" up +[#-]{3} ", output)
    output.decode("ascii")


def test_an_app_that_is_gone_is_told_and_its_rows_stay(
    app: StatusServer, top: Callable[..., Any]
) -> None:
    process = top(app.url, "--interval", "0.1")

    def poll() -> list[str]:
        return list(iter(lambda: process.stdout.readline().rstrip("\n"), ""))

    def read_until(text: str) -> str:
        """Return the polls until one has the text: each is three parts, told apart by lines."""
        with gevent.Timeout(20):
            while True:
                part = "\n".join(poll())
                if text in part:
                    return part

    read_until("web1 ")
    app.stop()
    told = read_until("nobody has answered since ")
    assert re.search(r"since \d\d:\d\d:\d\d: what follows is from then", told)
    assert "0 workers  1 without an answer" in told
    assert f"{app.url}: " in told
    assert "1 server  1 up" in told
    assert "web1 " in read_until("web1 ")
    app.start()
    assert "since" not in read_until("1 worker\n")
    ended(process)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_it_ends_quietly_when_nobody_reads(
    arguments: list[str], app: StatusServer, top: Callable[..., Any]
) -> None:
    process = top(app.url, "--interval", "0.1", *arguments)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=10) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_signal_ends_it_though_the_reader_has_stopped_reading(
    arguments: list[str], shows: Any, top: Callable[..., Any]
) -> None:
    # One document is larger than any pipe.
    many = [a_server(f"web{n}", error="x" * 300, error_at=1.0) for n in range(2000)]
    reader, writer = os.pipe()
    process = top(shows(lambda: [a_report(servers=many)]), *arguments, stdout=writer)
    try:
        wait_until(lambda: not select([], [writer], [], 0)[1], timeout=20)
        gevent.sleep(0.2)
        ended(process)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line_and_an_exit_code(
    app: StatusServer, top: Callable[..., Any]
) -> None:
    with open("/dev/full", "w") as full:
        process = top(app.url, "--interval", "0.1", stdout=full)
        assert process.wait(timeout=20) == 1
    told = process.stderr.read()
    assert told == "gevent-rover top: can't write the output: No space left on device\n"


def test_a_closed_output_is_no_error(app: StatusServer) -> None:
    command = [*COMMAND, "top", app.url, "--once", "--interval", "0.1"]
    process = Popen(["sh", "-c", '"$@" >&-', "sh", *command], stderr=PIPE, text=True)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


# On terminals


@pytest.mark.parametrize("key", [False, True])
def test_a_terminal_is_given_back_as_it_was(
    key: bool, app: StatusServer, terminal: Callable[..., Terminal]
) -> None:
    screen = terminal(app.url, "--interval", "0.2")
    before = termios.tcgetattr(screen.master)
    screen.wait_for("web1 ")
    assert b"\x1b[?1049h" in screen.written  # another screen
    assert b"\x1b[?25l" in screen.written  # without a cursor
    if key:
        os.write(screen.master, b"\x03")  # Ctrl-C
        assert screen.process.wait(timeout=1.5) == 0
    else:
        ended(screen.process)
    wait_until(lambda: b"\x1b[?1049l" in screen.written)
    assert screen.written.rindex(b"\x1b[?25h") > screen.written.rindex(b"\x1b[?25l")
    assert termios.tcgetattr(screen.master) == before
    assert screen.process.stderr.read() == ""


def test_a_screen_shows_what_there_is_room_for_the_worst_first(
    shows: Any, terminal: Callable[..., Terminal]
) -> None:
    def reports() -> list[Any]:
        servers = [a_server(f"web{n:03}", address=f"10.0.0.{n}:7000") for n in range(50)]
        bad = a_server("zz", state="unreachable", error="OSError: " + "x" * 200, error_at=1.0)
        return [a_report(servers=[*servers, bad])]

    url = shows(reports)
    screen = terminal(url, "--interval", "60", size="100x20")
    lines = screen.wait_for(" more")
    assert len(lines) == 20
    assert max(map(len, lines)) <= 100
    ids = servers_in(lines)
    assert ids[0] == "zz"
    assert ids[1:] == [f"web{n:03}" for n in range(len(ids) - 1)]
    assert f"… {51 - len(ids)} more" in lines
    assert "OSError: xxx" in "\n".join(lines)
    # As soon as there is more room.
    screen.resize("170x60")
    lines = screen.wait_for("web049 ")
    assert " more" not in "\n".join(lines)
    assert "10.0.0.7:7000" in "\n".join(lines)
    # Even none.
    for size in ("20x4", "1x1", "100x8"):
        screen.resize(size)
        gevent.sleep(0.3)
        assert screen.process.poll() is None
    screen.resize("60x20")
    wait_until(lambda: "zz" in "\n".join(screen.frame()) and max(map(len, screen.frame())) <= 60)
    assert "unreachable" in "\n".join(screen.frame())
    ended(screen.process)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 220), st.integers(1, 70), st.sampled_from(["", "web1", "nothing"]))
def test_a_screen_of_any_size_is_not_exceeded(width: int, height: int, filter: str) -> None:
    bad = a_server("中" * 30, state="set aside", error="中" * 99, error_since=1.0, error_at=1.0)
    odd = [bad, *(a_server(f"web{n}") for n in range(40))]
    reports = [a_report(str(n), str(n), servers=odd, pool=a_pool(f"p{n}")) for n in range(9)]
    frame = Frames("state", filter, Glyphs.of("utf-8")).frame(merged(reports), 0.0)
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    lines = console.render_lines(fitted(frame, width, height))
    assert len(lines) <= max(height, len(frame.summary) + 1)
    assert max(sum(segment.cell_length for segment in line) for line in lines) <= width
    text = "\n".join("".join(segment.text for segment in line) for line in lines)
    if height > 20 and width > 60:
        assert ("中" in text) is (filter == "")
        assert (" left out by the filter" in text) is (filter != "")


def test_states_have_colours(shows: Any, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(shows(some_servers), size="150x30")
    screen.wait_for("up2 ")
    text = screen.written.decode()
    assert re.search(r"\x1b\[1;31munreachable 1/2", text)
    assert re.search(r"\x1b\[33mslow ", text)
    assert re.search(r"\x1b\[32mup ", text)


def test_a_signal_ends_it_though_the_terminal_is_stopped(
    shows: Any, terminal: Callable[..., Terminal]
) -> None:
    many = [a_server(f"web{n}") for n in range(100)]
    screen = terminal(shows(lambda: [a_report(servers=many)]), "--interval", "0.1", size="200x100")
    screen.wait_for("web42 ")
    screen.stop_reading()
    gevent.sleep(1.0)  # It's full long before.
    ended(screen.process)


def test_a_terminal_that_vanishes_ends_it(
    app: StatusServer, terminal: Callable[..., Terminal]
) -> None:
    screen = terminal(app.url, "--interval", "0.1")
    screen.wait_for("web1 ")
    screen.stop_reading()
    os.close(screen.master)
    screen.master = os.open(os.devnull, os.O_RDONLY)
    assert screen.process.wait(timeout=10) in (0, 1, -signal.SIGHUP)


@pytest.fixture
def without_rich(tmp_path: Path) -> str:
    """Give the folder of modules that hide rich."""
    hidden = tmp_path / "hidden" / "rich"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('no rich here')\n")
    return str(tmp_path / "hidden")


@pytest.mark.parametrize("why", ["no rich", "dumb"])
def test_without_rich_or_a_cursor_it_is_plain_text(
    why: str, without_rich: str, app: StatusServer, terminal: Callable[..., Terminal]
) -> None:
    environ = {"PYTHONPATH": without_rich} if why == "no rich" else {"TERM": "dumb"}
    screen = terminal(app.url, "--interval", "0.2", **environ)
    wait_until(lambda: screen.written.count(b"web1 ") >= 2, timeout=20)
    assert b"\x1b" not in screen.written
    ended(screen.process)
    told = screen.process.stderr.read()
    assert ("pip install 'gevent_rover[cli]'" in told) is (why == "no rich")


def test_pipes_need_no_rich(without_rich: str, app: StatusServer) -> None:
    environment = {**os.environ, "PYTHONPATH": without_rich}
    command = [*COMMAND, "top", app.url, "--once", "--interval", "0.1"]
    process = Popen(command, stdout=PIPE, stderr=PIPE, env=environment, text=True)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert "web1 " in output


def test_a_terminal_without_a_name_is_written_to_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless(fd: int) -> str:
        raise OSError("in a container, say")

    monkeypatch.setattr(os, "ttyname", nameless)
    reader, writer = os.openpty()
    with open(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        done = Event()
        with closing(Stream(Output(done), done)) as stream:
            stream.line("hello")
    assert os.read(reader, 100) == b"hello\r\n"
    os.close(reader)


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_only_who_writes_waits_for_a_reader(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe() if kind == "pipe" else os.openpty()
    done = Event()
    with open(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        output = Output(done)
        stream = Stream(output, done)
        assert stream.isatty() is (kind == "terminal")
        writing = gevent.spawn(stream.line, "x" * 1_000_000)
        gevent.sleep(0.3)
        assert not writing.ready()
        assert os.read(reader, 100) == b"x" * 100
        done.set()
        writing.get(timeout=3)
        stream.close()
        stream.line("more")
    assert output.failure is None
    os.close(reader)


# Many workers


def test_a_worker_that_is_killed_takes_nothing_with_it(
    tmp_path: Path, slot_server: Callable[..., SlotServer], top: Callable[..., Any]
) -> None:
    def echo(slot: int, sock: Any, address: Any) -> None:
        while data := sock.recv(100):
            sock.sendall(data)

    servers = [f"web{n}=127.0.0.1:{port_of(slot_server(echo))}" for n in range(3)]
    script = str(Path(__file__).parent / "status_worker.py")
    folder = tmp_path / "run"

    def worker() -> Any:
        process: Any = Popen([sys.executable, script, str(folder), *servers], stdout=PIPE)
        assert process.stdout.readline() == b"ready\n"
        return process

    workers = [worker() for _ in range(4)]
    try:
        process = top(f"unix:{folder}/", "--json", "--interval", "0.2")
        documents: list[Any] = []

        def read_until(done: Callable[[Any], bool], within: float) -> Any:
            deadline = time.monotonic() + within
            while True:
                documents.append(json.loads(process.stdout.readline()))
                assert time.monotonic() < deadline, documents[-1]
                if done(documents[-1]):
                    return documents[-1]

        def pids(document: Any) -> set[int]:
            return {each["pid"] for each in document["workers"] if each["error"] is None}

        before = read_until(lambda document: len(pids(document)) == 4, 20)
        assert before["totals"]["size"] == 16
        workers[0].kill()
        left = {each.pid for each in workers[1:]}
        after = read_until(lambda document: pids(document) == left, 2)
        assert (after["totals"]["workers"], after["totals"]["silent"]) == (3, 0)
        assert after["totals"]["size"] == 12
        workers[0].wait()
        workers.append(worker())
        read_until(lambda document: len(pids(document)) == 4, 2)
        last = read_until(lambda document: document["totals"]["lease_rate"] > 50, 5)
        assert sorted(row["id"] for row in last["servers"]) == ["web0", "web1", "web2"]
        assert all(row["workers"] == 4 for row in last["servers"])
        ended(process)
    finally:
        for each in workers:
            if each.poll() is None:
                each.kill()
                each.wait()
            each.stdout.close()
    for earlier, later in pairwise(documents):
        rows = [(earlier["totals"], later["totals"])]
        by_id = {row["id"]: row for row in later["servers"]}
        rows += [(row, by_id[row["id"]]) for row in earlier["servers"] if by_id]
        for one, other in rows:
            fell = [name for name in COUNTERS if other.get(name, 0) < one.get(name, 0)]
            assert fell == [], (one, other)


# What is written how


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.000 ms"),
        (0.0000123, "0.0123 ms"),
        (0.00123, "1.23 ms"),
        (0.0456, "45.6 ms"),
        (0.999, "999 ms"),
        (0.9996, "1 s"),
        (12.345, "12.3 s"),
        (1234.5, "1234 s"),
    ],
)
def test_durations_have_three_digits(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (59, "59 s"), (61, "1 min"), (7300, "2 h"), (200_000, "2 d")],
)
def test_ages_are_in_one_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_long_texts_are_cut() -> None:
    for encoding, more in (("utf-8", "…"), ("ascii", "..."), (None, "..."), ("none", "...")):
        glyphs = Glyphs.of(encoding)
        assert glyphs.cut("x" * 10, 10) == "x" * 10
        assert glyphs.cut("x" * 11, 10) == "x" * (10 - len(more)) + more
        assert len(glyphs.cut("\x1b" * 10, 10)) == 10
        assert len(glyphs.cut("\n" * 10**7, 10)) == 10
