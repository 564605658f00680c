"""``gevent-rover front`` and ``relay``, as real processes: arguments, places, and how they end."""

from __future__ import annotations

import re
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import entry
from gevent import socket
from gevent.server import StreamServer
from gevent.subprocess import PIPE, Popen
from test_cli import COMMAND, run
from test_server import read_all, read_slot_line

from gevent_rover import Server, SlotServer, parse_listener

Closing = Callable[[Any], Any]
Started = Callable[..., Any]


def echo(sock: Any, address: Any) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


@pytest.fixture
def started(processes: list[Any]) -> Started:
    """Give a function that starts the command, and returns the process and where it listens."""

    def started(*arguments: str) -> tuple[Any, str]:
        command = [sys.executable, "-W", "error", *COMMAND[1:], *arguments]
        process: Any = Popen(command, stdout=PIPE, stderr=PIPE, text=True)
        processes.append(process)
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.stderr.read()
        return process, line.split()[-1]

    return started


@pytest.fixture
def backend(closing: Closing) -> str:
    server = closing(StreamServer(("127.0.0.1", 0), echo))
    server.start()
    return f"127.0.0.1:{server.server_port}"


@pytest.fixture
def call(closing: Closing) -> Callable[[str], Any]:
    """Give a function that connects to where a command listens."""

    def call(place: str) -> Any:
        path = place.removeprefix("unix:")
        if path != place:
            sock = closing(socket.socket(socket.AF_UNIX))
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
        else:
            sock = closing(socket.create_connection(parse_listener(place)))
        sock.settimeout(5)
        return sock

    return call


Call = Callable[[str], Any]


def ask(sock: Any, data: bytes) -> bytes:
    sock.sendall(data)
    return sock.recv(len(data))  # type: ignore[no-any-return]


def end(process: Any) -> tuple[list[str], str]:
    """Send SIGTERM, and return what it printed and logged then; it must end well."""
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    return output.splitlines(), errors


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["front"], "LISTEN, BACKEND"),
        (["front", "127.0.0.1:0"], "BACKEND"),
        (["front", "127.0.0.1:0", "127.0.0.1:0"], "port must be"),
        (["front", "nowhere", "127.0.0.1:80"], "'nowhere'"),
        (["front", "unix:", "127.0.0.1:80"], "'unix:'"),
        (["front", "127.0.0.1:0", "127.0.0.1:80", "--stride", "0"], "--stride"),
        (["front", "127.0.0.1:0", "127.0.0.1:80", "--connect-timeout", "0"], "--connect-timeout"),
        (["front", "127.0.0.1:0", "127.0.0.1:80", "--drain", "-1"], "--drain"),
        (["front", "127.0.0.1:0", "127.0.0.1:80", "--tls"], "--cert"),
        (["front", "127.0.0.1:0", "127.0.0.1:80", "--announce", "dns://a:1"], "--announce"),
        (["front", "127.0.0.1:0", "127.0.0.1:80", "--announce-as", "x"], "--announce-as"),
        (["front", "127.0.0.1:0", "127.0.0.1:80", "--announce-as", "x:1"], "needs --announce"),
        (["relay", "127.0.0.1:0"], "SERVER"),
        (["relay", "127.0.0.1:0", "a=127.0.0.1:80", "a=127.0.0.1:81"], "duplicate ID 'a'"),
        (["relay", "127.0.0.1:0", "127.0.0.1:80", "--max-slots", "0"], "--max-slots"),
        (["relay", "127.0.0.1:0", "127.0.0.1:80", "--timeout", "never"], "--timeout"),
        (["relay", "127.0.0.1:0", "127.0.0.1:80", "--ca", "x"], "--tls"),
    ],
)
def test_a_bad_argument_gets_one_line_that_names_it(arguments: list[str], culprit: str) -> None:
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith(f"gevent-rover {arguments[0]}: ")
    assert culprit in errors


@pytest.mark.parametrize("command", ["front", "relay"])
def test_help_says_what_there_is(command: str) -> None:
    code, output, _ = run(command, "--help")
    assert code == 0
    for word in ("LISTEN", "unix:PATH", "--drain", "--tls", "--connect-timeout"):
        assert word in output
    assert ("--proxy-protocol" if command == "front" else "dns+srv://") in output


def test_a_front_and_a_relay_meet_and_tell_at_the_end_what_they_did(
    started: Started, call: Call, backend: str
) -> None:
    front, front_at = started("front", "127.0.0.1:0", backend, "--offset", "4", "--stride", "2")
    relay, relay_at = started("relay", "127.0.0.1:0", f"here={front_at}", "--max-slots", "2")
    client = call(relay_at)
    assert ask(client, b"hello") == b"hello"
    with call(front_at) as direct:
        assert read_slot_line(direct) in (4, 6, 8)
    client.close()
    lines, _ = end(relay)
    assert lines == ["closed; clients served: 1, turned away: 0"]
    lines, errors = end(front)
    assert re.fullmatch(r"closed; connections served: \d+, without backend: 0", lines[-1])
    assert errors == ""


@pytest.mark.integration
def test_a_front_says_in_its_log_when_its_backend_is_gone(
    started: Started, call: Call, dead_server: Server
) -> None:
    host, port = dead_server["host"], dead_server["port"]
    front, place = started("front", "127.0.0.1:0", f"{host}:{port}")
    for _ in range(2):
        assert read_all(call(place)) == b""
    lines, errors = end(front)
    assert lines == ["closed; connections served: 0, without backend: 2"]
    assert errors.count("WARNING gevent_rover.server: no slots, since the backend can't be") == 1


@pytest.mark.integration
def test_a_relay_says_in_its_log_whom_it_turned_away(
    started: Started, call: Call, slot_server: Callable[..., SlotServer]
) -> None:
    where = entry(slot_server())
    server = f"{where['host']}:{where['port']}"
    options = ("--max-slots", "1", "--timeout", "0.1")
    relay, place = started("relay", "127.0.0.1:0", server, *options)
    first = call(place)
    assert read_all(call(place)) == b""
    first.close()
    lines, errors = end(relay)
    assert lines[-1] == "closed; clients served: 1, turned away: 1"
    assert "2 clients, but max_slots is 1: it must exceed them" in errors
    assert "WARNING gevent_rover.relay: no connection for ('127.0.0.1', " in errors


@pytest.mark.integration
@pytest.mark.parametrize("second", [False, True])
def test_sigterm_drains_and_a_second_one_ends_it_at_once(
    second: bool, started: Started, call: Call, backend: str
) -> None:
    front, place = started("front", "127.0.0.1:0", backend, "--drain", "60")
    used, unused = call(place), call(place)
    assert sorted(read_slot_line(sock) or 0 for sock in (used, unused)) == [0, 1]
    ask(used, b"x")
    front.send_signal(signal.SIGTERM)
    assert unused.recv(1) == b""
    assert ask(used, b"still served") == b"still served"
    assert front.poll() is None
    if second:
        front.send_signal(signal.SIGINT)
        assert used.recv(1) == b""
    else:
        used.close()
    assert front.wait(timeout=20) == 0


@pytest.mark.integration
@pytest.mark.parametrize("name", ["path", "abstract"])
def test_they_listen_at_a_path_too(
    name: str, started: Started, call: Call, backend: str, tmp_path: Path
) -> None:
    path = tmp_path / "front.sock"
    where = f"unix:{path}" if name == "path" else f"unix:@gevent-rover-{tmp_path.name}"
    front, place = started("front", where, backend)
    assert place == where
    relay, relay_at = started("relay", "127.0.0.1:0", place)
    with call(relay_at) as client:
        assert ask(client, b"hello") == b"hello"
    end(relay)
    end(front)
    assert not path.exists()


@pytest.mark.integration
def test_a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(
    started: Started, backend: str, tmp_path: Path
) -> None:
    path = tmp_path / "front.sock"
    first, _ = started("front", f"unix:{path}", backend)
    code, output, errors = run("front", f"unix:{path}", backend)
    assert (code, output) == (1, "")
    assert errors == f"gevent-rover front: can't listen on unix:{path}: Address already in use\n"
    first.kill()
    first.wait()
    assert stat.S_ISSOCK(path.stat().st_mode)
    again, _ = started("front", f"unix:{path}", backend)
    end(again)


@pytest.mark.integration
def test_another_file_at_the_path_stays(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    code, _, errors = run("front", f"unix:{path}", backend)
    assert code == 1
    assert "Address already in use" in errors
    assert path.read_text() == "mine"


@pytest.mark.integration
def test_they_take_as_many_descriptors_as_they_may_have(
    started: Started, call: Call, backend: str
) -> None:
    front, _ = started("front", "127.0.0.1:0", backend)
    limits = Path(f"/proc/{front.pid}/limits").read_text()
    [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = line.split()[3:5]
    assert soft == hard


@pytest.mark.integration
def test_a_relay_waits_for_servers_that_come_later(
    started: Started, call: Call, backend: str, tmp_path: Path
) -> None:
    servers = tmp_path / "servers"
    servers.write_text("# nobody yet\n")
    _, place = started("relay", "127.0.0.1:0", f"file://{servers}", "--timeout", "20")
    client = call(place)
    client.settimeout(20)
    client.sendall(b"early")
    _, front_at = started("front", "127.0.0.1:0", backend)
    replaced = tmp_path / "replaced"
    replaced.write_text(f"{front_at}\n")
    replaced.rename(servers)
    assert client.recv(5) == b"early"
