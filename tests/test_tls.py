"""TLS on both sides, over real sockets, with certificates of a test authority."""

from __future__ import annotations

import _socket
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
import trustme
from certificates import (
    add_certificate,
    client_context,
    long_ago,
    new_context,
    server_context,
    server_flight,
)
from conftest import (
    RESET,
    Event,
    attempt_of,
    entry,
    kill_at_every_switch,
    names,
    open_descriptors,
    wait_until,
)
from gevent import socket, ssl, subprocess
from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.util import assert_switches

from gevent_rover import (
    InvalidServerError,
    ProtocolError,
    Rover,
    Server,
    Slots,
    SlotServer,
    TLSError,
)
from gevent_rover.net.tls import is_unreachable, wrap
from gevent_rover.pooling.pool import SlotPool

pytestmark = pytest.mark.usefixtures("no_leaks")

Rovers = Callable[..., tuple[Rover, list[Event]]]
Servers = Callable[..., Server]
SlotServers = Callable[..., SlotServer]
Talk = Callable[[ssl.SSLSocket], object]

#: Which class the contexts are of; in an unpatched process most users have the standard one.
KINDS = ("gevent", "standard")


def has_more_than(count: Callable[[], int], before: int) -> bool:
    return count() > before


def read_all(sock: Any) -> bytes:
    data = b""
    while chunk := sock.recv(1024):
        data += chunk
    return data


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def local(authority: trustme.CA) -> Any:
    """Give a server's context whose certificate is for the loopback addresses and two names."""
    return server_context(
        authority.issue_cert("127.0.0.1", "::1", "localhost", "some.test", "fe80::1")
    )


@pytest.fixture
def tls_talker(talker: Servers, local: Any) -> Callable[..., Server]:
    """Give a function that starts a TLS server which isn't a slot server."""

    def tls_talker(talk: Talk, context: Any = local) -> Server:
        def talk_tls(sock: Any) -> None:
            with context.wrap_socket(sock, server_side=True) as secure:
                talk(secure)

        return talker(talk_tls)

    return tls_talker


def listen(sock: Any) -> None:
    """Say nothing, and wait for the client's end."""
    while sock.recv(1024):
        pass


def hold(sock: ssl.SSLSocket) -> None:
    """Say slot 7, and wait for the client's end."""
    sock.sendall(b"7\r\n")
    listen(sock)


# A slot over TLS


@pytest.mark.parametrize("server_kind", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_arrives_over_tls(
    authority: trustme.CA,
    rover_of: Rovers,
    slot_server: SlotServers,
    kind: str,
    server_kind: str,
) -> None:
    def shout(slot: int, sock: Any, address: Any) -> None:
        assert type(sock) is ssl.SSLSocket
        sock.sendall(sock.recv(1024).upper())

    context = server_context(authority.issue_cert("127.0.0.1"), server_kind)
    server = slot_server(shout, ssl_context=context, slots=Slots(offset=173))
    assert server.ssl_enabled
    rover, events = rover_of({"a": entry(server)}, ssl_context=client_context(authority, kind))
    record = attempt_of(rover, events)
    assert names(events) == ["connection", "attempt"]
    assert record.slot == 173
    sock = events[0][1]["socket"]
    assert type(sock) is ssl.SSLSocket
    assert sock.gettimeout() is None
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.version() == "TLSv1.3"
    certificate = sock.getpeercert()
    assert certificate is not None
    assert certificate["subjectAltName"] == (("IP Address", "127.0.0.1"),)
    sock.sendall(b"hello")
    assert read_all(sock) == b"HELLO"


def test_default_contexts_work_unpatched_and_patched(
    authority: trustme.CA, rover_of: Rovers, tls_talker: Servers
) -> None:
    # In an unpatched process gevent.ssl's function makes one of the standard class.
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    rover, events = rover_of({"a": tls_talker(hold)}, ssl_context=context)
    assert attempt_of(rover, events).slot == 7
    assert type(events[0][1]["socket"]) is ssl.SSLSocket


@pytest.mark.parametrize("line", [b"0\r\n", b"173\r\n", b"9223372036854775807\r\n"])
@pytest.mark.parametrize("surplus", [b"", b"HELLO", b"1" * 16_000])
def test_what_follows_the_line_in_the_same_record_stays_on_the_socket(
    authority: trustme.CA, rover_of: Rovers, tls_talker: Servers, line: bytes, surplus: bytes
) -> None:
    server = tls_talker(lambda sock: sock.sendall(line + surplus))
    rover, events = rover_of({"a": server}, ssl_context=client_context(authority))
    assert attempt_of(rover, events).slot == int(line)
    sock = events[0][1]["socket"]
    assert sock.pending() == len(surplus)
    assert read_all(sock) == surplus


def test_a_line_split_into_records_anywhere_leaves_all_that_follows(
    authority: trustme.CA, rover_of: Rovers, tls_talker: Servers
) -> None:
    stream = b"173\r\n7\r\n"
    splits = iter(range(1, len(stream)))

    def talk(sock: ssl.SSLSocket) -> None:
        split = next(splits)
        sock.sendall(stream[:split])
        gevent.sleep(0.002)
        sock.sendall(stream[split:])

    rover, events = rover_of({"a": tls_talker(talk)}, ssl_context=client_context(authority))
    for _ in range(1, len(stream)):
        events.clear()
        assert attempt_of(rover, events).slot == 173
        assert read_all(events[0][1]["socket"]) == b"7\r\n"


def test_what_cannot_be_a_slot_line_is_an_error(
    authority: trustme.CA, rover_of: Rovers, tls_talker: Servers
) -> None:
    server = tls_talker(lambda sock: sock.sendall(b"foo\r\n"))
    rover, events = rover_of({"a": server}, ssl_context=client_context(authority))
    assert isinstance(attempt_of(rover, events).error, ProtocolError)


def test_the_processs_default_timeout_is_not_the_attempts(
    authority: trustme.CA, rover_of: Rovers, talker: Servers, local: Any
) -> None:
    def talk(sock: Any) -> None:
        gevent.sleep(0.1)
        sock.settimeout(None)
        with local.wrap_socket(sock, server_side=True) as secure:
            gevent.sleep(0.1)
            hold(secure)

    rover, events = rover_of({"a": talker(talk)}, ssl_context=client_context(authority))
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.02)
    try:
        assert attempt_of(rover, events).slot == 7
    finally:
        socket.setdefaulttimeout(before)
    assert events[0][1]["socket"].gettimeout() == 0.02


# What is verified


@pytest.mark.parametrize(
    ("hosts", "server"),
    [
        (["some.test"], {"server_hostname": "some.test"}),
        (["127.0.0.1"], {}),
        (["127.0.0.1"], {"server_hostname": "127.0.0.1"}),
        (["localhost"], {"host": "localhost"}),
        (["*.some.test"], {"server_hostname": "any.some.test"}),
    ],
    ids=repr,
)
def test_the_certificates_name_must_be_the_servers(
    authority: trustme.CA,
    rover_of: Rovers,
    tls_talker: Servers,
    hosts: list[str],
    server: dict[str, Any],
) -> None:
    told = tls_talker(hold, server_context(authority.issue_cert(*hosts)))
    rover, events = rover_of({"a": {**told, **server}}, ssl_context=client_context(authority))
    assert attempt_of(rover, events).slot == 7
    rover.servers["a"] = {**told, "server_hostname": "other.test.example"}
    assert isinstance(attempt_of(rover, events).error, TLSError)


class FixedResolver:
    """A resolver of the test's own: every name is at 127.0.0.1."""

    def getaddrinfo(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    def close(self) -> None:
        pass


def test_the_dot_of_a_full_name_is_not_the_certificates(
    authority: trustme.CA,
    rover_of: Rovers,
    tls_talker: Servers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gevent.get_hub(), "resolver", FixedResolver())
    server: Server = {"host": "some.test.", "port": tls_talker(hold)["port"]}
    rover, events = rover_of({"a": server}, ssl_context=client_context(authority))
    assert attempt_of(rover, events).slot == 7


def test_the_scope_of_an_ipv6_address_is_not_the_certificates(
    authority: trustme.CA,
    rover_of: Rovers,
    closing: Callable[[Any], Any],
    local: Any,
) -> None:
    def serve(sock: Any, address: Any) -> None:
        try:
            with local.wrap_socket(sock, server_side=True) as secure:
                hold(secure)
        except OSError:
            pass

    try:
        server = closing(StreamServer(("::1", 0), serve))
        server.start()
    except OSError as exc:  # pragma: no cover
        pytest.skip(f"no ::1 here: {exc}")
    rover, events = rover_of(
        {"a": {"host": "::1%1", "port": server.server_port}},
        ssl_context=client_context(authority),
    )
    assert attempt_of(rover, events).slot == 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", ["authority", "time", "name"])
def test_a_server_that_cannot_be_trusted_is_an_error(
    authority: trustme.CA, rover_of: Rovers, tls_talker: Servers, wrong: str, kind: str
) -> None:
    if wrong == "authority":
        certificate = trustme.CA().issue_cert("127.0.0.1")
    elif wrong == "time":
        certificate = authority.issue_cert("127.0.0.1", not_after=long_ago())
    else:
        certificate = authority.issue_cert("127.0.0.2", "localhost")
    server = tls_talker(hold, server_context(certificate))
    rover, events = rover_of({"a": server}, ssl_context=client_context(authority, kind))
    record = attempt_of(rover, events)
    assert names(events) == ["error", "attempt"]
    failure = events[0][1]["error"]
    assert isinstance(failure, TLSError)
    assert isinstance(failure.__cause__, ssl.SSLCertVerificationError)
    assert (failure.id, failure.server) == ("a", server)
    expected = {"authority": "unable to get", "time": "expired", "name": "mismatch"}[wrong]
    assert expected in str(failure)
    assert record.error is failure


def test_no_version_in_common_is_an_error(
    authority: trustme.CA, rover_of: Rovers, tls_talker: Servers, local: Any
) -> None:
    local.maximum_version = ssl.TLSVersion.TLSv1_2
    context = client_context(authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    rover, events = rover_of({"a": tls_talker(hold)}, ssl_context=context)
    record = attempt_of(rover, events)
    assert names(events) == ["error", "attempt"]
    assert isinstance(record.error, TLSError)
    assert isinstance(record.error.__cause__, ssl.SSLError)


def test_a_context_that_verifies_nothing_is_the_users_choice(
    rover_of: Rovers, tls_talker: Servers
) -> None:
    context = client_context(None)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    rover, events = rover_of({"a": tls_talker(hold)}, ssl_context=context)
    assert attempt_of(rover, events).slot == 7


# Mutual TLS


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("shown", ["a certificate", "none", "one of another authority"])
def test_mutual_tls(
    authority: trustme.CA, rover_of: Rovers, slot_server: SlotServers, shown: str, version: str
) -> None:
    subjects: list[Any] = []

    def handle(slot: int, sock: ssl.SSLSocket, address: Any) -> None:
        subjects.append(sock.getpeercert())
        sock.recv(1)

    context = server_context(authority.issue_cert("127.0.0.1"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    context.maximum_version = ssl.TLSVersion[version]
    server = slot_server(handle, ssl_context=context)
    ours = client_context(authority)
    if shown == "a certificate":
        add_certificate(ours, authority.issue_cert("client.test"))
    elif shown != "none":
        add_certificate(ours, trustme.CA().issue_cert("client.test"))
    rover, events = rover_of({"a": entry(server)}, ssl_context=ours)
    record = attempt_of(rover, events)
    if shown == "a certificate":
        assert record.slot == 0
        wait_until(lambda: subjects)
        assert subjects[0]["subjectAltName"] == (("DNS", "client.test"),)
    else:
        # In TLS 1.3 the refusal comes only after the client's handshake is done.
        assert names(events) == ["error", "attempt"]
        assert isinstance(record.error, TLSError)
        assert isinstance(record.error.__cause__, ssl.SSLError)
        assert "alert" in str(record.error).lower()
        assert subjects == []
        assert len(server.slots) == 0


# The handshake fails without a word of TLS


@pytest.mark.parametrize("end", ["end", "reset", "silence"])
@pytest.mark.parametrize("said", [None, 0, 1, 5, 200, -1])
def test_an_end_in_the_handshake_is_unreachable(
    authority: trustme.CA,
    rover_of: Rovers,
    talker: Servers,
    local: Any,
    said: int | None,
    end: str,
) -> None:
    def talk(sock: Any) -> None:
        if said is not None:  # None: it doesn't even read the client's hello.
            sock.sendall(server_flight(local, sock.recv(16384))[:said])
            gevent.sleep(0.01)
        if end == "silence":
            listen(sock)
        elif end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    server = talker(talk)
    timeout = 0.1 if end == "silence" else 3600.0
    rover, events = rover_of({"a": server}, ssl_context=client_context(authority), timeout=timeout)
    with gevent.Timeout(10):
        record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    expected = TimeoutError if end == "silence" else ConnectionError
    assert isinstance(record.error, expected), record.error


@pytest.mark.parametrize("said", [b"", b"1", b"173", b"173\r"])
@pytest.mark.parametrize("end", ["end", "goodbye", "reset", "silence"])
def test_an_end_before_the_line_is_whole_is_unreachable(
    authority: trustme.CA, rover_of: Rovers, tls_talker: Servers, said: bytes, end: str
) -> None:
    def talk(sock: ssl.SSLSocket) -> None:
        if said:
            sock.sendall(said)
        gevent.sleep(0.01)
        if end == "silence":
            sock.recv(1)
        elif end == "goodbye":
            sock.unwrap()
        elif end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    timeout = 0.1 if end == "silence" else 3600.0
    rover, events = rover_of(
        {"a": tls_talker(talk)}, ssl_context=client_context(authority), timeout=timeout
    )
    with gevent.Timeout(10):
        record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    assert isinstance(record.error, TimeoutError if end == "silence" else ConnectionResetError)


def test_a_refusal_is_unreachable(
    authority: trustme.CA, rover_of: Rovers, dead_server: Server
) -> None:
    rover, events = rover_of({"a": dead_server}, ssl_context=client_context(authority))
    assert isinstance(attempt_of(rover, events).error, ConnectionRefusedError)
    assert names(events) == ["unreachable", "attempt"]


def test_a_server_without_tls_looks_silent_or_is_an_error(
    authority: trustme.CA, rover_of: Rovers, says: Servers
) -> None:
    rover, events = rover_of(
        {"a": says(b"0\r\n")}, ssl_context=client_context(authority), timeout=0.1
    )
    # Not even a record's header: more may follow.
    assert isinstance(attempt_of(rover, events).error, TimeoutError)
    rover.servers["a"] = says(b"HTTP/1.1 400 Bad Request\r\n")
    rover.timeout = 3600.0
    with gevent.Timeout(10):
        assert isinstance(attempt_of(rover, events).error, TLSError)


def test_a_drip_of_the_handshake_is_cut_off_at_the_deadline(
    authority: trustme.CA, rover_of: Rovers, talker: Servers, local: Any
) -> None:
    def talk(sock: Any) -> None:
        flight = server_flight(local, sock.recv(16384))
        # Longer than the test's own deadline, if every byte put the attempt's off.
        for i in range(len(flight)):
            sock.sendall(flight[i : i + 1])
            gevent.sleep(0.1)

    rover, events = rover_of(
        {"a": talker(talk)}, ssl_context=client_context(authority), timeout=0.5
    )
    with gevent.Timeout(20):
        record = attempt_of(rover, events)
    assert isinstance(record.error, TimeoutError)
    assert record.elapsed >= 0.49


# The hub


@pytest.mark.parametrize("kind", KINDS)
def test_a_handshake_never_blocks_the_hub(
    authority: trustme.CA, rover_of: Rovers, talker: Servers, kind: str
) -> None:
    # The server is a greenlet of this hub, and answers nothing until others ran.
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            gevent.sleep(0.005)
            ticks += 1

    rover, events = rover_of(
        {"a": talker(listen)}, ssl_context=client_context(authority, kind), timeout=0.3
    )
    ticker = gevent.spawn(tick)
    try:
        with assert_switches(hub_only=True):
            assert attempt_of(rover, events).outcome == "unreachable"
    finally:
        ticker.kill()
    assert ticks > 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_client_never_blocks_the_servers_hub(
    authority: trustme.CA, slot_server: SlotServers, closing: Callable[[Any], Any], kind: str
) -> None:
    context = server_context(authority.issue_cert("127.0.0.1"), kind)
    server = slot_server(ssl_context=context)
    closing(dial(server))
    wait_until(lambda: len(server._handshakes) == 1)
    for _ in range(10):
        gevent.sleep(0.001)
    assert len(server._handshakes) == 1


# Unix sockets


def test_tls_over_a_path_needs_a_name(
    authority: trustme.CA,
    rover_of: Rovers,
    closing: Callable[[Any], Any],
    local: Any,
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    server = closing(SlotServer(listener, lambda slot, sock, _: sock.recv(1), ssl_context=local))
    server.stop_timeout = 0.0
    server.start()
    rover, events = rover_of({"a": {"path": path}}, ssl_context=client_context(authority))
    failure = attempt_of(rover, events).error
    assert isinstance(failure, InvalidServerError)
    assert "server_hostname" in str(failure)
    # Said before it is found out that nobody listens, too.
    rover.servers["a"] = {"path": str(tmp_path / "missing")}
    assert isinstance(attempt_of(rover, events).error, InvalidServerError)
    rover.servers["a"] = {"path": path, "server_hostname": "some.test"}
    assert attempt_of(rover, events).slot == 0


# Which contexts can be used


class Lookalike:
    """Has what a context has, but is none: pyOpenSSL's, for example."""

    def wrap_socket(self) -> None: ...

    def wrap_bio(self) -> None: ...


@pytest.mark.parametrize("context", [True, "tls", Lookalike(), ssl, ssl.SSLContext])
def test_what_is_no_context_is_refused_by_the_constructors(context: Any) -> None:
    with pytest.raises(TypeError, match="ssl_context must be"):
        Rover(ssl_context=context)
    with pytest.raises(TypeError, match="ssl_context must be"):
        SlotServer(("127.0.0.1", 0), print, ssl_context=context)


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_for_the_other_side_is_refused_by_the_constructors(kind: str) -> None:
    with pytest.raises(TypeError, match="can't be used by a client"):
        Rover(ssl_context=new_context(ssl.PROTOCOL_TLS_SERVER, kind))
    with pytest.raises(TypeError, match="can't be used by a server"):
        SlotServer(("127.0.0.1", 0), print, ssl_context=new_context(ssl.PROTOCOL_TLS_CLIENT, kind))


def class_of(kind: str) -> Any:
    return type(new_context(ssl.PROTOCOL_TLS_CLIENT, kind))


def with_a_method(protocol: Any, kind: str) -> Any:
    class Pinning(class_of(kind)):  # type: ignore[misc]
        def wrap_socket(self, *args: Any, **options: Any) -> Any:
            return super().wrap_socket(*args, **options)

    return Pinning(protocol)


def with_an_inherited_method(protocol: Any, kind: str) -> Any:
    class Heir(type(with_a_method(protocol, kind))):  # type: ignore[misc]
        pass

    return Heir(protocol)


def with_a_static_method(protocol: Any, kind: str) -> Any:
    class Pinning(class_of(kind)):  # type: ignore[misc]
        @staticmethod
        def wrap_socket(*args: Any, **options: Any) -> Any: ...

    return Pinning(protocol)


def with_a_function(protocol: Any, kind: str) -> Any:
    def pinning(*args: Any, **options: Any) -> Any: ...

    context = new_context(protocol, kind)
    context.wrap_socket = pinning
    return context


def with_a_class_of_sockets(protocol: Any, kind: str) -> Any:
    class Pinning(class_of(kind)):  # type: ignore[misc]
        class Pinned(class_of(kind).sslsocket_class):  # type: ignore[misc]
            pass

        sslsocket_class = Pinned

    return Pinning(protocol)


def with_sockets_of_its_own(protocol: Any, kind: str) -> Any:
    class Pinned(class_of(kind).sslsocket_class):  # type: ignore[misc]
        pass

    context = new_context(protocol, kind)
    context.sslsocket_class = Pinned
    return context


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("make", "attribute", "culprit"),
    [
        (with_a_method, "wrap_socket", "Pinning.wrap_socket"),
        (with_an_inherited_method, "wrap_socket", "Pinning.wrap_socket"),
        (with_a_static_method, "wrap_socket", "Pinning.wrap_socket"),
        (with_a_function, "wrap_socket", "pinning"),
        (with_a_class_of_sockets, "sslsocket_class", "Pinned"),
        (with_sockets_of_its_own, "sslsocket_class", "Pinned"),
    ],
)
def test_a_context_that_wraps_sockets_in_a_way_of_its_own_is_refused(
    make: Callable[[Any, str], Any], attribute: str, culprit: str, kind: str
) -> None:
    refused = rf"ssl_context has a {attribute} of its own, .*\b{culprit}\b.*receiver of connection"
    with pytest.raises(TypeError, match=refused):
        Rover(ssl_context=make(ssl.PROTOCOL_TLS_CLIENT, kind))
    with pytest.raises(TypeError, match=refused):
        SlotServer(("127.0.0.1", 0), print, ssl_context=make(ssl.PROTOCOL_TLS_SERVER, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_of_a_subclass_that_wraps_as_its_parent_does_is_taken(
    authority: trustme.CA, rover_of: Rovers, slot_server: SlotServers, kind: str
) -> None:
    class Ours(class_of(kind)):  # type: ignore[misc]
        """Has something of its own, but that."""

        def wrap_nothing(self) -> None: ...

    theirs = Ours(ssl.PROTOCOL_TLS_SERVER)
    add_certificate(theirs, authority.issue_cert("127.0.0.1"))
    ours = Ours(ssl.PROTOCOL_TLS_CLIENT)
    ours.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    server = slot_server(ssl_context=theirs, slots=Slots(offset=173))
    rover, events = rover_of({"a": entry(server)}, ssl_context=ours)
    assert attempt_of(rover, events).slot == 173
    assert type(events[0][1]["socket"]) is ssl.SSLSocket


# Kills


def test_an_attempt_killed_at_any_switch_leaves_no_descriptor(
    authority: trustme.CA, rover_of: Rovers, talker: Servers, local: Any
) -> None:
    def talk(sock: Any) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = local.wrap_bio(incoming, outgoing, server_side=True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def say() -> None:
            said = outgoing.read()
            for start in range(0, len(said), 400):
                sock.sendall(said[start : start + 400])
                gevent.sleep(0.002)

        while True:
            try:
                secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                say()
                heard = sock.recv(16384)
                if not heard:
                    return
                incoming.write(heard)
        for piece in (b"1", b"7", b"\r", b"\n"):
            secure.write(piece)
            say()
        sock.recv(1)

    rover, events = rover_of({"a": talker(talk)}, ssl_context=client_context(authority))
    killed = kill_at_every_switch(rover, events)
    # Before it began, while connecting, three times or so in the handshake, and
    # between two bytes of the line.
    assert killed >= 6
    assert names(events) == ["connection", "attempt"]


def test_stop_closes_attempts_in_the_handshake(
    authority: trustme.CA, rover_of: Rovers, talker: Servers, local: Any
) -> None:
    heard: list[bytes] = []

    def talk(sock: Any) -> None:
        heard.append(sock.recv(16384))
        sock.sendall(server_flight(local, heard[-1])[:300])
        sock.recv(1)

    before = open_descriptors()
    rover, events = rover_of(
        {"a": talker(talk)}, ssl_context=client_context(authority), roving_interval=0.005
    )
    rover.start()
    wait_until(lambda: len(heard) >= 5)
    listening = open_descriptors()
    rover.stop()
    assert rover.pending == 0
    # Closed before it returned; the server's side may follow.
    assert len(open_descriptors()) <= len(listening) - 5
    gevent.sleep(0.01)
    assert events == []
    wait_until(lambda: len(open_descriptors()) <= len(before) + 1)


def test_a_callers_timeout_passes_through_the_handshake(
    authority: trustme.CA, rover_of: Rovers, talker: Servers
) -> None:
    rover, events = rover_of({"a": talker(listen)}, ssl_context=client_context(authority))
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.05) as timeout:
        rover.connect()
    assert caught.value is timeout
    assert events == []


# Wrapping what is gone already


@pytest.mark.parametrize("said", [b"", b"0\r\n"])
def test_a_peer_that_is_gone_before_the_wrapping_is_unreachable(
    authority: trustme.CA, talker: Servers, closing: Callable[[Any], Any], said: bytes
) -> None:
    done = gevent.event.Event()

    def talk(sock: Any) -> None:
        sock.sendall(said)
        done.wait()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    server = talker(talk)
    sock = socket.create_connection((server["host"], server["port"]))
    number = sock.fileno()
    done.set()
    # The reset is read away: what gevent meets is a socket without a peer.
    wait_until(lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    wrapped: list[ssl.SSLSocket] = []

    def shake_hands() -> None:
        context = client_context(authority)
        wrapped.append(closing(wrap(sock, context, server_hostname="some.test")))
        wrapped[0].do_handshake()

    with pytest.raises(OSError, match=r"not connected|Closed before") as caught:
        shake_hands()
    # What gevent makes of bytes that nobody has read; old versions leave them alone.
    if isinstance(caught.value, ssl.SSLError):
        assert is_unreachable(caught.value)
    if not wrapped:
        # Closed, although the exception and its traceback are alive.
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


# The pool


@pytest.fixture
def pool_of(rover_of: Rovers, closing: Callable[[Any], Any]) -> Callable[..., SlotPool]:
    """Give a function that makes a pool and its rover, and waits until it's full."""

    def pool_of(server: Server, context: Any, **options: Any) -> SlotPool:
        rover = Rover({"a": server}, ssl_context=context, roving_interval=0.01)
        closing(rover)
        pool = closing(SlotPool(rover, **options))
        rover.start()
        wait_until(lambda: pool.deficit == 0)
        assert isinstance(pool, SlotPool)
        return pool

    return pool_of


def test_a_pool_leases_tls_sockets_again_and_again(
    authority: trustme.CA, pool_of: Callable[..., SlotPool], slot_server: SlotServers, local: Any
) -> None:
    def echo(slot: int, sock: ssl.SSLSocket, address: Any) -> None:
        while chunk := sock.recv(1024):
            sock.sendall(chunk)

    server = slot_server(echo, ssl_context=local)
    pool = pool_of(entry(server), client_context(authority), max_slots=3)
    leased = set()
    for _ in range(10):
        with pool.lease() as sock:
            leased.add(sock.fileno())
            sock.sendall(b"hello")
            assert sock.recv(1024) == b"hello"
    assert len(leased) == 3  # in turn
    assert pool.slots() == [(0, False), (1, False), (2, False)]


def test_a_pools_hooks_talk_over_tls(
    authority: trustme.CA, pool_of: Callable[..., SlotPool], slot_server: SlotServers, local: Any
) -> None:
    heard: list[bytes] = []

    def greet(slot: int, sock: ssl.SSLSocket, address: Any) -> None:
        sock.sendall(b"welcome")
        while chunk := sock.recv(1024):
            heard.append(chunk)
            sock.sendall(chunk)

    def ask(sock: ssl.SSLSocket, what: bytes) -> bool:
        sock.sendall(what)
        return sock.recv(1024) == what

    server = slot_server(greet, ssl_context=local)
    pool: SlotPool[Any] = pool_of(
        entry(server),
        client_context(authority),
        max_slots=2,
        setup=lambda sock, slot: (sock, sock.recv(1024)),
        check=lambda client: ask(client[0], b"check"),
        reset=lambda client: ask(client[0], b"reset"),
        teardown=lambda client: client[0].sendall(b"goodbye"),
    )
    pool.wait_ready()
    with pool.lease() as (sock, greeting):
        assert greeting == b"welcome"
        assert ask(sock, b"request")
    wait_until(lambda: pool.idle == 2)
    pool.close(timeout=None)
    wait_until(lambda: len(server.slots) == 0)
    assert heard == [b"check", b"request", b"reset", b"goodbye", b"goodbye"]


class Withholding:
    """A TLS server that says what it has to say only when it's told."""

    def __init__(self, sock: Any, context: Any) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.secure = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def shake_hands(self) -> None:
        """Shake hands, and hold back the session tickets."""
        while True:
            try:
                self.secure.do_handshake()
                return
            except ssl.SSLWantReadError:
                self.say()
                self.incoming.write(self.sock.recv(16384))

    def say(self) -> int:
        """Say what is held back, and return how many bytes that were."""
        said = self.outgoing.read()
        self.sock.sendall(said)
        return len(said)


@pytest.fixture
def held_back(
    authority: trustme.CA, local: Any, closing: Callable[[Any], Any]
) -> tuple[Any, Withholding]:
    """Give the two ends of a TLS connection whose session tickets are still to come."""
    ours, theirs = socket.socketpair()
    closing(theirs)
    server = Withholding(theirs, local)
    shaking = gevent.spawn(server.shake_hands)
    secure = closing(wrap(ours, client_context(authority), server_hostname="some.test"))
    secure.do_handshake()
    shaking.get(timeout=5)
    return secure, server


def settle() -> None:
    """Let the hub's watchers run."""
    for _ in range(5):
        gevent.sleep(0.002)


def test_session_tickets_do_not_evict_an_idle_socket(
    held_back: tuple[Any, Withholding], closing: Callable[[Any], Any]
) -> None:
    sock, server = held_back
    pool = closing(SlotPool())
    assert pool.offer(7, sock)
    assert server.say() > 100
    settle()
    assert pool.slots() == [(7, False)]
    with pool.lease(timeout=0) as leased:
        assert leased is sock
        leased.sendall(b"ping")
        server.incoming.write(server.sock.recv(1024))
        assert server.secure.read() == b"ping"
        server.secure.write(b"pong")
        server.say()
        assert leased.recv(1024) == b"pong"
    assert pool.idle == 1


def test_session_tickets_do_not_spoil_a_lease_or_a_release(
    held_back: tuple[Any, Withholding], closing: Callable[[Any], Any]
) -> None:
    sock, server = held_back
    pool = closing(SlotPool())
    pool.offer(7, sock)
    assert server.say() > 100
    # No switch since: the watcher hasn't seen them.
    assert pool.acquire(timeout=0) is sock
    pool.release(sock)
    assert pool.idle == 1


@pytest.mark.parametrize("fault", ["end", "reset", "goodbye", "data", "no tls", "half a record"])
def test_anything_else_evicts_an_idle_socket(
    held_back: tuple[Any, Withholding], closing: Callable[[Any], Any], fault: str
) -> None:
    sock, server = held_back
    pool = closing(SlotPool())
    server.say()
    pool.offer(7, sock)
    settle()
    assert pool.idle == 1
    if fault == "end":
        server.sock.close()
    elif fault == "reset":
        # With unread bytes a Unix socket's end is a reset.
        with pool.lease() as leased:
            leased.sendall(b"unread")
        server.sock.close()
    elif fault == "goodbye":
        with pytest.raises(ssl.SSLWantReadError):
            server.secure.unwrap()
        server.say()
    elif fault == "data":
        server.secure.write(b"x")
        server.say()
    elif fault == "no tls":
        server.sock.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    else:
        server.secure.write(b"x")
        server.sock.sendall(server.outgoing.read()[:-1])
        settle()
        assert pool.idle == 1  # What it will be isn't known yet.
        server.sock.close()
    wait_until(lambda: pool.size == 0)
    assert sock.fileno() < 0


def test_bytes_that_tls_holds_already_do_not_reach_the_next_user(
    held_back: tuple[Any, Withholding], closing: Callable[[Any], Any]
) -> None:
    sock, server = held_back
    pool = closing(SlotPool())
    pool.offer(7, sock)
    with pool.lease() as leased:
        server.secure.write(b"pong, and more")
        server.say()
        assert leased.recv(4) == b"pong"
        assert leased.pending() == 10
    assert pool.size == 0
    assert sock.fileno() < 0


def test_a_socket_without_tls_any_more_is_not_kept(
    held_back: tuple[Any, Withholding], closing: Callable[[Any], Any]
) -> None:
    sock, server = held_back
    pool = closing(SlotPool())
    server.say()
    pool.offer(7, sock)
    with pytest.raises(ssl.SSLWantReadError):
        server.secure.unwrap()
    leased = pool.acquire()
    server.say()
    leased.unwrap()
    pool.release(leased)
    assert pool.size == 0


def test_the_end_of_a_server_evicts_its_idle_sockets(
    authority: trustme.CA, pool_of: Callable[..., SlotPool], slot_server: SlotServers, local: Any
) -> None:
    server = slot_server(ssl_context=local)
    pool = pool_of(entry(server), client_context(authority), max_slots=3)
    server.stop(timeout=0)
    wait_until(lambda: pool.size == 0)


@pytest.fixture
def openssl(
    authority: trustme.CA, tmp_path: Path
) -> Iterator[tuple[Server, Callable[[bytes], None]]]:
    """Give a server that is OpenSSL's own, and a function that tells it what to do.

    The standard library can't send key updates; ``openssl s_server`` does when
    it reads a line with ``k``, or ``K`` to ask the client for one, too.
    """
    command = shutil.which("openssl")
    if command is None:  # pragma: no cover
        pytest.skip("needs the openssl command")
    file = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(file))
    process = subprocess.Popen(
        [command, "s_server", "-accept", "127.0.0.1:0", "-cert", file, "-tls1_3", "-crlf"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def tell(line: bytes) -> None:
            stdin.write(line + b"\n")
            stdin.flush()

        with gevent.Timeout(20):
            for line in stdout:
                if line.startswith(b"ACCEPT"):
                    break
        reader = gevent.spawn(stdout.read)
        try:
            yield {"host": "127.0.0.1", "port": int(line.rpartition(b":")[2])}, tell
        finally:
            process.kill()
            reader.join()


@pytest.mark.parametrize("update", [b"k", b"K"])
def test_key_updates_do_not_evict_an_idle_socket(
    authority: trustme.CA,
    closing: Callable[[Any], Any],
    openssl: tuple[Server, Callable[[bytes], None]],
    update: bytes,
) -> None:
    server, tell = openssl
    rover = closing(Rover({"a": server}, ssl_context=client_context(authority)))
    pool = closing(SlotPool(rover))
    attempt = gevent.spawn(rover.connect)
    wait_until(lambda: rover.pending)
    gevent.sleep(0.1)
    tell(b"7")
    attempt.get(timeout=10)
    (arrived,) = pool._stock.by_socket.values()
    sock = arrived.socket
    received = read_counter(sock)
    assert pool.slots() == [(7, False)]
    for _ in range(3):
        before = received()
        tell(update)
        wait_until(partial(has_more_than, received, before))
        settle()
        assert pool.slots() == [(7, False)]
    with pool.lease() as leased:
        leased.sendall(b"ping\r\n")
        tell(b"pong")
        assert leased.recv(1024) == b"pong\r\n"
    assert pool.idle == 1
    tell(b"Q")
    wait_until(lambda: pool.size == 0)


def read_counter(sock: Any) -> Callable[[], int]:
    """Return a function that tells how many segments with data the peer has sent."""

    def received() -> int:
        # tcpi_data_segs_in of linux/tcp.h
        info = sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, 192)
        return int.from_bytes(info[152:156], "little")

    return received


# The server


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """Give the list of what is reported through the hub."""
    reported: list[BaseException] = []

    def handle_error(context: object, kind: object, value: BaseException, tb: object) -> None:
        reported.append(value.with_traceback(None))

    monkeypatch.setattr(gevent.get_hub(), "handle_error", handle_error)
    yield reported
    reported.clear()


def dial(server: SlotServer) -> Any:
    return socket.create_connection(("127.0.0.1", server.server_port or 0))


@pytest.mark.parametrize("files", [1, 2])
def test_a_server_with_files(
    authority: trustme.CA,
    rover_of: Rovers,
    slot_server: SlotServers,
    tmp_path: Path,
    files: int,
) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    certfile, keyfile = tmp_path / "certificate", tmp_path / "key"
    options = {"certfile": str(certfile)}
    if files == 1:
        certificate.private_key_and_cert_chain_pem.write_to_path(certfile)
    else:
        certificate.cert_chain_pems[0].write_to_path(certfile)
        certificate.private_key_pem.write_to_path(keyfile)
        options["keyfile"] = str(keyfile)
    server = slot_server(**options)
    rover, events = rover_of({"a": entry(server)}, ssl_context=client_context(authority))
    assert attempt_of(rover, events).slot == 0


def test_bad_files_are_refused_by_the_constructor(tmp_path: Path) -> None:
    address = ("127.0.0.1", 0)
    with pytest.raises(FileNotFoundError):
        SlotServer(address, print, certfile=str(tmp_path / "missing"))
    (tmp_path / "empty").touch()
    with pytest.raises(ssl.SSLError):
        SlotServer(address, print, certfile=str(tmp_path / "empty"))


def test_options_that_would_be_ignored_are_refused(local: Any) -> None:
    address = ("127.0.0.1", 0)
    with pytest.raises(TypeError, match="not both"):
        SlotServer(address, print, certfile="some", ssl_context=local)
    with pytest.raises(TypeError, match="certfile"):
        SlotServer(address, print, keyfile="some")
    # StreamServer's own, without which client certificates would go unverified.
    with pytest.raises(TypeError, match="'ca_certs'"):
        SlotServer(address, print, certfile="some", ca_certs="other")


def test_silent_clients_hold_no_slot_and_no_place_in_the_pool(
    authority: trustme.CA,
    rover_of: Rovers,
    slot_server: SlotServers,
    closing: Callable[[Any], Any],
    local: Any,
) -> None:
    server = slot_server(ssl_context=local, spawn=Pool(1), slots=Slots(limit=1))
    for _ in range(20):
        closing(dial(server))
    wait_until(lambda: len(server._handshakes) == 20)
    assert len(server.slots) == 0
    rover, events = rover_of({"a": entry(server)}, ssl_context=client_context(authority))
    assert attempt_of(rover, events).slot == 0
    assert len(server.slots) == 1


def test_a_handshake_has_a_deadline_that_the_handler_does_not_have(
    authority: trustme.CA, rover_of: Rovers, slot_server: SlotServers, local: Any
) -> None:
    server = slot_server(ssl_context=local)
    server.handshake_timeout = 0.1
    rover, events = rover_of({"a": entry(server)}, ssl_context=client_context(authority))
    assert attempt_of(rover, events).slot == 0
    with dial(server) as silent, gevent.Timeout(10):
        assert silent.recv(1) == b""
    wait_until(lambda: not server._handshakes)
    gevent.sleep(0.1)
    assert len(server.slots) == 1


@pytest.mark.parametrize("sent", ["160301ffff", "160301000401ffffff"], ids=["record", "hello"])
def test_a_hello_that_is_too_long_is_refused_at_its_header(
    slot_server: SlotServers, closing: Callable[[Any], Any], local: Any, sent: str
) -> None:
    server = slot_server(ssl_context=local)
    server.handshake_timeout = 3600.0
    sock = closing(dial(server))
    sock.sendall(bytes.fromhex(sent))
    with gevent.Timeout(10):
        assert read_all(sock)[:1] == b"\x15"  # an alert, and the end
    wait_until(lambda: not server._handshakes)
    assert len(server.slots) == 0


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"])
@pytest.mark.parametrize("end", ["end", "reset"])
def test_clients_that_give_up_are_only_logged(
    slot_server: SlotServers,
    reports: list[BaseException],
    caplog: pytest.LogCaptureFixture,
    local: Any,
    sent: bytes,
    end: str,
) -> None:
    caplog.set_level("DEBUG", "gevent_rover.server")
    server = slot_server(ssl_context=local)
    before = open_descriptors()
    for pause in (0, 0.01):
        with dial(server) as sock:
            sock.sendall(sent)
            if end == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            gevent.sleep(pause)
    gevent.sleep(0.01)
    wait_until(lambda: not server._handshakes and open_descriptors() <= before)
    assert reports == []
    assert caplog.text.count("no TLS with ('127.0.0.1', ") == 2
    assert len(server.slots) == 0


def test_a_handler_over_tls_gives_its_slot_back_and_closes(
    authority: trustme.CA,
    rover_of: Rovers,
    slot_server: SlotServers,
    reports: list[BaseException],
    local: Any,
) -> None:
    def fail(slot: int, sock: ssl.SSLSocket, address: Any) -> None:
        sock.recv(1)
        raise LookupError("of the handler")

    server = slot_server(fail, ssl_context=local)
    rover, events = rover_of({"a": entry(server)}, ssl_context=client_context(authority))
    for count in (1, 2):
        events.clear()
        assert attempt_of(rover, events).slot == 0
        events[0][1]["socket"].sendall(b"x")
        assert read_all(events[0][1]["socket"]) == b""
        wait_until(lambda: not server.slots)
        assert len(reports) == count
    assert [type(report) for report in reports] == [LookupError] * 2


def test_stop_ends_handshakes_and_start_works_again(
    authority: trustme.CA,
    rover_of: Rovers,
    slot_server: SlotServers,
    closing: Callable[[Any], Any],
    local: Any,
) -> None:
    server = slot_server(ssl_context=local)
    silent = [closing(dial(server)) for _ in range(3)]
    wait_until(lambda: len(server._handshakes) == 3)
    server.stop()
    with gevent.Timeout(10):
        assert [sock.recv(1) for sock in silent] == [b""] * 3
    server.start()
    rover, events = rover_of({"a": entry(server)}, ssl_context=client_context(authority))
    assert attempt_of(rover, events).slot == 0


def test_stop_ends_who_waits_for_a_place_in_the_pool(
    authority: trustme.CA, rover_of: Rovers, slot_server: SlotServers, local: Any
) -> None:
    # Accepted before the pool was full, and done with the handshake after.
    server = slot_server(ssl_context=local, spawn=Pool(1))
    rover, events = rover_of(
        {"a": entry(server)}, ssl_context=client_context(authority), timeout=0.2
    )
    calls = [gevent.spawn(rover.connect) for _ in range(4)]
    gevent.joinall(calls)
    assert sorted(names(events)) == ["attempt"] * 4 + ["connection"] + ["unreachable"] * 3
    assert len(server.slots) == 1
    server.stop(timeout=0)
    wait_until(lambda: not server._handshakes and len(server.slots) == 0)


def test_who_waits_for_a_place_in_the_pool_has_shaken_hands_in_time(
    authority: trustme.CA, rover_of: Rovers, slot_server: SlotServers, local: Any
) -> None:
    server = slot_server(ssl_context=local, spawn=Pool(1))
    server.handshake_timeout = 0.1
    rover, events = rover_of({"a": entry(server)}, ssl_context=client_context(authority))
    calls = [gevent.spawn(rover.connect) for _ in range(2)]
    wait_until(lambda: events)
    gevent.sleep(0.2)
    assert names(events) == ["connection", "attempt"]
    events[0][1]["socket"].close()
    gevent.joinall(calls)
    assert names(events) == ["connection", "attempt"] * 2


def test_stop_closes_a_connection_whose_handshake_has_not_begun(
    closing: Callable[[Any], Any], slot_server: SlotServers, local: Any
) -> None:
    server = slot_server(ssl_context=local)
    ours, theirs = socket.socketpair()
    closing(ours)
    server.do_handle(theirs, ("client", 1))
    server.stop()
    with gevent.Timeout(10):
        assert ours.recv(1) == b""


def test_a_handshake_that_ends_after_the_server_is_closed_gets_no_slot(
    authority: trustme.CA, closing: Callable[[Any], Any], slot_server: SlotServers, local: Any
) -> None:
    server = slot_server(ssl_context=local)
    sock = dial(server)
    wait_until(lambda: server._handshakes)
    server.close()
    secure = closing(wrap(sock, client_context(authority), server_hostname="localhost"))
    with gevent.Timeout(10):
        secure.do_handshake()
        assert read_all(secure) == b""
    assert len(server.slots) == 0


def test_beyond_the_limit_a_connection_is_closed_without_a_line(
    authority: trustme.CA, rover_of: Rovers, slot_server: SlotServers, local: Any
) -> None:
    server = slot_server(ssl_context=local, slots=Slots(limit=1))
    rover, events = rover_of({"a": entry(server)}, ssl_context=client_context(authority))
    assert attempt_of(rover, events).slot == 0
    assert isinstance(attempt_of(rover, events).error, ConnectionResetError)
