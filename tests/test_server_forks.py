"""A process that serves is forked: the child accepts nothing, and cuts nothing off."""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import traceback
from collections.abc import Callable
from typing import Any

import gevent
import pytest
import trustme
from certificates import client_context, server_context
from conftest import port_of, wait_until
from gevent import socket
from gevent.event import Event
from gevent.monkey import get_original
from gevent.os import fork as gevent_fork
from gevent.subprocess import PIPE, Popen

from gevent_rover import SlotServer
from gevent_rover.net.sockets import raw_of

pytestmark = pytest.mark.usefixtures("no_leaks")

Socket = socket.socket
SlotServers = Callable[..., SlotServer]

# A fork in C runs none of Python's hooks.
_fork_in_c: Callable[[], int] = ctypes.PyDLL(None).fork

forks = pytest.mark.parametrize("fork", [gevent_fork, os.fork], ids=["gevent", "os"])

# Patched, they wait for the hub; here the whole process must wait.
_read, _write = get_original("os", "read"), get_original("os", "write")
_close, _waitpid = get_original("os", "close"), get_original("os", "waitpid")


class Child:
    """A forked child that runs ``tell(child)``; what that returns is told to the parent.

    Its parent's hub stands still whenever the parent waits for it.
    """

    def __init__(self, fork: Callable[[], int], tell: Callable[[Child], Any]) -> None:
        to_parent, to_child = os.pipe(), os.pipe()
        self.pid = fork()
        self._reader, self._writer = to_parent[0], to_child[1]
        if not self.pid:
            try:
                self._reader, self._writer = to_child[0], to_parent[1]
                _close(to_parent[0])
                _close(to_child[1])
                try:
                    self.say(tell(self))
                except BaseException:
                    self.say(traceback.format_exc())
            finally:
                os._exit(0)
        _close(to_parent[1])
        _close(to_child[0])

    def say(self, told: Any) -> None:
        """Tell the other process something."""
        _write(self._writer, json.dumps(told).encode() + b"\n")

    def hear(self) -> Any:
        """Return what the other process says next; None if it has ended."""
        said = b""
        while not said.endswith(b"\n"):
            byte = _read(self._reader, 1)
            if not byte:
                return None
            said += byte
        return json.loads(said)

    def run_hub_until_the_end(self) -> None:
        """Run the hub, in the child, until the parent calls :meth:`end`."""
        socket.wait_read(self._reader, timeout=30)

    def lives(self) -> bool:
        """Tell whether the child hasn't ended yet."""
        return bool(_waitpid(self.pid, os.WNOHANG) == (0, 0))

    def end(self) -> Any:
        """Let the child end, wait until it has, and return what it said last."""
        _close(self._writer)
        last = self.hear()
        _close(self._reader)
        assert _waitpid(self.pid, 0) == (self.pid, 0)
        return last


def in_child(fork: Callable[[], int], tell: Callable[[], Any]) -> Any:
    """Fork, run ``tell`` in the child, and return what it returned there."""
    return Child(fork, lambda child: tell()).end()


def run_hub() -> None:
    """Give the hub time to do all that it has to do."""
    for _ in range(10):
        gevent.sleep(0.005)


def read_line(sock: Socket) -> str:
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        assert byte, f"the connection ended after {line!r}"
        line += byte
    return line.decode().rstrip("\r\n")


def echo(slot: int, sock: Socket, address: Any) -> None:
    while data := sock.recv(1024):
        sock.sendall(data)


def assert_echoes(sock: Socket) -> None:
    sock.sendall(b"still here\n")
    assert read_line(sock) == "still here"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["plain", "tls"])
def security(request: Any, authority: trustme.CA) -> dict[str, Any]:
    """Give the options of a server, once without TLS and once with it."""
    if request.param == "plain":
        return {}
    return {"ssl_context": server_context(authority.issue_cert("127.0.0.1"))}


@pytest.fixture
def dial(authority: trustme.CA, closing: Callable[[Any], Any]) -> Callable[[SlotServer], Any]:
    """Give a function that connects to a server, with TLS if it speaks that."""

    def dial(server: SlotServer) -> Any:
        sock = closing(socket.create_connection(("127.0.0.1", port_of(server)), timeout=5))
        if server.ssl_enabled:
            context = client_context(authority)
            sock = closing(context.wrap_socket(sock, server_hostname="127.0.0.1"))
        return sock

    return dial


@pytest.fixture
def call(dial: Callable[[SlotServer], Any]) -> Callable[[SlotServer], tuple[int, Any]]:
    """Give a function that connects to a server and reads the slot line."""

    def call(server: SlotServer) -> tuple[int, Any]:
        sock = dial(server)
        return int(read_line(sock)), sock

    return call


Call = Callable[[SlotServer], tuple[int, Any]]


# The end of a connection, while another process has a copy of it


class Forked:
    """A helper that was forked without a word to Python: it has copies of all there is."""

    def __init__(self, sock: Socket) -> None:
        # It waits for the end of the pipe, and touches nothing.
        self._child = Child(_fork_in_c, Child.hear)

    def lives(self) -> bool:
        return self._child.lives()

    def close(self) -> None:
        self._child.end()


class Executed:
    """A helper, another program, that was given the connection on purpose."""

    def __init__(self, sock: Socket) -> None:
        self._process: Any = Popen(["cat"], stdin=PIPE, pass_fds=[sock.fileno()])

    def lives(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(params=[Forked, Executed])
def helper(request: Any, closing: Callable[[Any], Any]) -> Callable[[Socket], Any]:
    """Give a function that has another process hold a copy of a connection."""
    return lambda sock: closing(request.param(sock))


@pytest.mark.parametrize("ending", ["returns", "raises", "is killed", "stop"])
def test_the_client_sees_the_end_though_another_process_has_a_copy(
    slot_server: SlotServers,
    call: Call,
    helper: Callable[[Socket], Any],
    security: dict[str, Any],
    reported: Any,
    ending: str,
) -> None:
    goes_on = Event()
    serving: list[Any] = []

    def handle(slot: int, sock: Socket, address: Any) -> None:
        serving[:] = [gevent.getcurrent(), sock]
        goes_on.wait()
        if ending == "raises":
            raise LookupError

    server = slot_server(handle, **security)
    slot, sock = call(server)
    wait_until(lambda: serving)
    greenlet, theirs = serving
    other = helper(theirs)
    if ending == "stop":
        server.stop(timeout=0)
    elif ending == "is killed":
        greenlet.kill()
    else:
        goes_on.set()
    assert sock.recv(1) == b""
    # By now the slot is free.
    assert (slot, len(server.slots)) == (0, 0)
    if server.started:
        goes_on.clear()
        assert call(server)[0] == 0
    assert other.lives()
    assert len(reported) == (ending == "raises")
    serving.clear()


def test_a_handshake_ends_though_another_process_has_a_copy(
    slot_server: SlotServers, closing: Callable[[Any], Any], authority: trustme.CA
) -> None:
    server = slot_server(ssl_context=server_context(authority.issue_cert("127.0.0.1")))
    silent = closing(socket.create_connection(("127.0.0.1", port_of(server)), timeout=5))
    wait_until(lambda: len(server._handshakes) == 1)
    run_hub()
    other = closing(Forked(silent))
    server.stop(timeout=0)
    assert silent.recv(1) == b""
    assert other.lives()


# The child's copies


def does_nothing(server: SlotServer) -> None:
    pass


def stops(server: SlotServer) -> None:
    server.stop(timeout=0)


def closes(server: SlotServer) -> None:
    server.close()
    server.stop()


def runs_its_hub(server: SlotServer) -> None:
    run_hub()


def starts_and_stops(server: SlotServer) -> None:
    with pytest.raises(OSError, match="in use"):
        server.start()
    server.stop()


@pytest.mark.parametrize("act", [does_nothing, stops, closes, runs_its_hub, starts_and_stops])
@forks
def test_the_childs_copies_close_and_the_parents_clients_notice_nothing(
    slot_server: SlotServers,
    call: Call,
    security: dict[str, Any],
    fork: Callable[[], int],
    act: Callable[[SlotServer], None],
) -> None:
    theirs: list[Socket] = []

    def handle(slot: int, sock: Socket, address: Any) -> None:
        theirs.append(sock)
        echo(slot, sock, address)

    server = slot_server(handle, **security)
    clients = [call(server)[1] for _ in range(3)]
    wait_until(lambda: len(theirs) == 3)

    def tell() -> Any:
        act(server)
        return [[sock.fileno() for sock in theirs], server.started, len(server.slots)]

    assert in_child(fork, tell) == [[-1, -1, -1], False, 0]
    for sock in clients:
        assert_echoes(sock)
    assert (server.started, len(server.slots)) == (True, 3)
    assert call(server)[0] == 3
    theirs.clear()


def test_a_child_forked_in_c_that_stops_the_server_cuts_nothing_off(
    slot_server: SlotServers, call: Call, security: dict[str, Any]
) -> None:
    server = slot_server(echo, **security)
    _, sock = call(server)

    def tell() -> Any:
        server.stop(timeout=0)
        return server.started

    assert in_child(_fork_in_c, tell) is False
    assert_echoes(sock)
    assert call(server)[0] == 1


@forks
def test_a_handler_does_not_go_on_in_the_child(
    slot_server: SlotServers, call: Call, fork: Callable[[], int]
) -> None:
    goes_on = Event()
    went_on: list[int] = []

    def handle(slot: int, sock: Socket, address: Any) -> None:
        goes_on.wait()
        went_on.append(slot)
        sock.sendall(b"done\n")

    server = slot_server(handle)
    _, sock = call(server)

    def tell() -> Any:
        goes_on.set()
        run_hub()
        return went_on

    assert in_child(fork, tell) == []
    goes_on.set()
    assert read_line(sock) == "done"
    assert went_on == [0]


@forks
def test_nothing_is_reported_in_the_child(
    slot_server: SlotServers,
    call: Call,
    security: dict[str, Any],
    fork: Callable[[], int],
    reported: Any,
) -> None:
    failed: list[str] = []

    def handle(slot: int, sock: Socket, address: Any) -> None:
        try:
            echo(slot, sock, address)
        except Exception as exc:
            failed.append(repr(exc))
            raise

    server = slot_server(handle, **security)
    _, sock = call(server)

    def tell() -> Any:
        run_hub()
        return [failed, [repr(value) for _, value in reported]]

    assert in_child(fork, tell) == [[], []]
    assert_echoes(sock)


@forks
def test_a_handshake_goes_on_in_the_parent_alone(
    slot_server: SlotServers,
    closing: Callable[[Any], Any],
    authority: trustme.CA,
    fork: Callable[[], int],
) -> None:
    server = slot_server(echo, ssl_context=server_context(authority.issue_cert("127.0.0.1")))
    raw = closing(socket.create_connection(("127.0.0.1", port_of(server)), timeout=5))
    wait_until(lambda: len(server._handshakes) == 1)
    run_hub()
    sock = closing(
        client_context(authority).wrap_socket(
            raw, server_hostname="127.0.0.1", do_handshake_on_connect=False
        )
    )
    # The hello is sent, and the parent's hub doesn't run before the child's.
    sock.settimeout(0)
    with pytest.raises(OSError):  # noqa: PT011  # "would block", in TLS' own words
        sock.do_handshake()

    def tell() -> Any:
        run_hub()
        return len(server._handshakes)

    assert in_child(fork, tell) == 0
    sock.settimeout(5)
    sock.do_handshake()
    assert read_line(sock) == "0"
    assert_echoes(sock)


# Who accepts


@pytest.fixture
def listener(closing: Callable[[Any], Any]) -> Socket:
    """Give a socket that listens, to be passed in."""
    sock = closing(socket.socket())
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    assert isinstance(sock, Socket)
    return sock


def says_who(slot: int, sock: Socket, address: Any) -> None:
    sock.sendall(b"%d\n" % os.getpid())
    echo(slot, sock, address)


@pytest.fixture(params=["address", "listener"])
def server(request: Any, closing: Callable[[Any], Any]) -> SlotServer:
    """Give a server that says which process serves, started on an address or a listener."""
    where: Any = ("127.0.0.1", 0)
    if request.param == "listener":
        where = request.getfixturevalue("listener")
    server = closing(SlotServer(where, says_who))
    assert isinstance(server, SlotServer)
    server.stop_timeout = 0.0
    server.start()
    return server


def connect_without_the_hub(server: SlotServer) -> Any:
    """Connect as far as the kernel goes: this process's hub doesn't run, so it accepts nothing."""
    sock = socket.socket()
    # A connection to loopback is there when connect() returns.
    raw = raw_of(sock)
    raw.setblocking(True)
    raw.connect(("127.0.0.1", port_of(server)))
    raw.setblocking(False)
    sock.settimeout(5)
    return sock


@forks
def test_a_child_that_runs_its_hub_accepts_nothing(
    server: SlotServer, call: Call, closing: Callable[[Any], Any], fork: Callable[[], int]
) -> None:
    held = [call(server) for _ in range(3)]
    waiting: list[Any] = []

    def tell(child: Child) -> Any:
        assert child.hear() == "they wait"
        run_hub()
        child.say([server.started, len(server.slots)])
        child.run_hub_until_the_end()  # And so does the parent's.
        return [server.started, len(server.slots)]

    child = Child(fork, tell)
    try:
        waiting.extend(closing(connect_without_the_hub(server)) for _ in range(3))
        child.say("they wait")
        assert child.hear() == [False, 0]  # Meanwhile only the child's hub ran.
        served = held + [(int(read_line(sock)), sock) for sock in waiting]
        served += [call(server) for _ in range(20)]
    finally:
        assert child.end() == [False, 0]
    assert [slot for slot, _ in served] == list(range(26))
    assert {int(read_line(sock)) for _, sock in served} == {os.getpid()}
    assert len(server.slots) == 26


def serve_itself(server: SlotServer, sock: Any) -> list[Any]:
    """Return what a connection to this process's server says, if that's this process."""
    slot, pid = int(read_line(sock)), int(read_line(sock))
    assert_echoes(sock)
    return [slot, pid == os.getpid(), server.started, len(server.slots)]


@forks
def test_start_in_the_child_serves_on_the_listener_that_was_passed_in(
    listener: Socket, call: Call, closing: Callable[[Any], Any], fork: Callable[[], int]
) -> None:
    server = closing(SlotServer(listener, says_who))
    server.stop_timeout = 0.0
    server.start()
    held = [call(server)[1] for _ in range(2)]

    def tell() -> Any:
        server.start()
        told = serve_itself(server, connect_without_the_hub(server))
        server.stop()
        return [*told, server.started, len(server.slots)]

    # Its slots are its own: the parent has slot 0, too.
    assert in_child(fork, tell) == [0, True, True, 1, False, 0]
    slot, sock = call(server)
    assert (slot, int(read_line(sock))) == (2, os.getpid())
    for sock in held:
        assert int(read_line(sock)) == os.getpid()
        assert_echoes(sock)


@forks
def test_start_in_the_child_works_on_an_address_once_the_parent_has_let_go_of_it(
    slot_server: SlotServers, call: Call, fork: Callable[[], int]
) -> None:
    server = slot_server(says_who)
    _, sock = call(server)
    port = port_of(server)

    def tell(child: Child) -> Any:
        try:
            server.start()
            child.say("it listens")
        except OSError as exc:
            child.say(exc.errno)
        assert child.hear() == "let go of it"
        server.start()
        return [*serve_itself(server, connect_without_the_hub(server)), port_of(server)]

    child = Child(fork, tell)
    try:
        assert child.hear() == errno.EADDRINUSE
        assert int(read_line(sock)) == os.getpid()
        assert_echoes(sock)
        assert call(server)[0] == 1
        server.stop()
        child.say("let go of it")
        told = child.hear()
    finally:
        child.end()
    assert told == [0, True, True, 1, port]
    server.start()
    assert call(server)[0] == 0


def test_a_fork_in_c_is_noticed_before_the_server_says_that_it_is_started(
    slot_server: SlotServers, call: Call
) -> None:
    server = slot_server(echo)
    _, sock = call(server)

    def tell() -> Any:
        with pytest.raises(OSError, match="in use"):
            server.start()
        return server.started

    assert in_child(_fork_in_c, lambda: server.started) is False
    assert in_child(_fork_in_c, tell) is False
    assert_echoes(sock)


def test_a_child_forked_in_c_that_runs_its_hub_accepts_nothing(
    slot_server: SlotServers, closing: Callable[[Any], Any], reported: Any
) -> None:
    server = slot_server(echo)

    def tell() -> Any:
        sock = connect_without_the_hub(server)
        run_hub()
        return [server.started, [repr(value) for _, value in reported], sock.fileno() > 0]

    sock = closing(connect_without_the_hub(server))
    assert in_child(_fork_in_c, tell) == [False, [], True]
    assert read_line(sock) == "0"
    assert_echoes(sock)


# The listener, while another process has a copy of it


def test_a_server_that_stops_is_not_connected_to_though_another_process_has_its_listener(
    slot_server: SlotServers, call: Call, closing: Callable[[Any], Any]
) -> None:
    server = slot_server(echo)
    port = port_of(server)
    other = closing(Forked(server.socket))
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    server.start()
    assert port_of(server) == port
    assert call(server)[0] == 0
    assert other.lives()


def test_a_listener_that_was_passed_in_goes_on_in_other_processes(
    listener: Socket, closing: Callable[[Any], Any]
) -> None:
    server = closing(SlotServer(listener.dup(), echo))
    server.start()
    server.stop()
    there = closing(socket.create_connection(listener.getsockname()))
    here, _ = listener.accept()
    closing(here)
    there.sendall(b"x")
    assert here.recv(1) == b"x"


# Programs that a handler starts


@pytest.mark.parametrize("module", ["subprocess", "gevent.subprocess"])
def test_a_program_can_be_given_the_connection(
    slot_server: SlotServers, call: Call, module: str
) -> None:
    run: Any = importlib.import_module(module).run
    # With a preexec_fn the standard library's runs Python's hooks, too.
    options: list[dict[str, Any]] = [{}, {"preexec_fn": nothing}]

    def handle(slot: int, sock: Socket, address: Any) -> None:
        run(["echo", "hello"], stdout=sock.fileno(), check=True, **options[slot])

    server = slot_server(handle)
    clients = [call(server)[1] for _ in options]
    for sock in clients:
        assert read_line(sock) == "hello"
        assert sock.recv(1) == b""


def nothing() -> None:
    """Run in the child, before the program."""
