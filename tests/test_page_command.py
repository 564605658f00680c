"""``gevent-rover page``: where it listens, whom it shows, whom it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import entry, port_of
from gevent import socket
from gevent.subprocess import PIPE, Popen
from test_cli import COMMAND, run
from test_top import ended

from gevent_rover import Rover, SlotPool, SlotServer
from gevent_rover.status import StatusServer
from gevent_rover.status.collect import Collector
from gevent_rover.status.merge import merged

# Almost each of them starts the command.
pytestmark = pytest.mark.integration

Closing = Callable[[Any], Any]
Started = Callable[..., Any]


@pytest.fixture
def started(processes: list[Any]) -> Started:
    """Give a function that starts the command, and returns the process and where it listens."""

    def started(*arguments: str, listen: str = "127.0.0.1:0") -> tuple[Any, str]:
        command = [sys.executable, "-W", "error", *COMMAND[1:], "page", *arguments]
        process: Any = Popen([*command, "--listen", listen], stdout=PIPE, stderr=PIPE, text=True)
        processes.append(process)
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.stderr.read()
        return process, line.split()[-1]

    return started


@pytest.fixture
def folder(
    closing: Closing, slot_server: Callable[..., SlotServer], tmp_path: Path
) -> Iterator[Path]:
    """Give a folder with the sockets of two status servers: as of one worker with two pools."""
    folder = tmp_path / "run"
    rover = closing(Rover({"web1": entry(slot_server())}, roving_interval=0.05))
    rover.start()
    pool = closing(SlotPool[Any](rover, max_slots=2))
    pool.wait_ready()
    with (
        StatusServer(rover, pool, f"unix:{folder}/", name="one"),
        StatusServer(rover, None, f"unix:{folder}/", name="two"),
    ):
        yield folder


def get(where: str, path: str = "/", host: str = "localhost") -> tuple[str, bytes]:
    """Ask the page, and return the head and the body of what it says."""
    if where.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(where.removeprefix("unix:"))
    else:
        name, _, port = where.removeprefix("http://").rstrip("/").rpartition(":")
        sock = socket.create_connection((name.strip("[]"), int(port)))
    with sock:
        sock.settimeout(5)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode(), body


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_shows_all_workers_until_a_signal(number: int, folder: Path, started: Started) -> None:
    process, url = started(f"unix:{folder}/")
    head, body = get(url)
    assert head.startswith("HTTP/1.1 200 ")
    assert "Content-Security-Policy: default-src 'none'" in head
    assert b"<html" in body
    _, body = get(url, "/workers.ndjson")
    snapshots = [json.loads(line)["snapshot"] for line in body.splitlines()]
    assert [each["worker"]["pid"] for each in snapshots] == [os.getpid()] * 2
    _, body = get(url, "/status.json")
    document = json.loads(body)
    assert document["totals"]["size"] == 2
    assert [row["id"] for row in document["servers"]] == ["web1", "web1"]
    ended(process, number)
    assert (process.stdout.read(), process.stderr.read()) == ("", "")


def test_a_page_can_be_asked_by_others(folder: Path, started: Started) -> None:
    _, url = started(str(folder))
    document = merged(Collector(url, timeout=5.0).collect())
    assert document["totals"]["workers"] == 1
    assert [pool["name"] for pool in document["pools"]] == ["one"]
    code, output, _ = run("top", url, "--once", "--interval", "0.1")
    assert code == 0
    assert "web1" in output


def test_workers_come_and_go(started: Started, tmp_path: Path) -> None:
    _, url = started(str(tmp_path))
    assert get(url, "/workers.ndjson")[1] == b""
    assert json.loads(get(url, "/status.json")[1])["totals"]["workers"] == 0
    with StatusServer(None, None, f"unix:{tmp_path}/a.sock"):
        assert len(get(url, "/workers.ndjson")[1].splitlines()) == 1
    assert get(url, "/workers.ndjson")[1] == b""


def test_a_socket_of_its_own_among_the_workers_is_its_owners_and_not_asked(
    folder: Path, started: Started
) -> None:
    path = folder / "page.sock"
    process, where = started(str(folder), listen=f"unix:{path}")
    assert where == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(get(where, "/workers.ndjson")[1].splitlines()) == 2
    ended(process)
    assert not path.exists()


@pytest.mark.parametrize("listen", ["[::1]:0", "localhost:0"])
def test_it_listens_on_loopback_by_its_names(listen: str, folder: Path, started: Started) -> None:
    _, url = started(str(folder), listen=listen)
    assert url.startswith("http://[::1]:" if "::" in listen else "http://127.0.0.1:")
    assert get(url, host=listen)[0].startswith("HTTP/1.1 200 ")
    # The name of another site that points here.
    assert not get(url, host="example.org")[0].startswith("HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ([], "WHERE"),
        (["unix:"], "'unix:'"),
        (["ftp://127.0.0.1/"], "ftp://127.0.0.1/"),
        (["x", "--listen", "0.0.0.0:8400"], "loopback"),
        (["x", "--listen", "[::]:8400"], "loopback"),
        (["x", "--listen", "example.org:8400"], "loopback"),
        (["x", "--listen", "unix:"], "'unix:'"),
        (["x", "--listen", "127.0.0.1"], "'127.0.0.1'"),
        (["x", "--public"], "--public"),
    ],
)
def test_a_bad_argument_gets_one_line_that_names_it(arguments: list[str], culprit: str) -> None:
    code, output, errors = run("page", *arguments)
    assert (code, output) == (2, "")
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("gevent-rover page: ")
    assert culprit in errors


def test_a_place_in_use_gets_one_line(folder: Path, slot_server: Callable[..., SlotServer]) -> None:
    used = [f"127.0.0.1:{port_of(slot_server())}", f"unix:{next(folder.iterdir())}"]
    for where in used:
        code, output, errors = run("page", str(folder), "--listen", where)
        assert (code, output) == (1, "")
        assert errors == f"gevent-rover page: can't listen on {where}: Address already in use\n"


def test_help_says_who_can_see_it() -> None:
    code, output, _ = run("page", "--help")
    assert code == 0
    for word in ("FOLDER", "loopback", "0600", "127.0.0.1:8400", "status.json", "tunnel"):
        assert word in output, word
