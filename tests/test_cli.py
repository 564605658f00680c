"""The command line, as real processes: what it prints, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import living_greenlets, open_descriptors, port_of, wait_until
from gevent import socket
from gevent.event import Event
from gevent.select import select
from gevent.subprocess import PIPE, Popen

import gevent_rover
from gevent_rover import Server, SlotServer, parse_listener
from gevent_rover.command.demo import Demo

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
def started(processes: list[Any]) -> Callable[..., Any]:
    """Give a function that starts the command; what still runs is ended after the test."""

    def started(*arguments: str) -> Any:
        process: Any = Popen([*COMMAND, *arguments], stdout=PIPE, stderr=PIPE, text=True)
        processes.append(process)
        return process

    return started


def test_version() -> None:
    code, output, _ = run("--version")
    assert code == 0
    assert gevent_rover.__version__ in output


def test_demo_tells_its_story_and_ends_with_a_table() -> None:
    code, output, errors = run("demo", "--seconds", "3")
    assert (code, errors) == (0, "")
    for pattern in (
        r"web1 +listens on 127\.0\.0\.1:\d+",
        r"web[2-4] +slot 0: kept",
        r"slot \d+: (closed, not lower than those kept|kept, in exchange for slot \d)",
        r"web1 +slot \d: lost, the server closed it",
        r"web1 +unreachable",
        r"mail +error: not a slot line",
        r"web1 comes back(.|\n)+web1 +slot 0: kept",
    ):
        assert re.search(pattern, output), pattern
    table = output[output.index("--- slots held") :].splitlines()[1:]
    assert table[0].split() == ["server", "slots", "held", "connections", "unreachable", "errors"]
    assert [line.split()[0] for line in table[1:]] == ["web1", "web2", "web3", "web4", "mail"]


@pytest.mark.integration
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
    with socket.create_connection(parse_listener(address), 5) as sock:
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


@pytest.mark.integration
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
    keys = ["event", "time", "id", "server", "slot", "elapsed", "reason"]
    for event in events[:-1]:
        assert list(event) == keys
        up = event["event"] == "connection"
        assert event["id"] == ("up" if up else "down")
        assert event["server"]["host"] == "127.0.0.1"
        assert (event["slot"] is None, event["reason"] is None) == (not up, up)
    summary = events[-1]
    assert list(summary) == ["event", "time", "elapsed", "attempts", "servers"]
    assert (summary["event"], summary["attempts"]) == ("summary", 40)
    assert summary["servers"]["up"]["connection"] == kinds.count("connection")
    assert summary["servers"]["down"] == {
        "connection": 0,
        "unreachable": kinds.count("unreachable"),
        "error": 0,
        "lowest_slot": None,
    }


@pytest.mark.integration
def test_rove_ends_quietly_when_nobody_reads(
    started: Callable[..., Any], slot_server: Callable[..., SlotServer]
) -> None:
    rover = started("rove", f"127.0.0.1:{port_of(slot_server())}", "--interval", "0.01")
    rover.stdout.readline()
    rover.stdout.close()
    assert rover.wait(timeout=10) == 0
    assert rover.stderr.read() == ""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["rove", "web"], "rove: argument SERVER: expected HOST:PORT or [IPv6]:PORT, got 'web'"),
        (["rove", "=web:80"], "rove: argument SERVER: empty ID in '=web:80'"),
        (["rove", "unix:"], "rove: argument SERVER: empty path in 'unix:'"),
        (
            ["rove", "a=web:0"],
            "rove: argument SERVER: invalid server 'a': port must be an int from 1 to 65535, got 0",
        ),
        (
            ["serve", "[web]:80"],
            "serve: argument HOST:PORT: not an IPv6 address in '[web]:80'",
        ),
        (
            ["serve", "web:99999"],
            "serve: argument HOST:PORT: port must be a number up to 65535, got 'web:99999'",
        ),
    ],
)
def test_what_is_wrong_with_an_address_is_said_word_for_word(
    arguments: list[str], line: str
) -> None:
    assert run(*arguments) == (2, "", f"gevent-rover {line}\n")


@pytest.mark.integration
def test_a_bad_argument_cannot_forge_a_second_line() -> None:
    code, _, errors = run("rove", "a\n\x1b[2J:x")
    assert code == 2
    assert len(errors.splitlines()) == 1
    assert "\x1b" not in errors


def test_an_unknown_option_is_reported_by_its_command() -> None:
    code, _, errors = run("rove", "127.0.0.1:80", "--fast")
    assert (code, errors) == (2, "gevent-rover rove: unrecognized arguments: --fast\n")


def test_a_host_that_cannot_be_listened_on_gets_one_line() -> None:
    code, output, errors = run("serve", "192.0.2.1:0")  # documentation's, nobody's own
    assert (code, output) == (1, "")
    assert re.fullmatch(r"gevent-rover serve: can't listen on 192\.0\.2\.1:0: [^:]+\n", errors)


def test_help_documents_the_servers_and_the_json() -> None:
    code, output, _ = run("rove", "--help")
    assert code == 0
    for word in ("[IPv6]:PORT", "unix:@NAME", "lowest_slot", "elapsed"):
        assert word in output, word


@pytest.mark.integration
def test_rove_prints_a_line_per_event_and_a_table(
    slot_server: Callable[..., SlotServer],
    says: Callable[[bytes], Server],
    dead_server: Server,
) -> None:
    code, output, errors = run(
        "rove",
        f"up=127.0.0.1:{port_of(slot_server())}",
        f"odd=127.0.0.1:{says(b'SSH-2.0-x')['port']}",
        f"down=127.0.0.1:{dead_server['port']}",
        "--interval=0.01",
        "--count=60",
    )
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    took = r"  +[0-9.]+ ms  "
    clock = r"\d\d:\d\d:\d\d\.\d\d\d  "
    patterns = [
        clock + "connection   up  " + took + r"slot \d+",
        clock + "unreachable  down" + took + "Connection refused",
        clock + "error        odd " + took + "not a slot line: b'SSH'",
    ]
    for line in lines[:60]:
        assert any(re.fullmatch(pattern, line) for pattern in patterns), line
    for pattern in patterns:
        assert any(re.fullmatch(pattern, line) for line in lines[:60]), pattern
    assert lines[61].startswith("--- attempts: 60, in ")
    assert [line.split()[0] for line in lines[62:]] == ["server", "up", "odd", "down"]


def test_rove_reaches_a_unix_socket(tmp_path: Path, closing: Callable[[Any], Any]) -> None:
    path = tmp_path / "slots"
    listener = closing(socket.socket(socket.AF_UNIX))
    listener.bind(str(path))
    listener.listen(8)
    closing(SlotServer(listener, lambda slot, sock, address: sock.recv(1))).start()
    code, output, _ = run("rove", f"unix:{path}", "--count=1", "--json")
    event = json.loads(output.splitlines()[0])
    assert (code, event["slot"], event["server"]) == (0, 0, {"path": str(path)})


@pytest.mark.integration
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line_and_an_exit_code() -> None:
    with open("/dev/full", "w") as full:
        process = Popen(
            [*COMMAND, "rove", "127.0.0.1:1", "--interval=0.01"],
            stdout=full,
            stderr=PIPE,
            text=True,
        )
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors == "gevent-rover rove: can't write the output: No space left on device\n"


@pytest.mark.integration
def test_a_closed_output_is_no_error() -> None:
    command = '"$@" >&-'
    process = Popen(
        ["sh", "-c", command, "sh", *COMMAND, "rove", "127.0.0.1:1", "--count=1"],
        stderr=PIPE,
        text=True,
    )
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="needs pipes of a known size")
@pytest.mark.integration
@pytest.mark.parametrize(
    "arguments",
    [
        ["rove", "127.0.0.1:1", "--interval", "0.001"],
        ["demo", "--seconds", "2", "--servers", "20"],
    ],
)
def test_a_signal_ends_it_though_the_reader_has_stopped_reading(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process: Any = Popen([*COMMAND, *arguments], stdout=writer, stderr=PIPE)
    try:
        wait_until(lambda: not select([], [writer], [], 0)[1], timeout=20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()
        os.close(reader)
        os.close(writer)


def test_demo_ends_early_on_a_signal_and_still_sums_up(started: Callable[..., Any]) -> None:
    demo = started("demo", "--seconds", "600")
    while "kept" not in demo.stdout.readline():
        pass
    demo.send_signal(signal.SIGINT)
    rest = demo.stdout.read()
    assert demo.wait(timeout=10) == 0
    assert "--- slots held" in rest
    assert "dies" not in rest


@pytest.mark.integration
@pytest.mark.parametrize("seconds", [1.0, 600.0])
def test_demo_leaves_no_greenlet_and_no_socket_behind(seconds: float) -> None:
    done = Event()
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        if seconds == 600 and "kept" in line:  # amid the story
            done.set()

    socket.getaddrinfo("127.0.0.1", 0)  # what gevent opens once, whoever asks first
    before = open_descriptors(), living_greenlets()
    Demo(say, servers=3, seconds=seconds, done=done).run()
    assert told[-5].startswith("server")
    assert (open_descriptors(), living_greenlets()) == before


@pytest.mark.integration
def test_verbose_logs_to_standard_error_what_changes() -> None:
    _, _, errors = run("rove", "127.0.0.1:1", "--count=2", "--interval=0.01", "-v")
    assert errors.count("gevent_rover.rover: server '127.0.0.1:1' is unreachable") == 1
    assert run("-v", "rove", "127.0.0.1:1", "--count=1")[2] != ""
    assert run("rove", "127.0.0.1:1", "--count=1")[2] == ""


def test_serve_gives_no_slot_beyond_its_limit(started: Callable[..., Any]) -> None:
    server = started("-vv", "serve", "--limit", "1")
    address = parse_listener(server.stdout.readline().split()[-1])
    with socket.create_connection(address, 5) as first:
        assert first.recv(3) == b"0\r\n"
        with socket.create_connection(address, 5) as second:
            assert second.recv(1) == b""
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=10) == 0
    assert server.stdout.read() == "closed; connections served: 1\n"
    assert "slot 0 goes to" in server.stderr.read()


@pytest.mark.integration
def test_serve_outlives_a_client_that_resets(started: Callable[..., Any]) -> None:
    server = started("serve", "-v")
    address = parse_listener(server.stdout.readline().split()[-1])
    with socket.create_connection(address, 5) as first:
        assert first.recv(3) == b"0\r\n"
        # Closed with a reset instead of an end of file.
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    while "slot 0 is free again" not in (line := server.stderr.readline()):
        assert line, "it ended"
    with socket.create_connection(address, 5) as second:
        assert second.recv(3) == b"0\r\n"
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=10) == 0
    assert "Traceback" not in server.stderr.read()


@pytest.mark.integration
def test_demo_without_room_for_its_servers_is_one_line_and_an_exit_code() -> None:
    process = Popen(
        ["sh", "-c", 'ulimit -n 16 && exec "$@"', "sh", *COMMAND, "demo", "--servers", "20"],
        stdout=PIPE,
        stderr=PIPE,
        text=True,
    )
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, len(errors.splitlines())) == (1, 1), errors
    assert errors.startswith("gevent-rover demo: can't listen on 127.0.0.1")
