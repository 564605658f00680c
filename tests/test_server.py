"""The slot server, over real sockets."""

from __future__ import annotations

import _socket
import os
import struct
from collections.abc import Callable, Iterator, Sized
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import wait_until
from gevent import Greenlet, GreenletExit, socket
from gevent.event import Event
from gevent.pool import Pool

from gevent_rover import Slots, SlotServer

Socket = socket.socket
Call = Callable[..., tuple[int, Socket]]


class WatchedSlots(Slots):
    """Slots that remember what was given back, and whether the connection was closed by then."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.given_back: list[int] = []
        self.open_descriptors: list[int] = []
        #: The descriptor of the connection that is served.
        self.fd = -1

    def free(self, slot: int) -> None:
        super().free(slot)
        self.given_back.append(slot)
        if self.fd >= 0 and os.path.exists(f"/proc/self/fd/{self.fd}"):
            self.open_descriptors.append(self.fd)


def port_of(server: SlotServer) -> int:
    port = server.server_port
    assert port is not None
    return port


def read_slot_line(sock: Socket) -> int | None:
    """Read a slot line byte by byte; None if the connection ends instead."""
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            assert line == b""
            return None
        line += byte
    assert line.endswith(b"\r\n")
    return int(line)


def read_all(sock: Socket) -> bytes:
    data = b""
    while chunk := sock.recv(1024):
        data += chunk
    return data


def holds(things: Sized, count: int) -> bool:
    return len(things) == count


def reset(sock: Socket) -> None:
    """Close with a reset instead of an orderly end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_for_the_end(slot: int, sock: Socket, address: Any) -> None:
    while sock.recv(1024):
        pass


@pytest.fixture
def dial(closing: Callable[[Any], Any]) -> Callable[[SlotServer], Socket]:
    """Give a function that connects to a server; the socket is closed after the test."""

    def dial(server: SlotServer) -> Socket:
        sock = closing(socket.create_connection(("127.0.0.1", port_of(server)), timeout=5))
        assert isinstance(sock, Socket)
        return sock

    return dial


@pytest.fixture
def call(dial: Callable[[SlotServer], Socket]) -> Call:
    """Give a function that connects to a server and reads the slot line."""

    def call(server: SlotServer) -> tuple[int, Socket]:
        sock = dial(server)
        slot = read_slot_line(sock)
        assert slot is not None
        return slot, sock

    return call


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """Give the list of what is reported through the hub."""
    reported: list[BaseException] = []

    def handle_error(context: object, kind: object, value: BaseException, tb: object) -> None:
        reported.append(value.with_traceback(None))

    monkeypatch.setattr(gevent.get_hub(), "handle_error", handle_error)
    yield reported
    reported.clear()


# Slots


def test_each_connection_gets_the_lowest_free_slot(
    slot_server: Callable[..., SlotServer], call: Call
) -> None:
    server = slot_server()
    connections = dict(call(server) for _ in range(5))
    assert list(connections) == [0, 1, 2, 3, 4]
    for left, slot in enumerate((3, 1), start=1):
        connections[slot].close()
        wait_until(partial(holds, server.slots, 5 - left))
    assert [call(server)[0] for _ in range(3)] == [1, 3, 5]


def test_many_connections_at_once_get_a_slot_each(
    slot_server: Callable[..., SlotServer], call: Call
) -> None:
    server = slot_server()
    calls = [gevent.spawn(call, server) for _ in range(60)]
    assert sorted(greenlet.get(timeout=10)[0] for greenlet in calls) == list(range(60))


def test_what_the_handler_says_arrives_behind_the_slot_line(
    slot_server: Callable[..., SlotServer], dial: Callable[[SlotServer], Socket]
) -> None:
    def handle(slot: int, sock: Socket, address: Any) -> None:
        sock.sendall(b"first,")
        sock.sendall(b"second")

    assert read_all(dial(slot_server(handle))) == b"0\r\nfirst,second"


def test_the_handler_gets_the_slot_the_socket_and_the_clients_address(
    slot_server: Callable[..., SlotServer], call: Call
) -> None:
    served: list[tuple[int, type, Any]] = []

    def handle(slot: int, sock: Socket, address: Any) -> None:
        served.append((slot, type(sock), address))
        assert sock.gettimeout() is None
        sock.sendall(sock.recv(10))

    _, sock = call(slot_server(handle, slots=Slots(offset=7)))
    sock.sendall(b"echo")
    assert read_all(sock) == b"echo"
    assert served == [(7, Socket, sock.getsockname())]


def test_connections_are_sent_without_delay(
    slot_server: Callable[..., SlotServer], call: Call
) -> None:
    options: list[int] = []

    def handle(slot: int, sock: Socket, address: Any) -> None:
        options.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    _, sock = call(slot_server(handle))
    assert read_all(sock) == b""
    assert options == [1]


def test_stride_and_offset_show_on_the_wire(
    slot_server: Callable[..., SlotServer], call: Call
) -> None:
    server = slot_server(slots=Slots(stride=3, offset=2))
    assert [call(server)[0] for _ in range(4)] == [2, 5, 8, 11]


def test_two_strided_servers_share_the_numbers(
    slot_server: Callable[..., SlotServer], call: Call
) -> None:
    servers = [slot_server(slots=Slots(stride=2, offset=offset)) for offset in range(2)]
    slots = [call(server)[0] for _ in range(3) for server in servers]
    assert slots == [0, 1, 2, 3, 4, 5]


def test_two_servers_may_share_their_slots(
    slot_server: Callable[..., SlotServer], call: Call
) -> None:
    slots = Slots()
    servers = [slot_server(slots=slots) for _ in range(2)]
    assert [call(server)[0] for _ in range(2) for server in servers] == [0, 1, 2, 3]


def test_beyond_the_limit_a_connection_is_closed_without_a_line(
    slot_server: Callable[..., SlotServer], call: Call, dial: Callable[[SlotServer], Socket]
) -> None:
    server = slot_server(slots=Slots(limit=2))
    _, first = call(server)
    assert call(server)[0] == 1
    for _ in range(3):
        assert dial(server).recv(10) == b""
    assert len(server.slots) == 2
    first.close()
    wait_until(lambda: len(server.slots) == 1)
    assert call(server)[0] == 0


def test_a_connection_that_waits_for_room_in_the_pool_has_no_slot(
    slot_server: Callable[..., SlotServer], call: Call, dial: Callable[[SlotServer], Socket]
) -> None:
    server = slot_server(spawn=1)
    _, first = call(server)
    second = dial(server)
    second.settimeout(0.05)
    with pytest.raises(TimeoutError):
        second.recv(1)
    assert len(server.slots) == 1
    first.close()
    second.settimeout(5)
    assert read_slot_line(second) == 0


# The end of a connection


def returns(slot: int, sock: Socket, address: Any) -> None:
    sock.recv(1)


def closes(slot: int, sock: Socket, address: Any) -> None:
    sock.recv(1)
    sock.close()


def detaches(slot: int, sock: Socket, address: Any) -> None:
    sock.recv(1)
    _socket.close(sock.detach())


def leaves_a_file(slot: int, sock: Socket, address: Any) -> None:
    sock.recv(1)
    # As good as one that waits for the collector, but it can't be collected early.
    left_behind.append(sock.makefile("rb"))


def raises(slot: int, sock: Socket, address: Any) -> None:
    sock.recv(1)
    raise ZeroDivisionError


def raises_with_a_file(slot: int, sock: Socket, address: Any) -> None:
    stream = sock.makefile("rwb")
    stream.read(1)
    raise ZeroDivisionError


def closes_the_descriptor(slot: int, sock: Socket, address: Any) -> None:
    sock.recv(1)
    # Not os.close(): patched, it waits for the loop's next turn.
    _socket.close(sock.fileno())


def exits(slot: int, sock: Socket, address: Any) -> None:
    sock.recv(1)
    raise GreenletExit


def times_out(slot: int, sock: Socket, address: Any) -> None:
    sock.recv(1)
    with gevent.Timeout(0.001):
        gevent.sleep(60)


left_behind: list[Any] = []


@pytest.mark.parametrize(
    ("ending", "reported"),
    [
        (returns, []),
        (closes, []),
        (detaches, []),
        (leaves_a_file, []),
        (exits, []),
        (raises, [ZeroDivisionError]),
        (raises_with_a_file, [ZeroDivisionError]),
        (closes_the_descriptor, [OSError]),
        (times_out, [gevent.Timeout]),
    ],
)
def test_the_slot_is_given_back_once_after_the_socket_is_closed(
    ending: Callable[[int, Socket, Any], None],
    reported: list[type[BaseException]],
    slot_server: Callable[..., SlotServer],
    call: Call,
    reports: list[BaseException],
    no_leaks: None,
) -> None:
    slots = WatchedSlots()

    def handle(slot: int, sock: Socket, address: Any) -> None:
        slots.fd = sock.fileno()
        ending(slot, sock, address)

    server = slot_server(handle, slots=slots)
    try:
        for count in range(1, 4):
            slot, sock = call(server)
            with sock:
                assert slot == 0
                sock.sendall(b"x")
                assert read_all(sock) == b""
                wait_until(partial(holds, slots.given_back, count))
        wait_until(lambda: len(reports) == 3 * len(reported))
        assert slots.given_back == [0, 0, 0]
        assert slots.open_descriptors == []
        assert [type(report) for report in reports] == 3 * reported
    finally:
        while left_behind:
            left_behind.pop().close()
        server.stop()


def test_the_slot_of_a_killed_handler_is_given_back_once(
    slot_server: Callable[..., SlotServer], call: Call, reports: list[BaseException]
) -> None:
    slots = WatchedSlots()
    handlers: list[Any] = []

    def handle(slot: int, sock: Socket, address: Any) -> None:
        slots.fd = sock.fileno()
        handlers.append(gevent.getcurrent())
        gevent.sleep(60)

    server = slot_server(handle, slots=slots)
    _, sock = call(server)
    handlers[0].kill()
    assert (slots.given_back, slots.open_descriptors, len(slots)) == ([0], [], 0)
    assert read_all(sock) == b""
    assert call(server)[0] == 0
    assert reports == []


def test_a_handler_that_raises_is_reported_and_the_server_goes_on(
    slot_server: Callable[..., SlotServer], call: Call, reports: list[BaseException]
) -> None:
    server = slot_server(raises)
    _, idle = call(server)
    slot, sock = call(server)
    sock.sendall(b"x")
    assert read_all(sock) == b""
    wait_until(lambda: reports)
    assert [type(report) for report in reports] == [ZeroDivisionError]
    assert call(server)[0] == slot == 1
    assert server.started
    idle.close()


def test_a_client_that_is_gone_before_its_slot_line_is_not_reported(
    closing: Callable[[Any], Any], call: Call, reports: list[BaseException]
) -> None:
    slots = WatchedSlots()
    served: list[int] = []

    def handle(slot: int, sock: Socket, address: Any) -> None:
        served.append(slot)
        wait_for_the_end(slot, sock, address)

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = closing(SlotServer(listener, handle, slots=slots))
    for _ in range(3):
        # The kernel accepts it; the server, not started yet, finds it reset.
        reset(socket.create_connection(listener.getsockname()))
    server.start()
    wait_until(lambda: len(slots.given_back) == 3)
    assert (len(slots), served, reports) == (0, [], [])
    assert call(server)[0] == 0
    assert served == [0]


def reads(sock: Socket) -> None:
    sock.recv(1)


def writes(sock: Socket) -> None:
    while True:
        sock.sendall(b"x")


def over_tcp() -> Any:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def over_unix() -> Any:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")  # Linux chooses an abstract name.
    listener.listen()
    return listener


@pytest.mark.parametrize(
    ("listen", "leave", "use", "failure"),
    [
        (over_tcp, reset, reads, ConnectionResetError),
        (over_tcp, reset, writes, ConnectionResetError),
        (over_tcp, Socket.close, writes, BrokenPipeError),
        (over_unix, Socket.close, writes, BrokenPipeError),
    ],
)
def test_a_client_that_is_gone_while_its_handler_runs_is_one_line_in_the_log(
    closing: Callable[[Any], Any],
    reports: list[BaseException],
    caplog: pytest.LogCaptureFixture,
    listen: Callable[[], Any],
    leave: Callable[[Socket], None],
    use: Callable[[Socket], None],
    failure: type[ConnectionError],
) -> None:
    caplog.set_level("DEBUG", "gevent_rover")
    left = Event()
    failed: list[type[BaseException]] = []

    def handle(slot: int, sock: Socket, address: Any) -> None:
        left.wait()
        try:
            use(sock)
        except BaseException as exc:
            failed.append(type(exc))
            raise

    listener = listen()
    server = closing(SlotServer(listener, handle, slots=Slots(offset=7)))
    server.start()
    sock = closing(socket.socket(listener.family))
    sock.connect(listener.getsockname())
    assert read_slot_line(sock) == 7
    leave(sock)
    left.set()
    wait_until(lambda: not server.slots)
    gevent.sleep(0)  # A report would come by now.
    assert (failed, reports) == ([failure], [])
    (line,) = caplog.records
    assert (line.name, line.levelname) == ("gevent_rover.server", "DEBUG")
    assert line.getMessage().startswith("slot 7: its client ")
    assert line.exc_info is None


def stays(sock: Socket) -> None:
    pass


def ends_its_direction(sock: Socket) -> None:
    sock.shutdown(socket.SHUT_WR)


def refused(sock: Socket) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # but it doesn't listen
        socket.create_connection(nobody.getsockname())


def reset_by_another(sock: Socket) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        ours.sendall(b"x")


@pytest.mark.parametrize("client", [stays, ends_its_direction])
@pytest.mark.parametrize(
    ("fail", "failure"),
    [(refused, ConnectionRefusedError), (reset_by_another, BrokenPipeError)],
)
def test_a_connection_error_of_the_handlers_own_is_reported_with_a_traceback(
    slot_server: Callable[..., SlotServer],
    call: Call,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    client: Callable[[Socket], None],
    fail: Callable[[Socket], None],
    failure: type[ConnectionError],
) -> None:
    caplog.set_level("DEBUG", "gevent_rover")
    goes_on = Event()

    def handle(slot: int, sock: Socket, address: Any) -> None:
        goes_on.wait()
        fail(sock)

    server = slot_server(handle)
    _, sock = call(server)
    client(sock)
    goes_on.set()
    assert read_all(sock) == b""
    said: list[str] = []

    def printed() -> bool:
        said.append(capsys.readouterr().err)
        return f"failed with {failure.__name__}" in "".join(said)

    wait_until(printed)
    assert "Traceback (most recent call last)" in "".join(said)
    assert f"in {fail.__name__}\n" in "".join(said)
    assert caplog.records == []
    assert call(server)[0] == 0


def test_a_greenlet_killed_before_it_began_leaves_no_socket_open(
    slot_server: Callable[..., SlotServer],
    dial: Callable[[SlotServer], Socket],
    no_leaks: None,
) -> None:
    kept: list[Any] = []

    def spawn(*args: Any) -> Greenlet[..., Any]:
        greenlet = Greenlet.spawn(*args)
        greenlet.kill(block=False)
        kept.append(args)  # or the socket would be closed as garbage
        return greenlet

    server = slot_server(spawn=spawn, slots=WatchedSlots())
    sock = dial(server)
    assert sock.recv(10) == b""
    sock.close()
    server.stop()
    assert len(kept) == 1
    assert len(server.slots) == 0


def test_what_cannot_be_spawned_is_closed_and_the_server_goes_on(
    slot_server: Callable[..., SlotServer],
    call: Call,
    dial: Callable[[SlotServer], Socket],
    reports: list[BaseException],
) -> None:
    kept: list[Any] = []

    def spawn(*args: Any) -> Greenlet[..., Any]:
        if not kept:
            kept.append(args)
            raise MemoryError
        return Greenlet.spawn(*args)

    server = slot_server(spawn=spawn)
    assert dial(server).recv(10) == b""
    assert [type(report) for report in reports] == [MemoryError]
    slot, sock = call(server)
    assert slot == 0
    sock.close()
    wait_until(lambda: len(server.slots) == 0)


def test_a_slot_goes_back_where_it_came_from(
    slot_server: Callable[..., SlotServer], call: Call
) -> None:
    server = slot_server()
    before = server.slots
    _, sock = call(server)
    server.slots = Slots(offset=10)
    assert call(server)[0] == 10
    sock.close()
    wait_until(lambda: len(before) == 0)
    assert len(server.slots) == 1


# Starting and stopping


def test_stop_tells_those_who_asked_before_anything_else_and_once(
    slot_server: Callable[..., SlotServer], call: Call
) -> None:
    server = slot_server()
    call(server)
    seen: list[tuple[str, bool, int]] = []
    server.on_stop.append(lambda: seen.append(("first", server.started, len(server.slots))))
    # One that changes the list leaves out none: the last is taken away for the next time.
    server.on_stop.append(server.on_stop.pop)
    server.on_stop.append(lambda: seen.append(("last", server.started, len(server.slots))))
    server.stop(timeout=0)
    assert seen == [("first", True, 1), ("last", True, 1)]
    server.stop(timeout=0)
    assert len(seen) == 2
    server.start()
    server.stop(timeout=0)
    assert seen[2:] == [("first", True, 0)]


def test_a_server_that_was_not_started_tells_nobody_that_it_stops() -> None:
    server = SlotServer(("127.0.0.1", 0), says_hello)
    server.on_stop.append(lambda: pytest.fail("told"))
    server.stop()


def test_what_is_told_of_a_stop_spoils_nothing(
    slot_server: Callable[..., SlotServer], reported: list[Any]
) -> None:
    server = slot_server()
    told: list[int] = []

    def spoil() -> None:
        raise LookupError

    server.on_stop += [spoil, lambda: told.append(1)]
    server.stop(timeout=0)
    assert told == [1]
    assert not server.started
    assert [(context, type(error)) for context, error in reported] == [(spoil, LookupError)]


def test_stop_lets_the_handlers_finish(slot_server: Callable[..., SlotServer], call: Call) -> None:
    go_on = Event()

    def handle(slot: int, sock: Socket, address: Any) -> None:
        go_on.wait()
        sock.sendall(b"finished")

    server = slot_server(handle)
    _, sock = call(server)
    stopping = gevent.spawn(server.stop, 30)
    wait_until(lambda: not server.started)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port_of(server)))
    assert not stopping.ready()
    go_on.set()
    assert read_all(sock) == b"finished"
    stopping.get(timeout=5)
    assert len(server.slots) == 0


def test_stop_kills_the_handlers_that_do_not_finish(
    slot_server: Callable[..., SlotServer], call: Call
) -> None:
    ends: list[BaseException] = []

    def handle(slot: int, sock: Socket, address: Any) -> None:
        try:
            gevent.sleep(60)
        except BaseException as exc:
            ends.append(exc)
            raise

    server = slot_server(handle)
    connections = [call(server)[1] for _ in range(3)]
    server.stop(timeout=0.01)
    assert [type(end) for end in ends] == 3 * [GreenletExit]
    assert len(server.slots) == 0
    for sock in connections:
        assert read_all(sock) == b""


def says_hello(slot: int, sock: Socket, address: Any) -> None:
    sock.sendall(b"hello")


@pytest.mark.parametrize(
    "make_spawn",
    [
        lambda: "default",
        lambda: None,
        lambda: 1,
        lambda: Pool(1),
        Pool,
        lambda: gevent.spawn,
        lambda: gevent.spawn_raw,
    ],
    ids=["default", "None", "1", "Pool(1)", "Pool()", "spawn", "spawn_raw"],
)
def test_a_stopped_server_starts_again_however_it_spawns(
    make_spawn: Callable[[], Any],
    slot_server: Callable[..., SlotServer],
    dial: Callable[[SlotServer], Socket],
) -> None:
    spawn = make_spawn()
    server = slot_server(says_hello, spawn=spawn)
    pool, port = server.pool, server.server_port
    assert (pool is None) == (not isinstance(spawn, (int, Pool)))
    for _ in range(3):
        for _ in range(3):
            assert read_all(dial(server)) == b"0\r\nhello"
        server.stop()
        assert server.closed
        assert not server.started
        server.start()
        assert server.started
        assert (server.pool, server.server_port) == (pool, port)
    assert read_all(dial(server)) == b"0\r\nhello"


@pytest.mark.parametrize("spawn", [None, "default", gevent.spawn_raw])
def test_slots_come_back_without_a_pool_too(
    spawn: Any,
    slot_server: Callable[..., SlotServer],
    dial: Callable[[SlotServer], Socket],
    reports: list[BaseException],
) -> None:
    def handle(slot: int, sock: Socket, address: Any) -> None:
        sock.sendall(b"oh")
        raise ZeroDivisionError

    server = slot_server(handle, spawn=spawn)
    for count in range(1, 4):
        assert read_all(dial(server)) == b"0\r\noh"
        wait_until(partial(holds, reports, count))
    assert {type(report) for report in reports} == {ZeroDivisionError}
    assert len(server.slots) == 0


def test_the_pool_is_in_force_after_every_start(
    slot_server: Callable[..., SlotServer], call: Call, dial: Callable[[SlotServer], Socket]
) -> None:
    server = slot_server(spawn=1)
    for _ in range(3):
        slot, first = call(server)
        assert slot == 0
        second = dial(server)
        second.settimeout(0.02)
        with pytest.raises(TimeoutError):
            second.recv(1)
        first.close()
        second.settimeout(5)
        assert read_slot_line(second) == 0
        server.stop(timeout=0.01)
        # The handler was killed: it ran in the pool.
        assert second.recv(1) == b""
        server.start()


def test_handlers_that_outlive_close_still_fill_the_pool(
    slot_server: Callable[..., SlotServer], call: Call, dial: Callable[[SlotServer], Socket]
) -> None:
    server = slot_server(spawn=1)
    _, first = call(server)
    server.close()
    server.start()
    second = dial(server)
    second.settimeout(0.02)
    with pytest.raises(TimeoutError):
        second.recv(1)
    first.close()
    second.settimeout(5)
    assert read_slot_line(second) == 0


def test_a_server_that_is_closed_while_a_handler_is_about_to_begin_serves_it(
    slot_server: Callable[..., SlotServer], dial: Callable[[SlotServer], Socket]
) -> None:
    servers: list[SlotServer] = []

    def spawn(*args: Any) -> Greenlet[..., Any]:
        greenlet = Greenlet.spawn(*args)
        servers[0].close()
        return greenlet

    servers.append(slot_server(says_hello, spawn=spawn))
    assert read_all(dial(servers[0])) == b"0\r\nhello"


def test_a_server_that_never_started_can_be_closed_and_started(
    closing: Callable[[Any], Any], call: Call, no_leaks: None
) -> None:
    server = closing(SlotServer(("127.0.0.1", 0), wait_for_the_end))
    server.close()
    server.stop()
    server.close()
    assert not server.started
    server.start()
    slot, sock = call(server)
    assert slot == 0
    sock.close()
    server.stop()


# gevent leaves the socket that it couldn't bind to the collector.
@pytest.mark.filterwarnings("ignore:.*socket object:pytest.PytestUnraisableExceptionWarning")
def test_a_server_that_cannot_bind_can_be_started_later(
    slot_server: Callable[..., SlotServer], closing: Callable[[Any], Any], call: Call
) -> None:
    first = slot_server()
    second = closing(SlotServer(("127.0.0.1", first.server_port), wait_for_the_end))
    with pytest.raises(OSError, match="already in use"):
        second.start()
    assert not second.started
    first.stop()
    second.start()
    assert call(second)[0] == 0


def test_starting_twice_changes_nothing(slot_server: Callable[..., SlotServer], call: Call) -> None:
    server = slot_server()
    port = server.server_port
    server.start()
    assert server.server_port == port
    assert [call(server)[0] for _ in range(2)] == [0, 1]


def test_a_unix_domain_socket_is_served_and_again_once_its_file_is_removed(
    tmp_path: Path, closing: Callable[[Any], Any]
) -> None:
    path = str(tmp_path / "slots")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    server = closing(SlotServer(listener, says_hello, slots=Slots(offset=4)))
    for _ in range(2):
        server.start()
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                assert read_all(sock) == b"4\r\nhello"
        server.stop()
        os.unlink(path)


def test_a_server_is_a_context_manager_that_stops_it() -> None:
    with SlotServer(("127.0.0.1", 0), says_hello) as server:
        server.start()
        assert server.started
    assert server.closed


# What is served, and how


@pytest.mark.parametrize("handle", [None, "handle", 3])
def test_what_cannot_be_called_is_refused(handle: Any) -> None:
    with pytest.raises(TypeError, match=f"handle must be callable, got {handle!r}"):
        SlotServer(("127.0.0.1", 0), handle)


def test_another_handler_serves_the_connections_that_follow(
    slot_server: Callable[..., SlotServer], call: Call, dial: Callable[[SlotServer], Socket]
) -> None:
    server = slot_server()
    _, sock = call(server)
    server.set_handle(says_hello)
    assert read_all(dial(server)) == b"1\r\nhello"
    sock.sendall(b"still served")
    assert len(server.slots) == 1
    with pytest.raises(TypeError):
        server.set_handle(None)  # type: ignore[arg-type]
    server.stop()
    server.start()
    assert read_all(dial(server)) == b"0\r\nhello"


def test_another_way_to_spawn_outlives_a_restart(
    slot_server: Callable[..., SlotServer], call: Call, dial: Callable[[SlotServer], Socket]
) -> None:
    server = slot_server()
    pool = Pool(1)
    server.set_spawn(pool)
    server.stop()
    server.start()
    assert server.pool is pool
    call(server)
    assert len(pool) == 1


def test_slots_that_are_free_are_not_taken_for_none(
    slot_server: Callable[..., SlotServer],
) -> None:
    slots = Slots(offset=3)
    assert len(slots) == 0
    assert slot_server(slots=slots).slots is slots
