"""Every example runs as it stands, and does what it says."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent import socket
from gevent.subprocess import PIPE, Popen, check_output

from gevent_rover import parse_listener

EXAMPLES = Path(__file__).parent.parent / "examples"


def output_of(name: str, *arguments: str) -> str:
    """Run an example to its end and return what it printed."""
    return check_output([sys.executable, str(EXAMPLES / name), *arguments], text=True)


@pytest.fixture
def store() -> Iterator[Any]:
    yield from listening("slot_server.py")


def listening(name: str, *arguments: str, **options: Any) -> Iterator[Any]:
    """Start an example that says where it listens; yield the process and the address."""
    process: Any = Popen(
        [sys.executable, str(EXAMPLES / name), *arguments], stdout=PIPE, text=True, **options
    )
    try:
        yield process, parse_listener(process.stdout.readline().split()[-1])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def http(address: tuple[str, int], head: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send one HTTP request and return the answer's status and body."""
    with socket.create_connection(address, 10) as sock:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        sock.sendall(f"{head} HTTP/1.0\r\n{length}\r\n".encode() + body)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    top, _, rest = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), rest


def test_quickstart_meets_its_server() -> None:
    lines = output_of("quickstart.py").splitlines()
    assert len(lines) >= 3
    assert set(lines) == {"slot 0 of web1"}


def test_three_lowest_swaps_higher_slots_and_replaces_lost_ones() -> None:
    lines = output_of("three_lowest.py").splitlines()
    assert "lost slot 0 of a" in lines[lines.index("stop a") :]
    kept: list[str] = []
    for line in lines[:-1]:
        match line.split():
            case ["keep", "slot", *kind]:
                assert len(kept) < 3
                kept.append(" ".join(kind))
            case ["swap", "slot", before, "of", id, "for", "slot", *kind]:
                assert int(kind[0]) < int(before)
                kept.remove(f"{before} of {id}")
                kept.append(" ".join(kind))
            case ["lost", "slot", *kind]:
                kept.remove(" ".join(kind))
            case _:
                assert line in ("stop a", "a is unreachable")
        assert len(set(kept)) == len(kept)
        if line == "stop a":
            assert sorted(kept) == ["0 of a", "0 of b", "0 of c"]
    last = lines[-1].removeprefix("kept: ").split(", ")
    assert sorted(last) == [f"slot {each}" for each in sorted(kept)]
    assert sorted(last[:2]) == ["slot 0 of b", "slot 0 of c"]
    assert last[2] in ("slot 1 of b", "slot 1 of c")


def test_three_lowest_roves_the_servers_it_is_given(store: Any) -> None:
    host, port = store[1]
    lines = output_of("three_lowest.py", f"{host}:{port}").splitlines()
    kept = ", ".join(f"slot {slot} of {host}:{port}" for slot in range(3))
    assert lines[-1] == f"kept: {kept}"


def test_slot_server_speaks_its_protocol_behind_the_slot_line(store: Any) -> None:
    process, address = store
    with socket.create_connection(address, 5) as sock, sock.makefile("rwb") as lines:
        assert lines.readline() == b"0\r\n"
        for request, expected in [
            (b"SET colour dark blue", b"OK"),
            (b"GET colour", b"dark blue"),
            (b"DEL colour", b"OK"),
            (b"GET colour", b"ERROR no such key"),
            (b"DEL colour", b"ERROR no such key"),
            (b"SET bytes \xff\x00", b"OK"),
            (b"GET bytes", b"\xff\x00"),
            (b"JUMP", b"ERROR expected GET key, SET key value, DEL key or QUIT"),
            (b"GET ", b"ERROR expected GET key, SET key value, DEL key or QUIT"),
            (b"SET colour", b"ERROR expected GET key, SET key value, DEL key or QUIT"),
            (b"GET colour\n", b"ERROR a line ends with CRLF"),
        ]:
            lines.write(request if request.endswith(b"\n") else request + b"\r\n")
            lines.flush()
            assert lines.readline() == expected + b"\r\n"
        with socket.create_connection(address, 5) as second:
            assert second.recv(3) == b"1\r\n"
        lines.write(b"QUIT\r\n")
        lines.flush()
        assert lines.readline() == b""
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


def test_slot_server_hangs_up_on_a_line_that_is_too_long(store: Any) -> None:
    process, address = store
    with socket.create_connection(address, 5) as sock, sock.makefile("rwb") as lines:
        assert lines.readline() == b"0\r\n"
        lines.write(b"SET k " + b"x" * (1024 - 8) + b"\r\n")  # the longest that is taken
        lines.flush()
        assert lines.readline() == b"OK\r\n"
        lines.write(b"x" * 1024)
        lines.flush()
        assert lines.read() == b"ERROR a line has at most 1024 bytes\r\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 0


def test_pool_client_and_slot_server_meet(store: Any) -> None:
    _, (host, port) = store
    lines = output_of("pool_client.py", f"{host}:{port}").splitlines()
    assert lines[0] == "OK"
    assert lines[1] == ", ".join(["blue"] * 20)
    assert lines[2].startswith("<SlotPool size=")


def test_flask_app_serves_through_its_pool(store: Any) -> None:
    pytest.importorskip("flask", reason="Flask isn't installed")
    _, (host, port) = store
    for process, address in listening("flask_app.py", f"{host}:{port}"):
        assert http(address, "GET /colour")[0] == 404
        assert http(address, "PUT /colour", b"dark blue") == (200, b"OK")
        assert http(address, "GET /colour") == (200, b"dark blue")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


def test_gunicorn_app_serves_through_its_workers_pools(store: Any) -> None:
    pytest.importorskip("gunicorn", reason="gunicorn isn't installed")
    pytest.importorskip("prometheus_client", reason="prometheus_client isn't installed")
    _, (host, port) = store
    with socket.socket() as listener:  # gunicorn inherits it: no race for a free port
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.set_inheritable(True)
        process: Any = Popen(
            [sys.executable, "-m", "gunicorn", "-c", "conf.py", "-w", "1", "app:application"],
            cwd=EXAMPLES / "gunicorn",
            env=os.environ
            | {"SERVERS": f"{host}:{port}", "BIND": f"fd://{listener.fileno()}"}
            | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES.parent), *sys.path[1:]])},
            pass_fds=[listener.fileno()],
            stderr=PIPE,
            text=True,
        )
        address = listener.getsockname()
    try:
        # The path is the request, and the example's server knows no such command.
        status, body = http(address, "GET /colour")
        assert (status, body[:14]) == (200, b"ERROR expected")
        status, body = http(address, "GET /status/")
        assert (status, b"<script>" in body) == (200, True)
        status, body = http(address, "GET /status/status.json")
        [row] = json.loads(body)["servers"]
        assert (status, row["address"], row["leases"]) == (200, f"{host}:{port}", 1)
        status, body = http(address, "GET /metrics")
        assert status == 200
        assert b'gevent_rover_connection_max{pool="pool"} 5.0' in body
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0, log
        assert "Traceback" not in log, log
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
