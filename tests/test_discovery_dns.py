"""DNSSource and SRVSource, with dnsmasq, and with name servers that misbehave."""

from __future__ import annotations

import getpass
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import gevent
import pytest
from backends import free_port, program, running
from conftest import open_descriptors, port_of, wait_until
from gevent import socket
from gevent.server import DatagramServer, StreamServer
from gevent.subprocess import PIPE, STDOUT, run
from hypothesis import given
from hypothesis import strategies as st
from test_fork import FORKS, in_child

from gevent_rover import Server
from gevent_rover.discovery.feeder import feed
from gevent_rover.discovery.names import DNSSource, SRVSource
from gevent_rover.discovery.source import SourceError

pytest.importorskip("dns", reason="dnspython isn't installed: it's in the extra dns")

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from gevent_rover.discovery.answers import read_reply
from gevent_rover.discovery.lookup import Lookup

Closing = Callable[[Any], Any]
Query = dns.message.Message
CHECKS = Path(__file__).parent / "discovery"
A, AAAA, SRV = dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.SRV


class Following:
    """What a source has applied, and when."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.answers: list[dict[str, Server]] = []
        self.greenlet = gevent.spawn(self._run)

    def _run(self) -> Any:
        try:
            self.source.run(lambda servers: self.answers.append(dict(servers)))
        except Exception as exc:
            return exc

    def close(self) -> None:
        self.greenlet.kill()

    @property
    def ids(self) -> set[str]:
        """The latest answer; with none yet, it's a name of its own."""
        return set(self.answers[-1]) if self.answers else {"none yet"}

    def failure(self) -> str:
        """Wait until it fails."""
        exc = self.greenlet.get(timeout=10)
        assert type(exc) is SourceError, exc
        assert "\n" not in str(exc)
        return str(exc)


# With dnsmasq


class Names:
    """A dnsmasq whose addresses and options may change."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.hosts = folder / "hosts"
        self.hosts.write_text("")
        self.process: Any = None

    @contextmanager
    def started(self, *options: str, ttl: int = 1) -> Iterator[None]:
        command = [
            program("dnsmasq"), "--no-daemon", f"--port={self.port}", "--conf-file=/dev/null",
            "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts",
            "--local=/internal/", f"--addn-hosts={self.hosts}", f"--local-ttl={ttl}",
            f"--user={getpass.getuser()}", "--pid-file", *options,
        ]  # fmt: skip
        with running(*command, port=self.port) as self.process:
            yield

    def set(self, *addresses: str) -> float:
        """Give ``db.internal`` other addresses; return when."""
        self.hosts.write_text("".join(f"{address} db.internal\n" for address in addresses))
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)
        return monotonic()

    @property
    def nameservers(self) -> list[str]:
        return [f"127.0.0.1:{self.port}"]


@pytest.fixture
def names(tmp_path: Path) -> Names:
    return Names(tmp_path)


def follow(closing: Closing, source: Any) -> Following:
    following = closing(Following(source))
    assert isinstance(following, Following)
    return following


@pytest.mark.integration
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("ttl", [1, 3])
def test_an_address_comes_and_goes_within_its_ttl_and_a_second(names: Names, ttl: int) -> None:
    names.set("127.0.0.1", "::1")
    with names.started(ttl=ttl):
        following = Following(DNSSource("db.internal", 7000, nameservers=names.nameservers))
        try:
            wait_until(lambda: following.ids == {"127.0.0.1:7000", "[::1]:7000"}, 2)
            for addresses, expected in [
                (["127.0.0.1", "127.0.0.2", "::1"], {"127.0.0.1", "127.0.0.2", "[::1]"}),
                (["127.0.0.2"], {"127.0.0.2"}),
                (["::1"], {"[::1]"}),
            ]:
                changed = names.set(*addresses)
                ids = {f"{address}:7000" for address in expected}
                wait_until(lambda ids=ids: following.ids == ids, ttl + 2)  # type: ignore[misc]
                assert monotonic() - changed < ttl + 1
            assert following.answers[-1]["[::1]:7000"] == {
                "host": "::1", "port": 7000, "server_hostname": "db.internal",
            }  # fmt: skip
            # Whole answers, and none that says nothing new.
            assert all(one != other for one, other in pairwise(following.answers))
        finally:
            following.close()


@pytest.mark.integration
@pytest.mark.parametrize("ids", [{f"127.0.{n}.1:80" for n in range(60)}], ids=["60 addresses"])
def test_an_answer_that_is_truncated_is_asked_for_over_tcp(
    ids: set[str], names: Names, closing: Closing
) -> None:
    names.set(*(id.removesuffix(":80") for id in ids))
    with names.started("--edns-packet-max=512"):
        following = follow(closing, DNSSource("db.internal.", 80, nameservers=names.nameservers))
        wait_until(lambda: following.ids == ids)
        assert {server["server_hostname"] for server in following.answers[0].values()} == {
            "db.internal"
        }


@pytest.mark.integration
def test_aliases_are_followed(names: Names, closing: Closing) -> None:
    names.set("127.0.0.3")
    options = ["--cname=a.internal,b.internal", "--cname=b.internal,db.internal"]
    with names.started(*options):
        following = follow(closing, DNSSource("a.internal", 80, nameservers=names.nameservers))
        wait_until(lambda: following.ids == {"127.0.0.3:80"})


@pytest.mark.integration
def test_a_name_server_that_is_silent_or_dead_has_the_next_one_asked(
    names: Names, closing: Closing
) -> None:
    names.set("127.0.0.1")
    silent = closing(socket.socket(type=socket.SOCK_DGRAM))
    silent.bind(("127.0.0.1", 0))
    servers = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{silent.getsockname()[1]}"]
    with names.started():
        source = DNSSource("db.internal", 80, nameservers=servers + names.nameservers, timeout=0.5)
        following = follow(closing, source)
        wait_until(lambda: following.ids == {"127.0.0.1:80"}, 2)
        # From now on the good one is asked first.
        changed = names.set("127.0.0.2")
        wait_until(lambda: following.ids == {"127.0.0.2:80"})
        assert monotonic() - changed < 2


@pytest.mark.integration
def test_a_name_that_does_not_exist_is_an_error(names: Names, closing: Closing) -> None:
    with names.started():
        source = DNSSource("db.internal", 80, nameservers=names.nameservers)
        assert follow(closing, source).failure() == "there is no name db.internal"
        srv = SRVSource("_db._tcp.internal", nameservers=names.nameservers)
        assert "_db._tcp.internal" in follow(closing, srv).failure()


@pytest.mark.integration
def test_srv_gives_targets_and_ports_of_the_lowest_priority_that_accepts(
    names: Names, closing: Closing
) -> None:
    def listener() -> StreamServer:
        server = closing(StreamServer(("127.0.0.1", 0), lambda sock, address: sock.close()))
        server.start()
        assert isinstance(server, StreamServer)
        return server

    best, good = listener(), listener()
    refused = free_port()
    records = [
        # dnsmasq's order: target, port, priority, weight
        f"localhost,{best.server_port},10,5",
        f"localhost,{refused},10,5",
        f"localhost,{free_port()},10,0",
        f"localhost,{good.server_port},20,0",
    ]
    first = {f"localhost:{best.server_port}", f"localhost:{refused}"}
    with names.started(*(f"--srv-host=_db._tcp.internal,{record}" for record in records)):
        source = SRVSource("_db._tcp.internal", nameservers=names.nameservers)
        following = follow(closing, source)
        wait_until(lambda: following.ids == first)
        entry = following.answers[-1][f"localhost:{refused}"]
        assert entry == {"host": "localhost", "port": refused}
        best.stop()
        wait_until(lambda: following.ids == {f"localhost:{good.server_port}"})
        good.stop()
        wait_until(lambda: following.ids == first)
        port = port_of(good)
        again = closing(StreamServer(("127.0.0.1", port), lambda sock, address: None))
        again.start()
        wait_until(lambda: following.ids == {f"localhost:{good.server_port}"})


@pytest.mark.integration
@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
def test_a_pool_stays_whole_while_its_name_server_fails_for_ten_seconds(patched: bool) -> None:
    def fail(how: str) -> Any:
        command = [sys.executable, "-W", "error"]
        command += ["-m", "gevent.monkey"] if patched else []
        command += [str(CHECKS / "dns_outage.py"), how, "10"]
        return run(command, stdout=PIPE, stderr=STDOUT, text=True, timeout=50)

    # Side by side: they wait more than they work.
    ways = ("silent", "one-of-two", "dead", "NXDOMAIN", "SERVFAIL")
    failing = {how: gevent.spawn(fail, how) for how in ways}
    for how, each in failing.items():
        done = each.get(timeout=55)
        assert done.returncode == 0, f"{how}: {done.stdout}"
        longest = r"^longest: ([0-9.]+) ms, CPU: ([0-9.]+) ms"
        said = re.search(longest, str(done.stdout), re.MULTILINE)
        assert said is not None
        print(how, said[0])
        # Alone, both are 1 to 5 ms. Who blocks waits for 2 s.
        assert float(said[1]) < 500
        assert float(said[2]) < 50


# With name servers that misbehave


def respond(query: Query, *texts: str, ttl: int = 1) -> dns.message.Message:
    """Make a response with records of the type that was asked for."""
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA
    question = query.question[0]
    if texts:
        response.answer.append(
            dns.rrset.from_text(question.name, ttl, "IN", question.rdtype, *texts)
        )
    return response


@pytest.fixture
def name_server(closing: Closing) -> Callable[..., str]:
    """Give a function that starts a name server; ``talk(query)`` returns what it sends."""

    def name_server(talk: Callable[[Query], Any]) -> str:
        def handle(wire: Any, peer: Any) -> None:
            answers = talk(dns.message.from_wire(wire))
            for answer in answers if isinstance(answers, list) else [answers]:
                server.sendto(answer if isinstance(answer, bytes) else answer.to_wire(), peer)

        server = closing(DatagramServer("127.0.0.1:0", handle))
        server.start()
        return f"127.0.0.1:{server.server_port}"

    return name_server


NameServer = Callable[[Callable[[Query], Any]], str]


def only_a(query: Query, *addresses: str) -> dns.message.Message:
    return respond(query, *(addresses if query.question[0].rdtype == A else ()))


def test_what_is_no_answer_to_the_question_is_ignored(
    name_server: NameServer, closing: Closing
) -> None:
    def talk(query: Query) -> list[Any]:
        wrong_id = only_a(query, "6.6.6.6")
        wrong_id.id ^= 1
        other = dns.message.make_query("evil.internal", query.question[0].rdtype, id=query.id)
        wrong_name = only_a(other, "6.6.6.6")
        short = only_a(query, "6.6.6.6").to_wire()[:-13]
        return [
            b"", b"garbage", wrong_id, wrong_name, query.to_wire(), short, only_a(query, "10.0.0.1")
        ]  # fmt: skip

    source = DNSSource("db.internal", 80, nameservers=[name_server(talk)])
    following = follow(closing, source)
    wait_until(lambda: following.ids == {"10.0.0.1:80"}, 2)


def test_only_nonsense_is_no_answer_in_time(name_server: NameServer, closing: Closing) -> None:
    source = DNSSource("db.internal", 80, nameservers=[name_server(lambda _: b"?")], timeout=0.1)
    assert re.fullmatch(
        r"no name server knows the A of db\.internal\.: 127\.0\.0\.1:\d+: no answer within 0\.1 s",
        follow(closing, source).failure(),
    )


def test_what_others_send_is_ignored(name_server: NameServer, closing: Closing) -> None:
    stranger = closing(socket.socket(type=socket.SOCK_DGRAM))

    def handle(wire: Any, peer: Any) -> None:
        query = dns.message.from_wire(wire)
        stranger.sendto(only_a(query, "6.6.6.6").to_wire(), peer)
        server.sendto(only_a(query, "10.0.0.1").to_wire(), peer)

    server = closing(DatagramServer("127.0.0.1:0", handle))
    server.start()
    source = DNSSource("db.internal", 80, nameservers=[f"127.0.0.1:{server.server_port}"])
    following = follow(closing, source)
    wait_until(lambda: following.ids == {"10.0.0.1:80"}, 2)


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED"])
def test_a_name_server_that_can_not_tell_has_the_next_one_asked(
    rcode: str, name_server: NameServer, closing: Closing
) -> None:
    def refuse(query: Query) -> dns.message.Message:
        response = respond(query)
        response.set_rcode(dns.rcode.from_text(rcode))
        return response

    bad = name_server(refuse)
    good = name_server(lambda query: only_a(query, "10.0.0.1"))
    following = follow(closing, DNSSource("db.internal", 80, nameservers=[bad, good]))
    wait_until(lambda: following.ids == {"10.0.0.1:80"}, 2)
    failing = follow(closing, DNSSource("db.internal", 80, nameservers=[bad]))
    assert failing.failure().endswith(f"{bad}: {rcode}")


def test_a_server_that_refers_to_others_has_the_next_one_asked(
    name_server: NameServer, closing: Closing
) -> None:
    def refer(query: Query) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.authority.append(dns.rrset.from_text("internal.", 1, "IN", "NS", "ns.internal."))
        return response

    good = name_server(lambda query: only_a(query, "10.0.0.1"))
    source = DNSSource("db.internal", 80, nameservers=[name_server(refer), good])
    following = follow(closing, source)
    wait_until(lambda: following.ids == {"10.0.0.1:80"}, 2)


def test_a_server_too_old_for_edns_is_asked_without_it(
    name_server: NameServer, closing: Closing
) -> None:
    def talk(query: Query) -> dns.message.Message:
        if query.edns < 0:
            return only_a(query, "10.0.0.1")
        response = dns.message.Message(query.id)
        response.flags |= dns.flags.QR
        response.set_rcode(dns.rcode.FORMERR)
        return response

    following = follow(closing, DNSSource("db.internal", 80, nameservers=[name_server(talk)]))
    wait_until(lambda: following.ids == {"10.0.0.1:80"}, 2)


@pytest.mark.integration
@pytest.mark.parametrize("bad", ["silent", "SERVFAIL"])
def test_one_kind_of_addresses_that_can_not_be_had_does_not_matter(
    bad: str, name_server: NameServer, closing: Closing
) -> None:
    broken = False
    addresses = ["10.0.0.1"]

    def talk(query: Query) -> Any:
        if query.question[0].rdtype == A:
            return respond(query, *addresses)
        if not broken:
            return respond(query, "fd00::1")
        if bad == "silent":
            return []
        response = respond(query)
        response.set_rcode(dns.rcode.SERVFAIL)
        return response

    source = DNSSource("db.internal", 80, nameservers=[name_server(talk)])
    following = follow(closing, source)
    wait_until(lambda: following.ids == {"10.0.0.1:80", "[fd00::1]:80"}, 2)
    broken = True
    addresses[:] = ["10.0.0.2"]
    # What is known of the other kind stays.
    wait_until(lambda: following.ids == {"10.0.0.2:80", "[fd00::1]:80"}, 2)
    addresses.clear()
    if bad == "SERVFAIL":
        assert "AAAA" in following.failure()


def test_a_lost_datagram_is_sent_again(name_server: NameServer, closing: Closing) -> None:
    lost: set[Any] = set()

    def talk(query: Query) -> Any:
        if query.question[0].rdtype not in lost:
            lost.add(query.question[0].rdtype)
            return []
        return only_a(query, "10.0.0.1")

    source = DNSSource("db.internal", 80, nameservers=[name_server(talk)], timeout=0.2)
    following = follow(closing, source)
    wait_until(lambda: following.ids == {"10.0.0.1:80"}, 2)


def test_a_name_without_addresses_is_an_empty_answer(
    name_server: NameServer, closing: Closing
) -> None:
    source = DNSSource("db.internal", 80, nameservers=[name_server(only_a)])
    following = follow(closing, source)
    wait_until(lambda: following.answers == [{}], 2)


def test_a_service_that_is_not_there_is_an_empty_answer(
    name_server: NameServer, closing: Closing
) -> None:
    source = SRVSource(
        "_db._tcp.internal", nameservers=[name_server(lambda query: respond(query, "0 0 0 ."))]
    )
    following = follow(closing, source)
    wait_until(lambda: following.answers == [{}], 2)


def test_a_target_that_can_not_be_a_host_is_an_error(
    name_server: NameServer, closing: Closing
) -> None:
    talk = lambda query: respond(query, r"0 0 80 bad\032name.internal.")  # noqa: E731
    source = SRVSource("_db._tcp.internal", nameservers=[name_server(talk)])
    assert "can't be a host" in follow(closing, source).failure()


@contextmanager
def calls_of_a_turn() -> Iterator[list[int]]:
    """Count what's called in each turn of the hub's loop: work, whatever the machine is.

    Not time: a collection of the tests' own garbage takes longer than an answer.
    """
    turns = [0]

    def count(frame: FrameType, event: str, function: object) -> None:
        turns[-1] += 1

    turn = gevent.get_hub().loop.prepare()
    turn.start(turns.append, 0)
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield turns
    finally:
        sys.setprofile(before)
        turn.stop()
        turn.close()


def test_a_huge_answer_does_not_hold_the_hub(closing: Closing) -> None:
    addresses = [f"10.1.{n // 250}.{n % 250}" for n in range(4000)]
    wires: dict[Any, bytes] = {}  # Made beforehand: that takes long.
    for kind, texts in ((A, addresses), (AAAA, [])):
        query = dns.message.make_query("db.internal", kind, use_edns=0)
        wires[kind] = respond(query, *texts).to_wire(max_size=65535)

    def answer(sock: Any, address: Any) -> None:
        wire = sock.recv(1000)[2:]
        whole = wire[:2] + wires[dns.message.from_wire(wire).question[0].rdtype][2:]
        for start in range(0, len(whole) + 2, 9999):
            sock.sendall((len(whole).to_bytes(2, "big") + whole)[start : start + 9999])

    def truncate(wire: Any, peer: Any) -> None:
        response = dns.message.make_response(dns.message.from_wire(wire))
        response.flags |= dns.flags.TC
        over_udp.sendto(response.to_wire(), peer)

    over_tcp = closing(StreamServer(("127.0.0.1", 0), answer))
    over_tcp.start()
    over_udp = closing(DatagramServer(f"127.0.0.1:{over_tcp.server_port}", truncate))
    over_udp.start()
    source = DNSSource("db.internal", 80, nameservers=[f"127.0.0.1:{over_tcp.server_port}"])
    with calls_of_a_turn() as calls:
        following = follow(closing, source)
        wait_until(lambda: bool(following.answers))
    assert len(following.ids) == 4000
    print(f"calls: {sum(calls)}, in one turn of the loop at most {max(calls)}")
    assert max(calls) < sum(calls) / 10


# The lookup


def resolv_conf(folder: Path, *lines: str) -> Lookup:
    path = folder / "resolv.conf"
    path.write_text("\n".join(lines) + "\n")
    return Lookup(None, None, str(path))


def test_a_relative_name_is_looked_for_in_the_search_domains(
    tmp_path: Path, name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def talk(query: Query) -> dns.message.Message:
        asked.append(str(query.question[0].name))
        response = respond(query, *(["10.0.0.1"] if asked[-1] == "db.b.internal." else []))
        if len(response.answer) == 0:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    _, port = name_server(talk).split(":")
    # The port can't stand in the file.
    reset = dns.resolver.Resolver.reset

    def reset_and_set_port(self: Any) -> None:
        reset(self)
        self.port = int(port)

    monkeypatch.setattr("dns.resolver.Resolver.reset", reset_and_set_port)
    lookup = resolv_conf(tmp_path, "nameserver 127.0.0.1", "search a.internal b.internal")
    answer = lookup.ask(dns.name.from_text("db", None), A)
    assert [record.address for record in answer.records] == ["10.0.0.1"]
    assert asked == ["db.a.internal.", "db.b.internal."]
    asked.clear()
    with pytest.raises(SourceError, match=r"there is no name db\.x"):
        lookup.ask(dns.name.from_text("db.x", None), A)
    assert asked == ["db.x.", "db.x.a.internal.", "db.x.b.internal."]
    asked.clear()
    with pytest.raises(SourceError, match=r"there is no name db\."):
        lookup.ask(dns.name.from_text("db."), A)
    assert asked == ["db."]


@pytest.mark.parametrize("lines", [[], ["nameserver what.is.this"]])
def test_a_resolv_conf_without_name_servers_is_an_error(tmp_path: Path, lines: list[str]) -> None:
    lookup = resolv_conf(tmp_path, *lines)
    with pytest.raises(SourceError, match=re.escape(str(tmp_path / "resolv.conf"))):
        lookup.ask(dns.name.from_text("db."), A)


@pytest.mark.usefixtures("no_leaks")
def test_a_lookup_that_is_killed_closes_its_socket(name_server: NameServer) -> None:
    silent = socket.socket(type=socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    source = DNSSource("db.internal", 80, nameservers=[f"127.0.0.1:{silent.getsockname()[1]}"])
    following = Following(source)
    silent.recv(1000)
    following.close()
    silent.close()


class Fed:
    """What a rover is to a feeder."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}

    def wake(self) -> None:
        pass


@pytest.mark.parametrize("fork", FORKS)
def test_a_forked_child_closes_its_copies_and_asks_nobody(fork: str, closing: Closing) -> None:
    silent = closing(socket.socket(type=socket.SOCK_DGRAM))
    silent.bind(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    rover = Fed()
    with feed(rover, DNSSource("db.internal", 80, nameservers=[f"127.0.0.1:{port}"])) as feeder:
        wires = [silent.recvfrom(1000) for _ in range(2)]
        peers = {peer[1] for _, peer in wires}

        def ports() -> set[int]:
            return peers & {port_of_descriptor(number) for number in open_descriptors()}

        def look() -> list[Any]:
            started, left = feeder.started, ports()
            gevent.sleep(0.05)  # Greenlets that are copies of the parent's end.
            return [started, list(left)]

        assert ports() == peers
        assert in_child(FORKS[fork], look) == [False, []]
        assert feeder.started
        assert ports() == peers
        for wire, peer in wires:
            silent.sendto(only_a(dns.message.from_wire(wire), "10.0.0.1").to_wire(), peer)
        wait_until(lambda: set(rover.servers) == {"10.0.0.1:80"}, 2)


def port_of_descriptor(number: int) -> int:
    """Return the port that a descriptor is bound to; 0 if it's none that has one."""
    if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
        return 0
    try:
        with socket.socket(fileno=os.dup(number)) as sock:
            return int(sock.getsockname()[1])
    except (OSError, IndexError, TypeError, ValueError):
        return 0


# The constructors


@pytest.mark.parametrize("name", ["10.0.0.1", "::1", "[::1]", "127.1"])
@pytest.mark.parametrize("make", [lambda name: DNSSource(name, 80), SRVSource])
def test_an_address_is_no_name(make: Any, name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name!r} is an address")):
        make(name)


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", " a", "a\0", "x" * 64, ".".join(["x" * 60] * 5), None, 3]
)
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"name|host"):
        DNSSource(name, 80)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"port": 0}, "port"),
        ({"port": "80"}, "port"),
        ({"timeout": 0}, "timeout"),
        ({"nameservers": []}, "nameservers"),
        ({"nameservers": "127.0.0.1"}, "nameservers"),
        ({"nameservers": ["ns.internal"]}, "ns.internal"),
        ({"nameservers": ["unix:/x"]}, "unix:/x"),
        ({"nameservers": ["127.0.0.1:0"]}, "127.0.0.1:0"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        DNSSource("db.internal", **{"port": 80, **options})


def test_they_say_what_they_follow() -> None:
    assert repr(DNSSource("db.internal", 5432)) == "DNSSource('db.internal', 5432)"
    assert repr(SRVSource("_db._tcp.internal")) == "SRVSource('_db._tcp.internal')"
    DNSSource("bücher.internal", 80, nameservers=["::1", "[::1]:53", "127.0.0.1"])


# Reading

QUESTION = dns.message.make_query("db.internal.", "A", use_edns=0)
LABEL = st.text("ab", min_size=1, max_size=3)


def read(wire: bytes, query: Query = QUESTION) -> Any:
    return read_reply(query, wire, lambda: None)


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.ip_addresses(v=4)), min_size=1, max_size=9),
    st.lists(LABEL, max_size=9, unique=True),
    st.integers(0, 2**31 - 1),
)
def test_records_and_their_lowest_ttl_are_read_through_aliases(
    records: list[tuple[int, Any]], aliases: list[str], alias_ttl: int
) -> None:
    response = dns.message.make_response(QUESTION)
    chain = ["db.internal.", *(f"{alias}.other." for alias in aliases)]
    for name, target in pairwise(chain):
        response.answer.append(dns.rrset.from_text(name, alias_ttl, "IN", "CNAME", target))
    ttl = min(ttl for ttl, _ in records) % 2**31
    response.answer.append(
        dns.rrset.from_text(chain[-1], ttl, "IN", "A", *{str(ip) for _, ip in records})
    )
    response.answer.append(dns.rrset.from_text("other.", 0, "IN", "A", "6.6.6.6"))
    reply = read(response.to_wire())
    assert {record.address for record in reply.records} == {str(ip) for _, ip in records}
    assert reply.ttl == (min(ttl, alias_ttl) if aliases else ttl)


def test_for_how_long_there_is_nothing_is_what_the_soa_says() -> None:
    response = dns.message.make_response(QUESTION)
    soa = "ns.internal. root.internal. 1 2 3 4 17"
    response.authority.append(dns.rrset.from_text("internal.", 99, "IN", "SOA", soa))
    reply = read(response.to_wire())
    assert (reply.records, reply.ttl, reply.referral) == ((), 17, False)


def test_aliases_in_a_circle_are_no_answer() -> None:
    response = dns.message.make_response(QUESTION)
    response.answer.append(dns.rrset.from_text("db.internal.", 9, "IN", "CNAME", "x.internal."))
    response.answer.append(dns.rrset.from_text("x.internal.", 9, "IN", "CNAME", "db.internal."))
    assert read(response.to_wire()) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(tail: bytes) -> None:
    header = QUESTION.id.to_bytes(2, "big") + b"\x81\x80\0\1\0\2\0\1\0\0"
    read(tail)
    read(header + tail)
    read(header + QUESTION.to_wire()[12:29] + tail)


@given(st.data())
def test_a_response_with_bytes_changed_or_missing_is_read_without_an_error(data: Any) -> None:
    response = respond(QUESTION, "10.0.0.1", "10.0.0.2")
    response.answer.append(dns.rrset.from_text("db.internal.", 9, "IN", "CNAME", "x.internal."))
    wire = bytearray(response.to_wire())
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(wire[: data.draw(st.integers(0, len(wire)))]))
