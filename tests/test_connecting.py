"""A connection to a server that says no slot, within a deadline."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from conftest import open_descriptors
from gevent import socket

from gevent_rover import Server
from gevent_rover.net.connecting import connect

pytestmark = pytest.mark.usefixtures("no_leaks")

Closing = Callable[[Any], Any]


@pytest.fixture
def listening(closing: Closing) -> Callable[..., Any]:
    def listening(host: str = "127.0.0.1", port: int = 0, backlog: int = 10) -> Any:
        listener = closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        listener.bind((host, port))
        listener.listen(backlog)
        return listener

    return listening


def test_it_connects_whatever_the_server_says_first(
    listening: Callable[..., Any], closing: Closing
) -> None:
    listener = listening()
    host, port = listener.getsockname()
    sock = closing(connect({"host": host, "port": port}, 5))
    accepted = closing(listener.accept()[0])
    accepted.sendall(b"220 hello\r\n")
    assert sock.recv(100) == b"220 hello\r\n"
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.gettimeout() == socket.getdefaulttimeout()


def test_a_name_is_looked_up_and_all_its_addresses_are_tried(
    listening: Callable[..., Any], closing: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = listening("127.0.0.1").getsockname()
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.2", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, 0)),
    ]
    monkeypatch.setattr(gevent.get_hub().resolver, "getaddrinfo", lambda *arguments: found)
    sock = closing(connect({"host": "service.test", "port": port}, 5))
    assert sock.getpeername() == (host, port)


def test_a_refusal_is_an_os_error_at_once(dead_server: Server) -> None:
    with pytest.raises(ConnectionRefusedError):
        connect(dead_server, 60)


def test_nobody_at_the_path_is_an_os_error(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError):
        connect({"path": str(tmp_path / "nobody")}, 5)


def test_a_server_that_does_not_accept_is_late(full_backlog: Server) -> None:
    before = open_descriptors()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no connection within 0\.1 s") as caught:
        connect(full_backlog, 0.1)
    assert caught.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - began >= 0.09
    assert open_descriptors() == before


def test_a_kill_leaves_nothing_behind(full_backlog: Server) -> None:
    before = open_descriptors()
    connecting = gevent.spawn(connect, full_backlog, 60)
    gevent.sleep(0.02)
    assert open_descriptors() > before
    connecting.kill()
    assert open_descriptors() == before
