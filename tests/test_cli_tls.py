"""The command line with TLS, as real processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from gevent import socket
from gevent.subprocess import PIPE, Popen

from gevent_rover import SlotServer, parse_listener

pytestmark = pytest.mark.integration

COMMAND = [sys.executable, "-m", "gevent_rover"]


def run(*arguments: object) -> tuple[int, str, str]:
    """Run the command to its end and return its exit code, output and error output."""
    process = Popen([*COMMAND, *map(str, arguments)], stdout=PIPE, stderr=PIPE, text=True)
    try:
        output, errors = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode, output, errors


def rove(*arguments: object) -> list[dict[str, Any]]:
    """Make two attempts, and return the objects that are printed for them."""
    options = ["--count", "2", "--interval", "0.05", "--json"]
    code, output, errors = run("rove", *arguments, *options)
    assert (code, errors) == (0, "")
    events = [json.loads(line) for line in output.splitlines()]
    assert events.pop()["event"] == "summary"
    return events


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Give a function that starts ``serve`` and returns the address where it listens."""
    processes: list[Any] = []

    def serve(*arguments: object) -> str:
        process: Any = Popen(
            [*COMMAND, "serve", *map(str, arguments)], stdout=PIPE, stderr=PIPE, text=True
        )
        processes.append(process)
        line: str = process.stdout.readline()
        assert line, process.stderr.read()
        return line.split()[-1]

    yield serve
    for process in processes:
        process.terminate()
        assert process.wait(timeout=10) == 0
        assert process.stderr.read() == ""
        process.stdout.close()
        process.stderr.close()


class Files:
    """Certificates of one authority, in files."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1", "some.test")
        client = authority.issue_cert("client.test")
        self.ca = directory / "ca.pem"
        self.cert = directory / "server.pem"
        self.key = directory / "server.key"
        self.client = directory / "client.pem"  # with its key
        self.other_key = directory / "other.key"
        self.empty = directory / "empty.pem"
        authority.cert_pem.write_to_path(self.ca)
        server.cert_chain_pems[0].write_to_path(self.cert)
        server.private_key_pem.write_to_path(self.key)
        client.private_key_and_cert_chain_pem.write_to_path(self.client)
        client.private_key_pem.write_to_path(self.other_key)
        self.empty.touch()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


# Serving and roving


def test_serve_and_rove_meet_over_tls(serve: Callable[..., str], files: Files) -> None:
    address = serve("--tls", "--cert", files.cert, "--key", files.key, "--offset", "5")
    with socket.create_connection(parse_listener(address), 5) as plain:
        plain.sendall(b"no TLS at all\r\n")
        try:
            assert b"5\r\n" not in plain.recv(1024)
        except ConnectionResetError:
            pass
    for event in rove(address, "--tls", "--ca", files.ca):
        assert event["event"] == "connection"
        assert event["slot"] in (5, 6)  # The first may not be given back yet.
        assert "server_hostname" not in event["server"]


def test_the_servers_certificate_is_verified(serve: Callable[..., str], files: Files) -> None:
    address = serve("--tls", "--cert", files.cert, "--key", files.key)
    for event in rove(address, "--tls"):
        assert event["event"] == "error"
        assert "certificate verify failed" in event["reason"]
    for event in rove(address, "--tls", "--ca", files.ca, "--server-hostname", "other.test"):
        assert event["event"] == "error"
        assert "other.test" in event["reason"]
    for event in rove(address, "--tls", "--ca", files.ca, "--server-hostname", "some.test"):
        assert event["event"] == "connection"
        assert event["server"]["server_hostname"] == "some.test"


def test_clients_show_a_certificate_if_serve_is_told_an_authority(
    serve: Callable[..., str], files: Files
) -> None:
    address = serve("--tls", "--cert", files.cert, "--key", files.key, "--ca", files.ca)
    for event in rove(address, "--tls", "--ca", files.ca):
        assert event["event"] == "error"
        assert "alert" in event["reason"].lower()
    for event in rove(address, "--tls", "--ca", files.ca, "--cert", files.client):
        assert event["event"] == "connection"


def test_rove_speaks_tls_over_a_unix_socket(
    closing: Callable[[Any], Any], files: Files, tmp_path: Path
) -> None:
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def wait(slot: int, sock: Any, address: Any) -> None:
        sock.recv(1)

    server = closing(SlotServer(listener, wait, certfile=str(files.cert), keyfile=str(files.key)))
    server.start()
    name = ["--server-hostname", "some.test"]
    for event in rove(f"unix:{path}", "--tls", "--ca", files.ca, *name):
        assert event["event"] == "connection"


# Bad options


def one_line(*arguments: object) -> str:
    """Return the one line that the command has to say about bad arguments."""
    code, output, errors = run(*arguments)
    assert (code, output) == (2, ""), errors
    (line,) = errors.splitlines()
    assert line.startswith("gevent-rover")
    return str(line)


@pytest.mark.parametrize("option", ["ca", "cert", "key"])
@pytest.mark.parametrize("command", ["rove", "serve"])
def test_a_missing_file_gets_one_line(files: Files, command: str, option: str) -> None:
    options = {"cert": files.cert, "key": files.key, "ca": files.ca, option: "missing.pem"}
    arguments = [part for name, file in options.items() for part in (f"--{name}", file)]
    line = one_line(command, "127.0.0.1:1", "--tls", *arguments)
    assert f"argument --{option}: can't read 'missing.pem': No such file or directory" in line


@pytest.mark.parametrize("command", ["rove", "serve"])
def test_a_bad_file_gets_one_line(files: Files, tmp_path: Path, command: str) -> None:
    def tell(**options: Path) -> str:
        files_ = {"cert": files.cert, "key": files.key, "ca": files.ca, **options}
        arguments = [part for name, file in files_.items() for part in (f"--{name}", file)]
        return one_line(command, "127.0.0.1:1", "--tls", *arguments)

    assert f"argument --ca: no certificates in '{files.empty}'" in tell(ca=files.empty)
    assert f"argument --cert: can't use '{files.empty}' with key" in tell(cert=files.empty)
    assert "key values mismatch" in tell(key=files.other_key)
    assert f"argument --ca: can't read '{tmp_path}': Is a directory" in tell(ca=tmp_path)


def test_a_certificate_without_a_key_gets_one_line(files: Files) -> None:
    line = one_line("serve", "--tls", "--cert", files.cert)
    assert f"argument --cert: can't use '{files.cert}' and its key" in line


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["serve", "--tls"], "argument --tls: needs --cert"),
        (["serve", "--cert", "some.pem"], "argument --cert: needs --tls"),
        (["serve", "--ca", "some.pem"], "argument --ca: needs --tls"),
        (["serve", "--key", "some.pem"], "argument --key: needs --tls"),
        (["serve", "--tls", "--key", "some.pem"], "argument --key: needs --cert"),
        (["rove", "a.test:1", "--ca", "some.pem"], "argument --ca: needs --tls"),
        (["rove", "a.test:1", "--tls", "--key", "some.pem"], "argument --key: needs --cert"),
        (
            ["rove", "a.test:1", "--server-hostname", "some.test"],
            "argument --server-hostname: needs --tls",
        ),
        (
            ["rove", "a.test:1", "--tls", "--server-hostname", ""],
            "argument --server-hostname: invalid server 'a.test:1': server_hostname must be",
        ),
        (
            ["rove", "a=unix:/some/path", "--tls"],
            "argument SERVER: TLS with 'a' needs --server-hostname",
        ),
    ],
)
def test_options_that_do_not_go_together_get_one_line(arguments: list[str], problem: str) -> None:
    assert problem in one_line(*arguments)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_gets_one_line(files: Files, tmp_path: Path) -> None:
    key = tmp_path / "key"  # pragma: no cover
    key.touch(0)
    line = one_line("serve", "--tls", "--cert", files.cert, "--key", key)
    assert f"argument --key: can't read '{key}': Permission denied" in line
