"""Every example runs as it stands, and does what it says."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent import socket
from gevent.subprocess import PIPE, Popen, check_output

EXAMPLES = Path(__file__).parent.parent / "examples"


def output_of(name: str, *arguments: str) -> str:
    """Run an example to its end and return what it printed."""
    return check_output([sys.executable, str(EXAMPLES / name), *arguments], text=True)


@pytest.fixture
def store() -> Iterator[Any]:
    process: Any = Popen([sys.executable, str(EXAMPLES / "slot_server.py")], stdout=PIPE, text=True)
    try:
        host, _, port = process.stdout.readline().rpartition(" ")[2].rpartition(":")
        yield process, (host, int(port))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_quickstart_meets_its_server() -> None:
    lines = output_of("quickstart.py").splitlines()
    assert len(lines) >= 3
    assert set(lines) == {"slot 0 of web1"}


def test_three_lowest_keeps_three_and_closes_higher_ones() -> None:
    lines = output_of("three_lowest.py").splitlines()
    assert any(line.startswith("close slot") for line in lines)
    kept = [line for line in lines if line.startswith("kept:")][-1]
    assert sorted(int(word.split()[0]) for word in kept[6:].split(", ")) in ([0, 0, 1], [0, 1, 2])


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
            (b"JUMP", b"ERROR expected GET key, SET key value, DEL key or QUIT"),
        ]:
            lines.write(request + b"\r\n")
            lines.flush()
            assert lines.readline() == expected + b"\r\n"
        with socket.create_connection(address, 5) as second:
            assert second.recv(3) == b"1\r\n"
        lines.write(b"QUIT\r\n")
        lines.flush()
        assert lines.readline() == b""
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
