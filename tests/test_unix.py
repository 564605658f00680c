"""Unix domain sockets: whose fault it is when nobody answers there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import Event, attempt_of, names, open_descriptors, wait_until
from gevent import socket
from gevent.server import StreamServer

from gevent_rover import ResourceError, Rover, Server

pytestmark = pytest.mark.usefixtures("no_leaks")

Rovers = Callable[..., tuple[Rover, list[Event]]]
Closing = Callable[[Any], Any]


def talk(sock: Any, address: Any) -> None:
    try:
        sock.sendall(b"4\r\n")
    except BrokenPipeError:
        pass  # One that filled the backlog.


def serve(closing: Closing, path: str) -> Server:
    """Start a server at ``path`` that says slot 4, and return its entry."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    closing(StreamServer(sock, talk)).start()
    return {"path": path}


def swallow(closing: Closing, path: str) -> socket.socket:
    """Listen at ``path`` with a backlog that is full."""
    listener: socket.socket = closing(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen(0)
    number = 0
    while number == 0:
        sock = closing(socket.socket(socket.AF_UNIX))
        sock.setblocking(False)
        number = sock.connect_ex(path)
    assert number == errno.EAGAIN
    return listener


# What is no socket


def leave_a_file(path: Path, closing: Closing) -> None:
    path.touch()


def leave_a_directory(path: Path, closing: Closing) -> None:
    path.mkdir()


def leave_a_dangling_link(path: Path, closing: Closing) -> None:
    path.symlink_to("missing")


def leave_a_loop(path: Path, closing: Closing) -> None:
    path.symlink_to(path)


def leave_a_dead_socket(path: Path, closing: Closing) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


def leave_a_socket_that_does_not_listen(path: Path, closing: Closing) -> None:
    closing(socket.socket(socket.AF_UNIX)).bind(str(path))


def leave_a_socket_for_datagrams(path: Path, closing: Closing) -> None:
    closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(str(path))


@pytest.mark.parametrize(
    ("leave", "number"),
    [
        (leave_a_file, errno.ECONNREFUSED),
        (leave_a_directory, errno.ECONNREFUSED),
        (leave_a_dangling_link, errno.ENOENT),
        (leave_a_loop, errno.ELOOP),
        (leave_a_dead_socket, errno.ECONNREFUSED),
        (leave_a_socket_that_does_not_listen, errno.ECONNREFUSED),
        (leave_a_socket_for_datagrams, errno.EPROTOTYPE),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_path_that_is_no_listening_socket_is_unreachable(
    rover_of: Rovers,
    closing: Closing,
    tmp_path: Path,
    leave: Callable[[Path, Closing], None],
    number: int,
) -> None:
    path = tmp_path / "socket"
    leave(path, closing)
    rover, events = rover_of({"a": {"path": str(path)}}, timeout=3600.0)
    with gevent.Timeout(10):
        record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    assert isinstance(record.error, OSError)
    assert record.error.errno == number


def test_a_path_below_a_file_is_unreachable(rover_of: Rovers, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    rover, events = rover_of({"a": {"path": str(tmp_path / "file" / "socket")}})
    assert isinstance(attempt_of(rover, events).error, NotADirectoryError)


def test_an_abstract_name_that_nobody_has_is_unreachable(rover_of: Rovers) -> None:
    rover, events = rover_of({"a": {"path": f"\0gevent-rover-nobody-{os.getpid()}"}})
    assert isinstance(attempt_of(rover, events).error, ConnectionRefusedError)
    assert names(events) == ["unreachable", "attempt"]


def test_paths_and_names_of_the_greatest_length(
    rover_of: Rovers, closing: Closing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rover, events = rover_of()
    for path in ("p" * 107, "\0" + "n" * 107):
        rover.servers["a"] = serve(closing, path)
        events.clear()
        assert attempt_of(rover, events).slot == 4


# Who may not


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user whom the files don't belong to."""
    if os.geteuid() != 0:  # pragma: no cover
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("what", ["socket", "directory"])
def test_no_permission_is_an_error_of_ours(
    rover_of: Rovers,
    closing: Closing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    # A relative path: what is above is nobody's to enter.
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    directory = Path("directory")
    directory.mkdir()
    path = directory / "socket"
    rover, events = rover_of({"a": serve(closing, str(path))})
    (path if what == "socket" else directory).chmod(0)
    try:
        with as_nobody():
            record = attempt_of(rover, events)
    finally:
        directory.chmod(0o700)
    assert names(events) == ["error", "attempt"]
    assert isinstance(record.error, ResourceError)
    assert isinstance(record.error.__cause__, PermissionError)
    path.chmod(0o700)
    assert attempt_of(rover, events).slot == 4


# A backlog that is full


@pytest.mark.parametrize("abstract", [False, True])
def test_a_full_backlog_is_one_attempt_that_is_unreachable_at_once(
    rover_of: Rovers, closing: Closing, tmp_path: Path, abstract: bool
) -> None:
    path = f"\0gevent-rover-full-{os.getpid()}" if abstract else str(tmp_path / "socket")
    swallow(closing, path)
    before = open_descriptors()
    rover, events = rover_of({"a": {"path": path}}, timeout=3600.0)
    with gevent.Timeout(10):
        record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    assert isinstance(record.error, BlockingIOError)
    assert open_descriptors() <= before


def test_a_rover_does_not_spin_on_a_full_backlog(
    rover_of: Rovers, closing: Closing, tmp_path: Path
) -> None:
    path = str(tmp_path / "socket")
    listener = swallow(closing, path)
    rover, events = rover_of({"a": {"path": path}}, roving_interval=3600.0)
    rover.wanted = lambda: 5
    rover.start()
    # The tick's attempt and those of quick roving, which failures end.
    wait_until(lambda: events)
    gevent.sleep(0.2)
    attempts = names(events).count("attempt")
    assert 1 <= attempts <= 20
    gevent.sleep(0.2)
    assert names(events).count("attempt") == attempts
    # Room again: a tick finds it.
    closing(StreamServer(listener, talk)).start()

    def found() -> bool:
        rover.wake()
        return "connection" in names(events)

    wait_until(found)
    rover.stop()
