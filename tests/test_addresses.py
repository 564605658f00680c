"""Names with several addresses: who is tried when, who wins, and what is left open."""

from __future__ import annotations

import _socket
import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import Event, attempt_of, kill_at_every_switch, names, open_descriptors, wait_until
from gevent import get_hub, socket
from gevent.server import StreamServer

from gevent_rover import ResourceError, Rover, Server
from gevent_rover.net.addresses import Address

pytestmark = pytest.mark.usefixtures("no_leaks")

Rovers = Callable[..., tuple[Rover, list[Event]]]
Closing = Callable[[Any], Any]


class Resolver:
    """A resolver of the test's own: every name has the addresses it was told."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def getaddrinfo(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        found = []
        for host in self.hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            address: Any = (host, port) if family == socket.AF_INET else (host, port, 0, 0)
            found.append((family, socket.SOCK_STREAM, 6, "", address))
        return found

    def close(self) -> None:
        pass


class Site:
    """Addresses that share one port and one name, each with its own behaviour.

    IPv4 addresses are of 127.0.0.0/8; those of the other family are the same
    ones mapped, ``::ffff:127.0.0.2``, so that no IPv6 route is needed.
    """

    def __init__(self, closing: Closing, resolver: Resolver) -> None:
        self.closing = closing
        self.resolver = resolver
        with socket.socket() as sock:  # Free at 0.0.0.0: free at each address.
            sock.bind(("0.0.0.0", 0))
            self.port: int = sock.getsockname()[1]
        #: Who was connected to, in order.
        self.accepted: list[str] = []

    def entry(self, *hosts: str) -> Server:
        """Have the name stand for these addresses, and return the registry's entry."""
        self.resolver.hosts[:] = hosts
        return {"host": "some.test", "port": self.port}

    def answers(self, host: str, said: bytes = b"7\r\n") -> None:
        """Have a server at ``host`` that says ``said`` and waits for the client's end."""

        def serve(sock: Any, address: Any) -> None:
            self.accepted.append(host)
            try:
                sock.sendall(said)
                while sock.recv(1024):
                    pass
            except OSError:
                pass

        server = self.closing(StreamServer((_unmapped(host), self.port), serve))
        server.stop_timeout = 0.0
        server.start()

    def swallows(self, host: str) -> socket.socket:
        """Have a full accept queue at ``host``: nothing is answered, nothing refused."""
        listener: socket.socket = self.closing(socket.socket())
        listener.bind((_unmapped(host), self.port))
        listener.listen(0)
        listener.settimeout(0)
        address = ("127.0.0.1" if host == "0.0.0.0" else _unmapped(host), self.port)
        while True:
            sock = self.closing(socket.socket())
            sock.settimeout(0.05)
            try:
                sock.connect(address)
            except TimeoutError:
                return listener


def _unmapped(host: str) -> str:
    return host.removeprefix("::ffff:")


@pytest.fixture
def site(closing: Closing, monkeypatch: pytest.MonkeyPatch) -> Site:
    resolver = Resolver()
    monkeypatch.setattr(get_hub(), "resolver", resolver)
    return Site(closing, resolver)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the next address wait for ever, unless one fails."""
    monkeypatch.setattr("gevent_rover.net.race.ATTEMPT_DELAY", 3600.0)


def peer_of(events: list[Event]) -> str:
    return str(events[0][1]["socket"].getpeername()[0])


# The order


def test_the_next_address_begins_after_a_quarter_second(rover_of: Rovers, site: Site) -> None:
    site.swallows("127.0.0.2")
    site.answers("127.0.0.3")
    rover, events = rover_of({"a": site.entry("127.0.0.2", "127.0.0.3")}, timeout=3600.0)
    with gevent.Timeout(10):
        record = attempt_of(rover, events)
    assert record.slot == 7
    assert peer_of(events) == "127.0.0.3"
    assert record.elapsed >= 0.24


@pytest.mark.usefixtures("patient")
def test_while_the_first_address_answers_no_other_is_tried(rover_of: Rovers, site: Site) -> None:
    site.answers("127.0.0.2")
    site.answers("127.0.0.3")
    rover, events = rover_of({"a": site.entry("127.0.0.2", "127.0.0.3")})
    for _ in range(5):
        events.clear()
        assert attempt_of(rover, events).slot == 7
        assert peer_of(events) == "127.0.0.2"
    gevent.sleep(0.01)
    assert site.accepted == ["127.0.0.2"] * 5


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("dead", [1, 2, 5])
def test_when_one_fails_the_next_begins_at_once(rover_of: Rovers, site: Site, dead: int) -> None:
    # The last of them can be reached by no way from here: it fails in connect().
    hosts = [f"127.0.0.{number}" for number in range(2, 2 + dead)]
    site.answers("127.0.0.9")
    rover, events = rover_of(
        {"a": site.entry(*hosts, "::ffff:255.255.255.255", "127.0.0.9")}, timeout=3600.0
    )
    with gevent.Timeout(10):
        assert attempt_of(rover, events).slot == 7
    assert peer_of(events) == "127.0.0.9"
    assert names(events) == ["connection", "attempt"]


@pytest.mark.parametrize(
    ("hosts", "winner"),
    [
        (["::ffff:127.0.0.2", "::ffff:127.0.0.3", "127.0.0.4"], "127.0.0.4"),
        (["127.0.0.2", "127.0.0.4", "::ffff:127.0.0.3"], "::ffff:127.0.0.3"),
        # One family is exhausted: the other goes on.
        (["127.0.0.2", "127.0.0.4"], "127.0.0.4"),
    ],
)
def test_families_alternate_and_the_resolvers_first_is_first(
    rover_of: Rovers, site: Site, hosts: list[str], winner: str
) -> None:
    for host in hosts:
        if host == hosts[0]:
            site.swallows(host)
        else:
            site.answers(host)
    rover, events = rover_of({"a": site.entry(*hosts)}, timeout=3600.0)
    with gevent.Timeout(10):
        record = attempt_of(rover, events)
    assert record.slot == 7
    assert peer_of(events) == winner
    assert record.elapsed >= 0.24  # The first, which swallows, had its turn.
    gevent.sleep(0.01)
    assert site.accepted == [winner]


def test_an_address_that_comes_twice_is_tried_once(
    rover_of: Rovers, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gevent_rover.net.race.ATTEMPT_DELAY", 0.01)
    site.swallows("127.0.0.2")
    entry = site.entry(*["127.0.0.2", "::ffff:127.0.0.2"] * 3)
    rover, _ = rover_of({"a": entry}, timeout=0.3)
    before = open_descriptors()
    call = gevent.spawn(rover.connect)
    gevent.sleep(0.2)
    assert len(open_descriptors()) == len(before) + 2
    call.join()


def test_a_name_without_an_address_is_unreachable(rover_of: Rovers, site: Site) -> None:
    rover, events = rover_of({"a": site.entry()})
    record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    assert isinstance(record.error, socket.gaierror)


# localhost


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("listening", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("first", ["127.0.0.1", "::1"])
def test_localhost_with_one_family_listening(
    rover_of: Rovers, site: Site, listening: str, first: str
) -> None:
    try:
        site.answers(listening)
    except OSError as exc:  # pragma: no cover
        pytest.skip(f"no {listening} here: {exc}")
    site.entry(first, "::1" if first == "127.0.0.1" else "127.0.0.1")
    rover, events = rover_of({"a": {"host": "localhost", "port": site.port}}, timeout=3600.0)
    with gevent.Timeout(10):
        assert attempt_of(rover, events).slot == 7
    assert peer_of(events) == listening


def link_local() -> str | None:
    """Return a link-local address of this machine, with its scope."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:  # pragma: no cover
        return None
    for line in lines:
        digits, *_, name = line.split()
        if digits.startswith("fe80"):
            groups = [digits[i : i + 4] for i in range(0, 32, 4)]
            return f"{':'.join(groups)}%{name}"
    return None  # pragma: no cover


def test_a_literal_address_with_a_scope(rover_of: Rovers, closing: Closing) -> None:
    host = link_local()
    if host is None:  # pragma: no cover
        pytest.skip("no link-local address here")
    listener = socket.socket(socket.AF_INET6)
    listener.bind(socket.getaddrinfo(host, 0, socket.AF_INET6, socket.SOCK_STREAM)[0][4])
    listener.listen()
    server = closing(StreamServer(listener, lambda sock, address: sock.sendall(b"7\r\n")))
    server.start()
    port = listener.getsockname()[1]
    rover, events = rover_of({"a": {"host": host, "port": port}})
    assert attempt_of(rover, events).slot == 7


# Who wins, who loses


def test_an_address_that_answers_late_still_wins(rover_of: Rovers, site: Site) -> None:
    late = site.swallows("127.0.0.2")
    site.swallows("127.0.0.3")
    rover, events = rover_of({"a": site.entry("127.0.0.2", "127.0.0.3")}, timeout=20.0)
    before = open_descriptors()
    call = gevent.spawn(rover.connect)
    wait_until(lambda: len(open_descriptors()) == len(before) + 2)
    # Room in the first one's queue, for when the kernel tries again.
    accepted = []
    while not call.ready():
        gevent.sleep(0.01)
        try:
            accepted.append(late.accept()[0])
        except BlockingIOError:
            continue
        try:
            accepted[-1].sendall(b"5\r\n")
        except OSError:  # pragma: no cover
            pass
    assert events[0][1]["slot"] == 5
    assert peer_of(events) == "127.0.0.2"
    for sock in accepted:
        sock.close()


def test_losers_are_closed_while_the_winners_line_is_awaited(rover_of: Rovers, site: Site) -> None:
    for host in ("127.0.0.2", "127.0.0.3"):
        site.swallows(host)
    site.answers("127.0.0.4", b"")
    entry = site.entry("127.0.0.2", "127.0.0.3", "127.0.0.4")
    rover, events = rover_of({"a": entry}, timeout=3600.0)
    before = open_descriptors()
    call = gevent.spawn(rover.connect)
    wait_until(lambda: len(open_descriptors()) == len(before) + 2)
    assert site.accepted == []
    wait_until(lambda: site.accepted)
    # The winner's two ends, and none of the losers.
    assert len(open_descriptors()) == len(before) + 2
    assert rover.pending == 1
    call.kill()
    assert events == []


def test_two_that_answer_in_the_same_step_leave_one(
    rover_of: Rovers, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both have connected before the hub looks again.
    monkeypatch.setattr("gevent_rover.net.race.ATTEMPT_DELAY", 0.0)
    site.answers("127.0.0.2")
    site.answers("127.0.0.3")
    rover, events = rover_of({"a": site.entry("127.0.0.2", "127.0.0.3")})
    before = open_descriptors()
    assert attempt_of(rover, events).slot == 7
    wait_until(lambda: len(open_descriptors()) == len(before) + 2)
    events[0][1]["socket"].close()


# The deadline, and whose error it is


def test_one_deadline_covers_all_addresses(rover_of: Rovers, site: Site) -> None:
    # At 0.25 s each, or with a deadline each, they would take longer than the test may.
    site.swallows("0.0.0.0")
    hosts = [f"127.0.1.{number}" for number in range(1, 121)]
    rover, events = rover_of({"a": site.entry(*hosts)}, timeout=0.6)
    with gevent.Timeout(20):
        record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    assert isinstance(record.error, TimeoutError)
    assert "within 0.6 s" in str(record.error)
    assert record.elapsed >= 0.59


def test_all_refused_is_unreachable_with_the_first_refusal(rover_of: Rovers, site: Site) -> None:
    rover, events = rover_of({"a": site.entry("127.0.0.2", "::ffff:127.0.0.3")}, timeout=3600.0)
    with gevent.Timeout(10):
        record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    assert isinstance(record.error, ConnectionRefusedError)


@pytest.mark.parametrize("last", ["127.0.0.2", "::ffff:224.0.0.1"])
def test_no_way_to_any_address_is_unreachable_at_once(
    rover_of: Rovers, site: Site, last: str
) -> None:
    # No connection begins at these: TCP has no broadcasts.
    entry = site.entry("::ffff:255.255.255.255", "255.255.255.255", last)
    rover, events = rover_of({"a": entry}, timeout=3600.0)
    with gevent.Timeout(10):
        record = attempt_of(rover, events)
    assert names(events) == ["unreachable", "attempt"]
    assert isinstance(record.error, OSError)
    assert record.error.errno == errno.ENETUNREACH


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Leave this process so many descriptors to open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 2 + count, hard))
    taken: list[int] = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.dup(0))
        for _ in range(count):
            # Not os.close(): patched, it waits for the loop's next turn.
            _socket.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_servers_error_is_reported_before_one_of_ours(
    rover_of: Rovers, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gevent_rover.net.race.ATTEMPT_DELAY", 0.01)
    listener = site.swallows("127.0.0.2")
    rover, events = rover_of({"a": site.entry("127.0.0.2", "127.0.0.3")}, timeout=20.0)
    gevent.sleep(0.01)
    with descriptors_left(1):
        # The first takes the last descriptor, so the second fails: that is ours.
        call = gevent.spawn(rover.connect)
        gevent.sleep(0.1)
        assert events == []
        assert rover.pending == 1
        # Then the first is refused: the kernel tries again after a second.
        listener.close()
        call.join()
    assert names(events) == ["unreachable", "attempt"]
    assert isinstance(events[-1][1]["attempt"].error, ConnectionRefusedError)


def test_only_errors_of_ours_are_an_error(rover_of: Rovers, site: Site) -> None:
    rover, events = rover_of({"a": site.entry("127.0.0.2", "127.0.0.3")}, timeout=3600.0)
    with descriptors_left(0), gevent.Timeout(10):
        record = attempt_of(rover, events)
    assert names(events) == ["error", "attempt"]
    assert isinstance(record.error, ResourceError)
    assert isinstance(record.error.__cause__, OSError)
    assert record.error.__cause__.errno == errno.EMFILE


# Kills


@pytest.mark.integration
def test_a_race_killed_at_any_switch_leaves_no_descriptor(
    rover_of: Rovers, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gevent_rover.net.race.ATTEMPT_DELAY", 0.02)
    site.swallows("127.0.0.2")
    site.swallows("127.0.0.3")
    site.answers("127.0.0.5", b"1")
    entry = site.entry("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")
    rover, events = rover_of({"a": entry}, timeout=0.5)
    before = open_descriptors()
    killed = kill_at_every_switch(rover, events)
    wait_until(lambda: open_descriptors() <= before)
    # In the lookup, with one, two and three addresses begun, and at the line.
    assert killed >= 5
    assert isinstance(events[-1][1]["attempt"].error, TimeoutError)


def test_stop_closes_all_that_race(rover_of: Rovers, site: Site) -> None:
    site.swallows("0.0.0.0")
    entry = site.entry(*[f"127.0.1.{number}" for number in range(1, 10)])
    rover, events = rover_of({"a": entry}, roving_interval=0.02)
    before = open_descriptors()
    rover.start()
    wait_until(lambda: len(open_descriptors()) >= len(before) + 20)
    assert rover.pending > 5
    rover.stop()
    assert open_descriptors() <= before
    assert events == []


def test_addresses_are_what_connect_takes(site: Site) -> None:
    from gevent_rover.net.addresses import addresses_of

    v4: list[Address] = [(socket.AF_INET, (f"127.0.0.{n}", site.port)) for n in (1, 2, 3)]
    entry = site.entry("::1", "127.0.0.1", "127.0.0.2", "127.0.0.3", "::1")
    v6: Address = (socket.AF_INET6, ("::1", site.port, 0, 0))
    assert addresses_of(get_hub(), entry) == [v6, *v4]
    assert addresses_of(get_hub(), {"path": "/some"}) == [(socket.AF_UNIX, "/some")]
