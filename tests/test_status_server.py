"""The status server: over real sockets, with readers who are slow, greedy, or somebody else."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import wait_until
from gevent import socket
from gevent.subprocess import PIPE, Popen

from gevent_rover import Rover, SlotPool
from gevent_rover.status import PageServer, StatusApp, StatusServer
from gevent_rover.status import server as server_module

pytestmark = pytest.mark.usefixtures("no_leaks")


def connect(server: PageServer) -> socket.socket:
    """Connect to a server, wherever it listens."""
    if server.url.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        path = server.url.removeprefix("unix:")
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
        return sock
    address: Any = server.address
    return socket.create_connection(address[:2])


def served_by(server: PageServer) -> int:
    """Return how many connections are served right now."""
    assert server.pool is not None
    return len(server.pool)


def ask(server: PageServer, request: str) -> bytes:
    """Return all that the server says to a request before it hangs up."""
    with connect(server) as sock:
        sock.sendall(request.encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return answer


def get(server: PageServer, path: str = "/workers.ndjson", host: str = "localhost") -> bytes:
    return ask(server, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")


def body_of(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return body


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "localhost:0", "unix:@rover-{}"])
def test_it_shows_a_rover_and_its_pool(rover: Rover, pool: SlotPool[Any], where: str) -> None:
    with StatusServer(rover, pool, where.format(os.getpid())) as server:
        seen = json.loads(body_of(get(server)))["snapshot"]
        assert seen["pool"]["size"] == 2
        answer = get(server, "/")
        assert b"Connection: close" in answer
        assert b"<html" in body_of(answer)


def test_a_standard_client_reads_it(rover: Rover, pool: SlotPool[Any]) -> None:
    def read(port: int) -> tuple[int, Any]:
        client = HTTPConnection("127.0.0.1", port, timeout=5)
        client.request("GET", "/workers.ndjson")
        response = client.getresponse()
        answer = json.loads(response.read())
        client.close()
        return response.status, answer

    with StatusServer(rover, pool, "127.0.0.1:0") as server:
        threads = gevent.get_hub().threadpool
        status, answer = threads.apply(read, (server.server_port,))
        assert status == 200
        assert [row["id"] for row in answer["snapshot"]["servers"]] == ["web1"]
    threads.kill()  # Its descriptors.


def test_a_unix_socket_is_its_owners_alone_and_goes_with_its_server(
    rover: Rover, pool: SlotPool[Any], tmp_path: Path
) -> None:
    path = tmp_path / "status"
    umask = os.umask(0)
    try:
        with StatusServer(rover, pool, f"unix:{path}") as server:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            body_of(get(server))
    finally:
        os.umask(umask)
    assert not path.exists()
    with server:  # It starts again.
        body_of(get(server))
    assert not path.exists()


def test_in_a_folder_each_process_and_each_pool_has_its_own_socket(
    rover: Rover, pool: SlotPool[Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "workers"
    first = StatusServer(rover, pool, f"unix:{folder}/")
    second = StatusServer(rover, None, f"unix:{folder}/", name="../cache")
    with first, second:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        names = sorted(path.name for path in folder.iterdir())
        assert names == [f"{os.getpid()}-.._cache.sock", f"{os.getpid()}-pool.sock"]
        body_of(get(first))
        body_of(get(second))
    assert list(folder.iterdir()) == []


def test_what_a_killed_process_left_is_replaced_and_a_living_one_is_not(
    rover: Rover, pool: SlotPool[Any], tmp_path: Path
) -> None:
    left = tmp_path / "1-pool.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(left))
    dead.close()
    with StatusServer(rover, pool, f"unix:{tmp_path}/") as server:
        assert not left.exists()
        with pytest.raises(OSError, match="Address already in use"):
            StatusServer(rover, pool, server.url).start()
        body_of(get(server))


def test_a_file_that_somebody_else_made_meanwhile_stays(
    rover: Rover, pool: SlotPool[Any], tmp_path: Path
) -> None:
    path = tmp_path / "status"
    with StatusServer(rover, pool, f"unix:{path}"):
        path.unlink()
        path.write_text("somebody's")
    assert path.read_text() == "somebody's"


def test_a_file_that_is_gone_already_is_no_trouble(
    rover: Rover, pool: SlotPool[Any], tmp_path: Path
) -> None:
    with StatusServer(rover, pool, f"unix:{tmp_path}/") as server:
        Path(server.url.removeprefix("unix:")).unlink()
    assert list(tmp_path.iterdir()) == []
    with StatusServer(rover, pool, f"unix:{tmp_path}/") as server:
        body_of(get(server))


@pytest.mark.parametrize(
    ("where", "culprit"),
    [
        ("0.0.0.0:8001", "loopback"),
        ("[::]:8001", "loopback"),
        ("10.0.0.1:8001", "loopback"),
        ("example.org:8001", "loopback"),
        ("127.0.0.1", "HOST:PORT"),
        ("unix:", "empty path"),
        ("unix:@", "empty path"),
    ],
)
def test_it_listens_nowhere_else(where: str, culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        StatusServer(None, None, where)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8001", 200),
        ("localhost", 200),
        ("[::1]:8001", 200),
        ("LOCALHOST:80", 200),
        ("rebound.example:8001", 421),
        ("127.0.0.1.rebound.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_a_name_of_another_site_that_points_to_loopback_is_refused(
    rover: Rover, pool: SlotPool[Any], reported: Any, host: str, status: int
) -> None:
    with StatusServer(rover, pool, "127.0.0.1:0") as server:
        assert get(server, host=host).startswith(f"HTTP/1.1 {status} ".encode())
    assert reported == []


def test_a_unix_socket_has_no_name(rover: Rover, pool: SlotPool[Any], tmp_path: Path) -> None:
    with StatusServer(rover, pool, f"unix:{tmp_path}/status") as server:
        body_of(get(server, host="whatever"))


@pytest.mark.parametrize(
    "header",
    ["Content-Length: 1000000000000", "Transfer-Encoding: chunked", "Content-Length: 3"],
)
def test_a_body_is_refused_and_not_read(rover: Rover, pool: SlotPool[Any], header: str) -> None:
    with StatusServer(rover, pool, "127.0.0.1:0") as server:
        answer = ask(server, f"POST / HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b"\r\n\r\nA request has no body here.\n")
        body_of(get(server))


@pytest.mark.parametrize(
    "request_",
    ["\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "G" * 9000 + "\r\n\r\n", "\x16\x03\x01"],
)
def test_what_is_no_request_does_no_harm(
    rover: Rover, pool: SlotPool[Any], reported: Any, request_: str
) -> None:
    with StatusServer(rover, pool, "127.0.0.1:0") as server:
        with connect(server) as sock:
            sock.sendall(request_.encode("latin-1"))
        body_of(get(server))
    assert reported == []


def test_a_slow_reader_holds_up_nobody_and_is_cut_off(
    closing: Callable[[Any], Any], reported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "SECONDS", 0.5)
    long = b'{"where": "' + b"x" * 8_000_000 + b'"}'
    with PageServer(StatusApp(lambda: [long]), "127.0.0.1:0") as server:
        slow = [closing(connect(server)) for _ in range(3)]
        for sock in slow:
            sock.sendall(b"GET /workers.ndjson HTTP/1.1\r\nHost: localhost\r\n\r\n")
        silent = closing(connect(server))
        wait_until(lambda: served_by(server) == 4)
        assert len(body_of(get(server))) == len(long) + 1
        # Those who neither ask nor read are gone by themselves.
        wait_until(lambda: served_by(server) == 0)
        assert silent.recv(1) == b""
        assert sum(len(data) for data in iter(lambda: slow[0].recv(1 << 20), b"")) < len(long)
    assert reported == []


@pytest.mark.integration
def test_many_readers_wait_in_the_kernels_queue(
    closing: Callable[[Any], Any], rover: Rover, pool: SlotPool[Any]
) -> None:
    with StatusServer(rover, pool, "127.0.0.1:0") as server:
        idle = [closing(connect(server)) for _ in range(server_module.AT_A_TIME)]
        wait_until(lambda: served_by(server) == server_module.AT_A_TIME)
        reader = gevent.spawn(get, server)
        gevent.sleep(0.05)
        assert not reader.ready()
        idle[0].close()
        body_of(reader.get(timeout=5))


def test_an_app_that_raises_is_reported_and_answers_500(reported: Any) -> None:
    def lines() -> Iterator[bytes]:
        raise ValueError("no lines")
        yield b""

    with PageServer(StatusApp(lines), "127.0.0.1:0") as server:
        assert get(server).startswith(b"HTTP/1.1 500 ")
    assert [str(exc) for _, exc in reported] == ["no lines"]


def test_a_forked_child_serves_nothing_and_removes_nothing(
    rover: Rover, pool: SlotPool[Any], tmp_path: Path
) -> None:
    with StatusServer(rover, pool, f"unix:{tmp_path}/status") as server:
        child = os.fork()
        if child == 0:
            started = server.started
            server.stop()
            os._exit(started)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        body_of(get(server))


KILLED = """
import sys
import gevent
from gevent_rover import Rover, SlotPool
from gevent_rover.status import StatusServer
rover = Rover()
with StatusServer(rover, SlotPool(rover), sys.argv[1]):
    print("listening", flush=True)
    gevent.sleep(60)
"""


@pytest.mark.parametrize("where", ["unix:{}/", "unix:{}/one"])
def test_a_killed_process_leaves_a_file_that_its_successor_replaces(
    where: str, tmp_path: Path
) -> None:
    for _ in range(2):
        process = Popen([sys.executable, "-c", KILLED, where.format(tmp_path)], stdout=PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
