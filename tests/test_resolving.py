"""Names with each of gevent's resolvers, and name servers that never answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import gevent
import pytest
from gevent import socket, subprocess

import gevent_rover

RESOLVERS = ["thread", "ares", "dnspython"]
PATCHES = ["", "from gevent import monkey; monkey.patch_all()\n"]

# What every script begins with; SERVER is one more in the same process.
PRELUDE = """
import sys
import gevent
from gevent import get_hub
from gevent_rover import Rover, SlotServer

SERVER = SlotServer(("127.0.0.1", 0), lambda slot, sock, address: sock.recv(1))
SERVER.start()
PORT = SERVER.server_port


def new_rover(host, **options):
    rover = Rover({"a": {"host": host, "port": PORT}}, **options)
    rover.attempts = []
    rover.on("connection", lambda rover, slot, socket: socket.close())
    rover.on("error", lambda rover, error: None)
    rover.on("attempt", lambda rover, attempt: rover.attempts.append(attempt))
    return rover


def outcomes(rover):
    return " ".join(attempt.outcome for attempt in rover.attempts)


"""

LOCALHOST = """
rover = new_rover("localhost")
rover.connect()
print(outcomes(rover))
rover = new_rover("127.0.0.1")
rover.connect()
print(outcomes(rover))
print(type(get_hub().resolver).__module__)
"""

# Many names that don't resolve, each asked for by many attempts that give up.
NO_ANSWER = """
names = [f"name{i}.test" for i in range(4)]
rovers = [new_rover(name, timeout=0.1) for name in names]
for _ in range(5):
    gevent.joinall([gevent.spawn(rover.connect) for rover in rovers for _ in range(3)])
for rover in rovers:
    reasons = {type(attempt.error).__name__ for attempt in rover.attempts}
    print(len(rover.attempts), set(outcomes(rover).split()), reasons)
with gevent.Timeout(10):
    for host in ("127.0.0.1", "127.1"):
        rover = new_rover(host)
        rover.connect()
        print(outcomes(rover))
"""

NO_ANSWERS = ["15 {'unreachable'} {'TimeoutError'}"] * 4 + ["connection"] * 2


def run(script: str, resolver: str, **environment: str) -> list[str]:
    """Run a script in a process of its own, and return the lines it prints."""
    if resolver == "dnspython" and find_spec("dns") is None:  # pragma: no cover
        pytest.skip("needs dnspython")
    if resolver == "ares" and find_spec("gevent.resolver.cares") is None:  # pragma: no cover
        pytest.skip("needs gevent with c-ares")
    root = Path(gevent_rover.__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": str(root), "GEVENT_RESOLVER": resolver, **environment}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=50
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return [str(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("patch", PATCHES, ids=["unpatched", "patched"])
@pytest.mark.parametrize("resolver", RESOLVERS)
def test_a_name_is_found_with_each_resolver(resolver: str, patch: str) -> None:
    lines = run(patch + PRELUDE + LOCALHOST, resolver)
    assert lines == ["connection", "connection", f"gevent.resolver.{resolver}"]


# The rovers' own name server, in place of this machine's. From dnspython 2.3 on,
# gevent's resolver lacks a method that is asked for, and answers nothing but EAI_AGAIN.
DNSPYTHON = """
both = get_hub().resolver._resolver
network = both.network_resolver
network.nameservers, network.port, network.search = ["127.0.0.1"], {port}, []
both.resolve_name = getattr(network, "resolve_name", None)
"""

FOUND = """
rover = new_rover("some.test")
rover.connect()
print(outcomes(rover))
"""


class NameServer:
    """A name server that answers nothing, or that every name is at 127.0.0.1."""

    def __init__(self) -> None:
        self.answers = False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        #: By name and type: the identifiers of the queries. A query that is sent again has its own.
        self.heard: dict[bytes, set[bytes]] = {}

    def serve(self) -> None:
        while True:
            query, client = self.socket.recvfrom(4096)
            end = query.index(b"\0", 12) + 5
            question = query[12:end]
            self.heard.setdefault(question, set()).add(query[:2])
            if self.answers:
                # RFC 1035, section 4.1: the header, the question, and for an A
                # query one record, whose name is a pointer to the question's.
                record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1"
                asks_a = question.endswith(b"\0\1\0\1")
                counts = b"\0\1\0\1\0\0\0\0" if asks_a else b"\0\1\0\0\0\0\0\0"
                answer = query[:2] + b"\x81\x80" + counts + question + record * asks_a
                self.socket.sendto(answer, client)


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    server = NameServer()
    serving = gevent.spawn(server.serve)
    yield server
    serving.kill()
    server.socket.close()


def run_with(name_server: NameServer, script: str, resolver: str) -> list[str]:
    """Run a script whose resolver asks ``name_server``."""
    if resolver == "dnspython":
        script = DNSPYTHON.format(port=name_server.port) + script
    return run(
        PRELUDE + script,
        resolver,
        GEVENTARES_SERVERS="127.0.0.1",
        GEVENTARES_UDP_PORT=str(name_server.port),
    )


@pytest.mark.parametrize("resolver", ["ares", "dnspython"])
def test_a_name_server_that_answers(name_server: NameServer, resolver: str) -> None:
    name_server.answers = True
    assert run_with(name_server, FOUND, resolver) == ["connection"]
    assert name_server.heard


@pytest.mark.parametrize("resolver", ["ares", "dnspython"])
def test_a_name_server_that_never_answers(name_server: NameServer, resolver: str) -> None:
    assert run_with(name_server, NO_ANSWER, resolver) == NO_ANSWERS
    asked = {question for question in name_server.heard if b"\4test\0" in question}
    assert {question[1:6] for question in asked} == {b"name%d" % i for i in range(4)}
    # One lookup for each name, sent again once or twice, not one for each attempt.
    for question in asked:
        assert len(name_server.heard[question]) <= 3


# The C library's getaddrinfo() can't be told another name server: a function that
# hangs stands in for it, in the resolver's own thread pool.
HANG = """
import gevent.monkey

sleep = gevent.monkey.get_original("time", "sleep")
asked, over = [], []


def hang(host, *args):
    asked.append(host)
    while not over:
        sleep(0.01)
    return []


resolver = get_hub().resolver
resolver.getaddrinfo = lambda *args: resolver.pool.apply(hang, args)
"""

ROOM = """
print(sorted(asked))
print(resolver.pool.apply(lambda: "room"))
over.append(True)
"""


@pytest.mark.parametrize("patch", PATCHES, ids=["unpatched", "patched"])
def test_lookups_that_hang_leave_room_in_the_resolvers_thread_pool(patch: str) -> None:
    lines = run(patch + PRELUDE + HANG + NO_ANSWER + ROOM, "thread")
    assert lines[:-2] == NO_ANSWERS
    assert lines[-2:] == [str([f"name{i}.test" for i in range(4)]), "room"]
