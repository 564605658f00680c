"""What a slot server does before a connection takes a slot, and what becomes of that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import gevent
import pytest
from conftest import port_of, wait_until
from gevent import GreenletExit, socket
from gevent.event import Event
from test_server import read_all, wait_for_the_end

from gevent_rover import Slots, SlotServer

pytestmark = pytest.mark.usefixtures("no_leaks")

Socket = socket.socket
SlotServers = Callable[..., SlotServer]
Closing = Callable[[Any], Any]


class Preparing:
    """Prepares connections, and notes what happens in which order."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.goes_on = Event()
        self.goes_on.set()
        self.failure: BaseException | None = None
        self.slots = Slots()

    @contextmanager
    def __call__(self, sock: Socket, address: Any) -> Iterator[str]:
        self.events.append(("prepare", len(self.slots)))
        try:
            self.goes_on.wait()
            if self.failure is not None:
                raise self.failure
            yield "prepared"
        except GreenletExit:
            self.events.append("killed")
            raise
        finally:
            self.events.append(("end", len(self.slots)))

    def handle(self, slot: int, sock: Socket, address: Any, prepared: str) -> None:
        self.events.append((prepared, slot))
        sock.sendall(b"hello")


@pytest.fixture
def connect(closing: Closing) -> Callable[[SlotServer], Socket]:
    def connect(server: SlotServer) -> Socket:
        sock = closing(socket.create_connection(("127.0.0.1", port_of(server)), timeout=5))
        assert isinstance(sock, Socket)
        return sock

    return connect


@pytest.fixture
def preparing() -> Preparing:
    return Preparing()


@pytest.fixture
def server(slot_server: SlotServers, preparing: Preparing) -> SlotServer:
    return slot_server(preparing.handle, slots=preparing.slots, prepare=preparing)


Connect = Callable[[SlotServer], Socket]


def test_a_slot_is_taken_once_all_is_prepared_and_given_back_before_that_ends(
    server: SlotServer, preparing: Preparing, connect: Connect
) -> None:
    preparing.goes_on.clear()
    client = connect(server)
    wait_until(lambda: preparing.events)
    assert len(server.slots) == 0
    preparing.goes_on.set()
    assert read_all(client) == b"0\r\nhello"
    wait_until(lambda: len(preparing.events) == 3)
    assert preparing.events == [("prepare", 0), ("prepared", 0), ("end", 0)]


@pytest.mark.parametrize("failure", [ConnectionRefusedError("nobody"), gevent.Timeout(1)])
def test_what_cannot_be_prepared_gets_no_slot_line_and_is_a_line_in_the_log(
    failure: BaseException,
    server: SlotServer,
    preparing: Preparing,
    connect: Connect,
    reported: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "gevent_rover.server")
    preparing.failure = failure
    assert read_all(connect(server)) == b""
    preparing.failure = None
    assert read_all(connect(server)) == b"0\r\nhello"
    assert [record.message.partition(" for ")[0] for record in caplog.records] == ["no slot"]
    assert str(failure) in caplog.text
    assert reported == []


def test_another_failure_is_reported_and_the_server_goes_on(
    server: SlotServer, preparing: Preparing, connect: Connect, reported: list[Any]
) -> None:
    failure = preparing.failure = KeyError("mine")
    assert read_all(connect(server)) == b""
    wait_until(lambda: reported)
    assert [exc for _, exc in reported] == [failure]
    preparing.failure = None
    assert read_all(connect(server)) == b"0\r\nhello"


def test_what_a_handler_raises_is_not_taken_for_a_failure_to_prepare(
    slot_server: SlotServers, connect: Connect, reported: list[Any]
) -> None:
    def handle(slot: int, sock: Socket, address: Any, prepared: None) -> None:
        raise OSError("of the handler")

    server = slot_server(handle, prepare=lambda sock, address: nullcontext())
    assert read_all(connect(server)) == b"0\r\n"
    wait_until(lambda: reported)
    assert [str(exc) for _, exc in reported] == ["of the handler"]
    reported.clear()


def test_what_was_prepared_ends_for_a_connection_beyond_the_limit_too(
    slot_server: SlotServers, preparing: Preparing, connect: Connect
) -> None:
    preparing.slots = Slots(limit=1)
    preparing.slots.take()
    server = slot_server(preparing.handle, slots=preparing.slots, prepare=preparing)
    assert read_all(connect(server)) == b""
    wait_until(lambda: len(preparing.events) == 2)
    assert preparing.events == [("prepare", 1), ("end", 1)]


def test_a_stop_ends_at_once_what_is_being_prepared_and_lets_handlers_finish(
    slot_server: SlotServers, preparing: Preparing, connect: Connect
) -> None:
    def handle(slot: int, sock: Socket, address: Any, prepared: str) -> None:
        wait_for_the_end(slot, sock, address)
        preparing.events.append("finished")

    server = slot_server(handle, slots=preparing.slots, prepare=preparing)
    served = connect(server)
    assert served.recv(3) == b"0\r\n"
    preparing.goes_on.clear()
    waiting = connect(server)
    wait_until(lambda: len(preparing.events) == 2)
    stopping = gevent.spawn(server.stop, 5)
    assert read_all(waiting) == b""
    assert not stopping.ready()
    served.close()
    stopping.get()
    assert preparing.events[2:] == ["killed", ("end", 1), "finished", ("end", 0)]


def test_a_preparation_that_stops_its_server_is_not_killed_by_that(
    slot_server: SlotServers, connect: Connect
) -> None:
    ended = []
    server: SlotServer

    @contextmanager
    def prepare(sock: Socket, address: Any) -> Iterator[None]:
        server.stop(0.5)
        ended.append(server.started)
        yield

    server = slot_server(lambda *arguments: None, prepare=prepare)
    client = connect(server)
    wait_until(lambda: ended)
    assert ended == [False]
    assert read_all(client) in (b"", b"0\r\n")


def test_what_prepares_must_be_callable() -> None:
    with pytest.raises(TypeError, match="prepare must be callable, got 7"):
        SlotServer(("127.0.0.1", 0), wait_for_the_end, prepare=7)  # type: ignore[arg-type]


def test_each_connection_prepares_for_itself(
    server: SlotServer, preparing: Preparing, connect: Connect
) -> None:
    preparing.goes_on.clear()
    clients = [connect(server) for _ in range(3)]
    wait_until(lambda: len(preparing.events) == 3)
    clients[0].close()
    preparing.goes_on.set()
    said = sorted(read_all(client) for client in clients[1:])
    assert all(line.endswith(b"\r\nhello") for line in said)
    wait_until(partial(lambda: len(server.slots) == 0))
