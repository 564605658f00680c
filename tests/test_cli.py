"""The command line, as real processes: what it prints, and how it ends."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import port_of
from gevent import socket
from gevent.subprocess import PIPE, Popen

import gevent_rover
from gevent_rover import Server, SlotServer

COMMAND = [sys.executable, "-m", "gevent_rover"]


def run(*arguments: str, timeout: float = 30.0) -> tuple[int, str, str]:
    """Run the command to its end and return its exit code, output and error output."""
    process = Popen([*COMMAND, *arguments], stdout=PIPE, stderr=PIPE, text=True)
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode, output, errors


@pytest.fixture
def started() -> Iterator[Callable[..., Any]]:
    """Give a function that starts the command; what still runs is ended after the test."""
    processes: list[Any] = []

    def started(*arguments: str) -> Any:
        process: Any = Popen([*COMMAND, *arguments], stdout=PIPE, stderr=PIPE, text=True)
        processes.append(process)
        return process

    yield started
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()


def test_version() -> None:
    code, output, _ = run("--version")
    assert code == 0
    assert gevent_rover.__version__ in output


def test_demo_tells_its_story_and_ends_with_a_table() -> None:
    code, output, errors = run("demo", "--seconds", "3")
    assert (code, errors) == (0, "")
    for word in ("web1", "web4", "unreachable", "error", "slot 0", "slots held"):
        assert word in output, word


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["rove"], "SERVER"),
        (["rove", "nonsense"], "nonsense"),
        (["rove", "127.0.0.1:0"], "127.0.0.1:0"),
        (["rove", "127.0.0.1:65537"], "65537"),
        (["rove", "a=127.0.0.1:80", "a=127.0.0.1:81"], "a"),
        (["rove", "127.0.0.1:80", "--interval", "0"], "0"),
        (["rove", "127.0.0.1:80", "--timeout", "soon"], "soon"),
        (["rove", "127.0.0.1:80", "--count", "-1"], "-1"),
        (["serve", "127.0.0.1:99999"], "99999"),
        (["serve", "--stride", "0"], "0"),
        (["demo", "--servers", "none"], "none"),
        (["demo", "--speed"], "--speed"),
    ],
)
def test_a_bad_argument_gets_one_line_that_names_it(arguments: list[str], culprit: str) -> None:
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("gevent-rover")
    assert culprit in errors


def test_a_port_in_use_gets_one_line(slot_server: Callable[..., SlotServer]) -> None:
    address = f"127.0.0.1:{port_of(slot_server())}"
    code, output, errors = run("serve", address)
    assert (code, output) == (1, "")
    assert len(errors.splitlines()) == 1
    assert address in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_and_rove_meet_and_end_on_a_signal(
    started: Callable[..., Any], number: signal.Signals
) -> None:
    server = started("serve", "127.0.0.1:0", "--offset", "5", "--stride", "2")
    address = server.stdout.readline().split()[-1]
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as sock:
        sock.sendall(b"hello")
        assert sock.makefile("rb").read(8) == b"5\r\nhello"

    rover = started("rove", f"here={address}", "--interval", "0.05")
    line = rover.stdout.readline()
    assert "here" in line
    assert "5" in line or "7" in line
    rover.send_signal(number)
    rest = rover.stdout.read()
    assert rover.wait(timeout=10) == 0, rover.stderr.read()
    assert "here" in rest  # the summary

    server.send_signal(number)
    assert server.wait(timeout=10) == 0, server.stderr.read()
    assert "Traceback" not in server.stderr.read()


def test_rove_prints_json_and_ends_after_its_count(
    slot_server: Callable[..., SlotServer], dead_server: Server
) -> None:
    code, output, _ = run(
        "rove",
        f"up=127.0.0.1:{port_of(slot_server())}",
        f"down=127.0.0.1:{dead_server['port']}",
        "--interval=0.01",
        "--count=40",
        "--json",
    )
    assert code == 0
    events = [json.loads(line) for line in output.splitlines()]
    kinds = [event["event"] for event in events if event["event"] != "summary"]
    assert len(kinds) == 40
    assert set(kinds) == {"connection", "unreachable"}


def test_rove_ends_quietly_when_nobody_reads(
    started: Callable[..., Any], slot_server: Callable[..., SlotServer]
) -> None:
    rover = started("rove", f"127.0.0.1:{port_of(slot_server())}", "--interval", "0.01")
    rover.stdout.readline()
    rover.stdout.close()
    rover.wait(timeout=10)
    assert "Traceback" not in rover.stderr.read()
