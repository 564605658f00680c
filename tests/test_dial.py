"""One attempt over real sockets: what the server does → what must be published."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import (
    RESET,
    Event,
    Listener,
    attempt_of,
    entry,
    kill_at_every_switch,
    living_greenlets,
    names,
    open_descriptors,
    port_of,
    wait_until,
)
from gevent import get_hub, socket, subprocess
from gevent.event import Event as Flag
from gevent.monkey import get_original
from gevent.server import StreamServer
from hypothesis import given, settings
from hypothesis import strategies as st

import gevent_rover
from gevent_rover import ProtocolError, ResourceError, Rover, Server, SlotServer

Rovers = Callable[..., tuple[Rover, list[Event]]]
Servers = Callable[..., Server]

NINETEEN = b"9223372036854775807\r\n"


def read_all(sock: Listener) -> bytes:
    """Read to the end of the stream."""
    data = b""
    while chunk := sock.recv(1024):
        data += chunk
    return data


# The wire


def test_slot_173_arrives_with_its_socket(rover_of: Rovers, talker: Servers) -> None:
    def talk(sock: Listener) -> None:
        sock.sendall(b"173\r\n")
        sock.sendall(sock.recv(1024).upper())

    server = talker(talk)
    rover, events = rover_of({"a": server})
    record = attempt_of(rover, events)
    assert names(events) == ["connection", "attempt"]
    slot, sock = events[0][1]["slot"], events[0][1]["socket"]
    assert slot == 173
    assert slot.server_id == "a"
    assert slot.server is server
    assert record.outcome == "connection"
    assert record.slot is slot
    assert record.error is None
    sock.sendall(b"hello")
    assert read_all(sock) == b"HELLO"


def test_the_socket_is_gevents_in_default_blocking_mode_without_delay(
    rover_of: Rovers, slot_server: Callable[..., SlotServer]
) -> None:
    rover, events = rover_of({"a": entry(slot_server())})
    rover.connect()
    sock = events[0][1]["socket"]
    assert type(sock) is socket.socket
    assert sock.gettimeout() is None
    assert sock.type == socket.SOCK_STREAM
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("surplus", [b"", b"\r\n", b"7\r\nmore"])
@pytest.mark.parametrize("line", [b"0\r\n", b"173\r\n", NINETEEN])
def test_a_line_split_anywhere_leaves_all_that_follows_on_the_socket(
    rover_of: Rovers, talker: Servers, line: bytes, surplus: bytes
) -> None:
    stream = line + surplus
    splits = iter(range(1, len(stream)))

    def talk(sock: Listener) -> None:
        split = next(splits)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(stream[:split])
        gevent.sleep(0.002)
        sock.sendall(stream[split:])

    rover, events = rover_of({"a": talker(talk)})
    for _ in range(1, len(stream)):
        events.clear()
        assert attempt_of(rover, events).slot == int(line)
        assert read_all(events[0][1]["socket"]) == surplus


def test_a_line_in_any_pieces_leaves_all_that_follows_on_the_socket(
    rover_of: Rovers, talker: Servers
) -> None:
    pieces: list[bytes] = []

    def talk(sock: Listener) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
            gevent.sleep(0)

    rover, events = rover_of({"a": talker(talk)})

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, 10**19 - 1),
        st.binary(max_size=40),
        st.sets(st.integers(1, 60), max_size=8),
    )
    def check(slot: int, surplus: bytes, cuts: set[int]) -> None:
        stream = b"%d\r\n%s" % (slot, surplus)
        edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
        pieces[:] = [stream[a:b] for a, b in itertools.pairwise(edges)]
        events.clear()
        assert attempt_of(rover, events).slot == slot
        assert read_all(events[0][1]["socket"]) == surplus
        events[0][1]["socket"].close()

    check()


@pytest.mark.parametrize(
    "said",
    [
        b"foo\r\n",
        "١٣\r\n".encode(),
        b"1_3\r\n",
        b"+13\r\n",
        b" 13\r\n",
        b"-1\r\n",
        b"13\n",
        b"\r\n",
        b"13\r\r\n",
        b"1" * 20 + b"\r\n",
        b"\x00",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        b"S",
        b"1" * 100_000,
    ],
    ids=lambda said: repr(said[:12]),
)
def test_what_cannot_be_a_slot_line_is_an_error_at_once(
    rover_of: Rovers, says: Servers, said: bytes
) -> None:
    server = says(said)
    # Whoever waits for more than the first wrong byte waits for an hour.
    rover, events = rover_of({"a": server}, timeout=3600.0)
    with gevent.Timeout(10):
        record = attempt_of(rover, events)
    assert names(events) == ["error", "attempt"]
    failure = events[0][1]["error"]
    assert isinstance(failure, ProtocolError)
    assert (failure.id, failure.server) == ("a", server)
    assert record.outcome == "error"
    assert record.error is failure


def test_a_drip_is_cut_off_at_the_deadline(rover_of: Rovers, talker: Servers) -> None:
    def talk(sock: Listener) -> None:
        while True:
            sock.sendall(b"1")
            gevent.sleep(0.2)

    rover, events = rover_of({"a": talker(talk)}, timeout=0.5)
    # A deadline that every byte puts off would end with 20 digits: an error.
    record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    assert isinstance(record.error, TimeoutError)
    assert "within 0.5 s" in str(record.error)
    assert record.elapsed >= 0.49


def test_silence_is_unreachable_after_the_deadline(rover_of: Rovers, talker: Servers) -> None:
    server = talker()
    rover, events = rover_of({"a": server}, timeout=0.05)
    assert isinstance(attempt_of(rover, events).error, TimeoutError)
    assert events[0][0] == "unreachable"
    assert events[0][1] == {"id": "a", "server": server}
    assert events[0][1]["server"] is server


def test_the_deadline_counts_from_the_attempt_however_long_the_hub_was_busy(
    rover_of: Rovers, slot_server: Callable[..., SlotServer]
) -> None:
    rover, events = rover_of({"a": entry(slot_server())}, timeout=0.5)
    gevent.sleep(0)
    get_original("time", "sleep")(0.6)
    assert attempt_of(rover, events).outcome == "connection"


@pytest.mark.parametrize("said", [b"", b"1", b"173", b"173\r"])
def test_the_end_before_the_line_is_whole_is_unreachable(
    rover_of: Rovers, talker: Servers, said: bytes
) -> None:
    rover, events = rover_of({"a": talker(lambda sock: sock.sendall(said))})
    record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    assert "before the slot line was whole" in str(record.error)


@pytest.mark.parametrize("said", [b"", b"17"])
def test_a_reset_is_unreachable(rover_of: Rovers, talker: Servers, said: bytes) -> None:
    def talk(sock: Listener) -> None:
        sock.sendall(said)
        gevent.sleep(0.01)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    rover, events = rover_of({"a": talker(talk)})
    assert isinstance(attempt_of(rover, events).error, ConnectionResetError)
    assert names(events) == ["unreachable", "attempt"]


def test_a_refusal_is_unreachable(rover_of: Rovers, dead_server: Server) -> None:
    rover, events = rover_of({"a": dead_server})
    record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    assert isinstance(record.error, ConnectionRefusedError)
    assert record.error.__cause__ is None


@pytest.mark.parametrize(
    ("host", "tls"), [("127.0.0.1", False), ("0.0.0.0", False), ("127.0.0.1", True)]
)
def test_a_socket_connected_to_itself_is_unreachable_at_once(
    rover_of: Rovers, host: str, tls: bool
) -> None:
    # A dead port which is the next that the kernel will connect from. Ports to
    # one target ascend by small random steps: pass the target until it's hit.
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    port = (first + (last - first) // 4) // 2 * 2 + first % 2
    context = ssl.create_default_context() if tls else None
    rover, events = rover_of(timeout=1.0, ssl_context=context)
    for _ in range(300_000):
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.connect_ex((host, port))
            distance = port - sock.getsockname()[1]
        if distance == 0:
            port += 2  # This socket hit it itself.
        elif 0 < distance < 100:
            events.clear()
            rover.servers["a"] = {"host": host, "port": port}
            record = attempt_of(rover, events)
            assert names(events) == ["unreachable", "attempt"]
            assert isinstance(record.error, ConnectionRefusedError)
            if "itself" in str(record.error):
                return
    pytest.fail("no socket connected to itself")


def test_a_slot_line_that_came_in_time_counts_though_the_hub_was_busy(
    rover_of: Rovers, closing: Callable[[Any], Any]
) -> None:
    listener = closing(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    rover, events = rover_of(timeout=0.2)
    rover.servers["a"] = {"host": "127.0.0.1", "port": listener.getsockname()[1]}
    attempt = gevent.spawn(rover.connect)
    connected, _ = listener.accept()
    closing(connected).sendall(b"5\r\n")
    get_original("time", "sleep")(0.4)
    attempt.join()
    assert names(events) == ["connection", "attempt"]
    assert events[0][1]["slot"] == 5


def test_a_callers_timeout_is_not_the_attempts(
    no_leaks: None, rover_of: Rovers, talker: Servers
) -> None:
    rover, events = rover_of({"a": talker()})
    for raised in (gevent.Timeout(0.05), gevent.Timeout(0.05, ConnectionResetError("not ours"))):
        with pytest.raises((gevent.Timeout, ConnectionResetError)), raised:
            rover.connect()
    assert events == []
    assert rover.pending == 0


def test_a_switch_of_somebody_elses_does_not_end_a_call(rover_of: Rovers, talker: Servers) -> None:
    gate = Flag()

    def talk(sock: Listener) -> None:
        gate.wait()
        sock.sendall(b"5\r\n")
        sock.recv(1)

    rover, events = rover_of({"a": talker(talk)})
    call = gevent.spawn(rover.connect)
    wait_until(lambda: rover.pending)
    for value in (None, 5):
        get_hub().loop.run_callback(call.switch, value)
    gevent.sleep(0.01)
    assert not call.dead
    gate.set()
    call.join()
    assert names(events) == ["connection", "attempt"]


# Unix sockets


@pytest.fixture
def unix_server(closing: Callable[[Any], Any]) -> Callable[[str], Server]:
    """Give a function that starts a server which says slot 4 at a Unix socket's path."""

    def unix_server(path: str) -> Server:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        closing(StreamServer(sock, lambda sock, address: sock.sendall(b"4\r\nmore"))).start()
        return {"path": path}

    return unix_server


@pytest.mark.parametrize("abstract", [False, True])
def test_a_unix_socket_gives_a_slot(
    rover_of: Rovers, unix_server: Callable[[str], Server], tmp_path: Path, abstract: bool
) -> None:
    path = f"\0gevent-rover-{os.getpid()}" if abstract else str(tmp_path / "socket")
    rover, events = rover_of({"a": unix_server(path)})
    assert attempt_of(rover, events).slot == 4
    assert events[0][1]["socket"].family == socket.AF_UNIX
    assert read_all(events[0][1]["socket"]) == b"more"


def test_a_path_where_nothing_is_is_unreachable(rover_of: Rovers, tmp_path: Path) -> None:
    rover, events = rover_of({"a": {"path": str(tmp_path / "missing")}})
    assert isinstance(attempt_of(rover, events).error, FileNotFoundError)
    assert names(events) == ["unreachable", "attempt"]


def test_a_unix_socket_with_a_full_backlog_is_unreachable_at_once(
    rover_of: Rovers, closing: Callable[[Any], Any], tmp_path: Path
) -> None:
    path = str(tmp_path / "socket")
    listener = closing(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen(1)
    for _ in range(10):
        sock = closing(socket.socket(socket.AF_UNIX))
        sock.setblocking(False)
        if sock.connect_ex(path) == errno.EAGAIN:
            break
    rover, events = rover_of({"a": {"path": path}}, timeout=3600.0)
    with gevent.Timeout(10):
        record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    assert isinstance(record.error, OSError)
    assert record.error.errno == errno.EAGAIN


# Names


class Resolver:
    """A resolver of the test's own: it knows one name, and answers when it's let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers = Flag()
        self.answers.set()
        self.failure: Exception | None = None

    def getaddrinfo(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        self.asked.append(host)
        self.answers.wait()
        if self.failure is not None:
            raise self.failure
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    def close(self) -> None:
        pass


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """Set a resolver of the test's own for this hub."""
    resolver = Resolver()
    monkeypatch.setattr(get_hub(), "resolver", resolver)
    yield resolver
    resolver.answers.set()
    gevent.sleep(0)


def test_a_lookup_killed_by_somebody_else_ends_its_attempt_and_nothing_more(
    rover_of: Rovers, talker: Servers, resolver: Resolver
) -> None:
    port = talker(lambda sock: sock.sendall(b"5\r\n"))["port"]
    rover, events = rover_of({"a": {"host": "some.test", "port": port}}, roving_interval=3600)
    resolver.answers.clear()
    before = living_greenlets()
    call = gevent.spawn(rover.connect)
    rover.start()
    wait_until(lambda: rover.pending == 2 and resolver.asked)
    loop = rover._loop.greenlet
    gevent.killall([g for g in living_greenlets() - before if g is not call and g is not loop])
    wait_until(lambda: rover.pending == 0)
    assert isinstance(call.get(), gevent.GreenletExit)
    assert events == []
    resolver.answers.set()
    rover.wake()
    wait_until(lambda: len(events) == 2)
    assert names(events) == ["connection", "attempt"]


def server_on(closing: Callable[[Any], Any], host: str) -> Server:
    """Start a slot server on ``host``, a literal address."""
    try:
        server = closing(SlotServer((host, 0), lambda slot, sock, address: sock.recv(1)))
        server.start()
    except OSError as exc:
        pytest.skip(f"no {host} here: {exc}")
    return {"host": host, "port": port_of(server)}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_literal_address_never_goes_through_the_resolver(
    rover_of: Rovers, closing: Callable[[Any], Any], resolver: Resolver, host: str
) -> None:
    rover, events = rover_of({"a": server_on(closing, host)})
    assert attempt_of(rover, events).outcome == "connection"
    assert events[0][1]["socket"].getpeername()[0] == host
    assert resolver.asked == []


def test_a_literal_address_in_short_form_is_one_too(
    rover_of: Rovers, slot_server: Callable[..., SlotServer], resolver: Resolver
) -> None:
    rover, events = rover_of({"a": {"host": "127.1", "port": port_of(slot_server())}})
    assert attempt_of(rover, events).outcome == "connection"
    assert resolver.asked == []


def test_a_literal_address_with_an_unknown_scope_is_unreachable(
    rover_of: Rovers, resolver: Resolver
) -> None:
    rover, events = rover_of({"a": {"host": "fe80::1%nosuch0", "port": 1}})
    assert attempt_of(rover, events).outcome == "unreachable"
    assert resolver.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_literal_addresses_connect_while_the_resolvers_threads_are_all_busy(
    rover_of: Rovers, closing: Callable[[Any], Any], host: str
) -> None:
    rover, events = rover_of({"a": server_on(closing, host)})
    pool = get_hub().threadpool
    # Patched, they would wait for the hub.
    read, close = get_original("os", "read"), get_original("os", "close")
    reading, writing = os.pipe()
    try:
        tasks = [pool.spawn(read, reading, 1) for _ in range(pool.maxsize)]
        try:
            with gevent.Timeout(10):
                assert attempt_of(rover, events).outcome == "connection"
            assert not any(task.ready() for task in tasks)
        finally:
            close(writing)
            wait_until(lambda: all(task.ready() for task in tasks))
    finally:
        close(reading)


def test_a_name_goes_through_the_resolver(
    rover_of: Rovers, slot_server: Callable[..., SlotServer], resolver: Resolver
) -> None:
    rover, events = rover_of({"a": {"host": "some.test", "port": port_of(slot_server())}})
    assert attempt_of(rover, events).outcome == "connection"
    assert resolver.asked == ["some.test"]


def test_localhost_is_a_name(rover_of: Rovers, closing: Callable[[Any], Any]) -> None:
    address = socket.getaddrinfo("localhost", 0, 0, socket.SOCK_STREAM)[0][4][0]
    server = server_on(closing, str(address))
    rover, events = rover_of({"a": {"host": "localhost", "port": server["port"]}})
    assert attempt_of(rover, events).outcome == "connection"


def test_a_name_that_does_not_resolve_is_unreachable(rover_of: Rovers) -> None:
    rover, events = rover_of({"a": {"host": "nosuch.invalid", "port": 80}}, timeout=2.0)
    assert attempt_of(rover, events).outcome == "unreachable"
    assert names(events) == ["unreachable", "attempt"]


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown name"), "unreachable"),
        (socket.gaierror(socket.EAI_MEMORY, "no memory"), "error"),
        (OSError(errno.EMFILE, "too many open files"), "error"),
        (UnicodeError("no such label"), "error"),
    ],
    ids=repr,
)
def test_a_resolvers_failure_is_the_servers_or_ours(
    rover_of: Rovers, resolver: Resolver, failure: Exception, outcome: str
) -> None:
    resolver.failure = failure
    rover, events = rover_of({"a": {"host": "some.test", "port": 80}})
    record = attempt_of(rover, events)
    assert record.outcome == outcome
    assert record.error is not None
    if outcome == "error":
        assert record.error.__cause__ is failure
    else:
        assert record.error is failure
        assert failure.__cause__ is None


def test_attempts_on_one_name_share_a_lookup(
    rover_of: Rovers, slot_server: Callable[..., SlotServer], resolver: Resolver
) -> None:
    resolver.answers.clear()
    one, two = slot_server(), slot_server()
    rover, events = rover_of()
    calls = []
    for server in (one, two, one):
        rover.servers["a"] = {"host": "some.test", "port": port_of(server)}
        calls.append(gevent.spawn(rover.connect))
        gevent.sleep(0)
    resolver.answers.set()
    gevent.joinall(calls)
    assert resolver.asked == ["some.test"]
    # The port isn't shared: the second attempt's entry was replaced meanwhile.
    outcomes = [keywords["attempt"].outcome for name, keywords in events if name == "attempt"]
    assert sorted(outcomes) == ["connection", "connection", "discarded"]
    assert attempt_of(rover, events).outcome == "connection"
    assert resolver.asked == ["some.test"] * 2


def test_abandoned_lookups_do_not_pile_up(
    rover_of: Rovers, slot_server: Callable[..., SlotServer], resolver: Resolver
) -> None:
    resolver.answers.clear()
    server: Server = {"host": "some.test", "port": port_of(slot_server())}
    rover, events = rover_of({"a": server}, timeout=0.01)
    for _ in range(20):
        assert attempt_of(rover, events).outcome == "unreachable"
    assert resolver.asked == ["some.test"]
    resolver.answers.set()
    rover.timeout = 5.0
    assert attempt_of(rover, events).outcome == "connection"


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize("switches", range(6))
def test_stop_ends_an_attempt_whose_lookup_ends_at_that_moment(
    no_leaks: None,
    rover_of: Rovers,
    resolver: Resolver,
    talker: Servers,
    switches: int,
    found: bool,
) -> None:
    resolver.answers.clear()
    if not found:
        resolver.failure = socket.gaierror(socket.EAI_NONAME, "unknown name")
    server: Server = {"host": "some.test", "port": talker()["port"]}
    rover, events = rover_of({"a": server}, roving_interval=3600.0)
    rover.start()
    wait_until(lambda: resolver.asked)
    resolver.answers.set()
    # At one of these, the lookup wakes the attempt before the kill reaches it.
    for _ in range(switches):
        gevent.sleep(0)
    rover.stop()
    assert rover.pending == 0
    published = len(events)
    for _ in range(10):
        gevent.sleep(0)
    assert len(events) == published


# What is ours


@contextmanager
def out_of_descriptors() -> Iterator[None]:
    """Leave this process not one descriptor to open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 2, hard))
    taken: list[int] = []
    try:
        try:
            while True:
                taken.append(os.dup(0))
        except OSError as exc:
            if exc.errno != errno.EMFILE:
                raise
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_descriptors_is_an_error_of_ours(
    rover_of: Rovers, slot_server: Callable[..., SlotServer]
) -> None:
    server = entry(slot_server())
    rover, events = rover_of({"a": server})
    with out_of_descriptors():
        record = attempt_of(rover, events)
    assert names(events) == ["error", "attempt"]
    failure = events[0][1]["error"]
    assert isinstance(failure, ResourceError)
    assert (failure.id, failure.server) == ("a", server)
    assert isinstance(failure.__cause__, OSError)
    assert failure.__cause__.errno == errno.EMFILE
    assert "descriptors" in str(failure)
    assert record.error is failure
    assert attempt_of(rover, events).outcome == "connection"


def test_the_loop_recovers_from_being_out_of_descriptors(
    rover_of: Rovers, slot_server: Callable[..., SlotServer]
) -> None:
    rover, events = rover_of({"a": entry(slot_server())}, roving_interval=0.01)
    with out_of_descriptors():
        rover.start()
        wait_until(lambda: names(events).count("error") >= 3)
        assert set(names(events)) == {"error", "attempt"}
    wait_until(lambda: "connection" in names(events))
    assert "unreachable" not in names(events)


# A network of its own, where there is one port to connect from.
ONE_PORT = """
import ctypes, errno, fcntl, os, socket, struct, sys

unshare = ctypes.CDLL(None, use_errno=True).unshare
NEWUSER, NEWNET = 0x10000000, 0x40000000
if unshare(NEWNET) and unshare(NEWUSER | NEWNET):
    sys.exit(77)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    SIOCSIFFLAGS, IFF_UP = 0x8914, 1
    fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
try:
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
        file.write("40000 40000")
except OSError:
    sys.exit(77)

from gevent_rover import Rover, SlotServer


def wait(slot, sock, address):
    try:
        sock.recv(1)
    except ConnectionResetError:
        pass


server = SlotServer(("127.0.0.1", 30000), wait)
server.start()
rover = Rover({"a": {"host": "127.0.0.1", "port": 30000}})
sockets, attempts = [], []
rover.on("connection", lambda sender, slot, socket: sockets.append(socket))
rover.on("error", lambda sender, error: None)
rover.on("attempt", lambda sender, attempt: attempts.append(attempt))
rover.connect()
rover.connect()
sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
sockets[0].close()
rover.connect()
sockets[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
sockets[1].close()
rover.servers["a"] = {"host": "127.0.0.1", "port": 40000}
rover.connect()
for attempt in attempts:
    cause = attempt.error and attempt.error.__cause__
    number = errno.errorcode[cause.errno] if cause else ""
    print(attempt.outcome, type(attempt.error).__name__, number)
server.stop()
"""


def test_out_of_local_ports_is_an_error_of_ours() -> None:
    root = Path(gevent_rover.__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", ONE_PORT],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if run.returncode == 77:
        pytest.skip("needs a network namespace")
    assert run.stderr == ""
    assert run.stdout.splitlines() == [
        "connection NoneType ",
        "error ResourceError EADDRNOTAVAIL",
        "connection NoneType ",
        "unreachable ConnectionRefusedError ",
    ]


# Kills


def test_an_attempt_killed_at_any_switch_leaves_no_descriptor(
    no_leaks: None, rover_of: Rovers, talker: Servers, resolver: Resolver
) -> None:
    def talk(sock: Listener) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (b"1", b"7", b"3", b"\r", b"\n"):
            sock.sendall(piece)
            gevent.sleep(0.002)
        sock.recv(1)

    rover, events = rover_of({"a": {"host": "some.test", "port": talker(talk)["port"]}})
    killed = kill_at_every_switch(rover, events)
    # Before it began, in the lookup, in the connect, between two bytes.
    assert killed >= 4
    assert names(events) == ["connection", "attempt"]


def test_a_callers_timeout_passes_through_an_attempt(
    no_leaks: None, rover_of: Rovers, talker: Servers
) -> None:
    rover, events = rover_of({"a": talker()})
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.05) as timeout:
        rover.connect()
    assert caught.value is timeout
    assert events == []
    assert rover.pending == 0
