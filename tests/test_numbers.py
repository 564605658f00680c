"""After a great many attempts of every kind, this process is as large as before.

``ROVER_ATTEMPTS`` says how many (default: 100,000).
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import gevent
import greenlet
import pytest
from certificates import client_context
from conftest import RESET, open_descriptors, wait_until
from gevent.pool import Group
from gevent.socket import SO_LINGER, SOL_SOCKET
from gevent.subprocess import PIPE, Popen

from gevent_rover import Attempt, Rover, RoverError, Server, Slot

pytestmark = pytest.mark.integration

ATTEMPTS = int(os.environ.get("ROVER_ATTEMPTS", "100000"))
SECONDS = 120 + ATTEMPTS // 500

#: Of all attempts, the share that is over TLS: one costs ten times as much.
TLS_SHARE = 0.02
#: And the share that is the loop's, and ended by ``stop()``.
STOPPED_SHARE = 0.05

#: Bytes: a hundred for each of 100,000 attempts. Without a leak it is 1 to 2 MB,
#: after 300,000, too.
GROWTH = 10_000_000

USERS = 32

#: How attempts at each kind of server may end; any may be late, or discarded, too.
ENDS = {
    "slot": {"connection"},
    "pieces": {"connection"},
    "surplus": {"connection"},
    "silent": {"TimeoutError"},
    "refused": {"ConnectionRefusedError"},
    "eof": {"ConnectionResetError"},
    "eof within": {"ConnectionResetError"},
    "reset": {"ConnectionResetError"},
    "reset within": {"ConnectionResetError"},
    "garbage": {"ProtocolError"},
    "invalid": {"InvalidServerError"},
    "TLS": {"connection"},
    "TLS untrusted": {"TLSError"},
    "TLS eof": {"ConnectionResetError"},
}


class PlannedError(Exception):
    """What a receiver raises now and then."""


class Attempts:
    """Attempts of all kinds, and how each of them ended."""

    def __init__(self, servers: dict[str, list[Server]], context: Any) -> None:
        self.random = random.Random()
        self.entries: dict[str, Server] = {
            f"{kind}/{number}": server
            for kind, some in servers.items()
            for number, server in enumerate(some)
        }
        # What only add_server() would refuse.
        self.entries["invalid/0"] = {"host": "127.0.0.1", "port": 70_000}
        plain = {id: entry for id, entry in self.entries.items() if "TLS" not in id}
        secure = {id: entry for id, entry in self.entries.items() if "TLS" in id}
        # As many attempts as at all the others wouldn't be mixed, but slow.
        self.plain = self.rover_of(plain, timeout=0.05)
        self.secure = self.rover_of(secure, timeout=5.0, ssl_context=context)
        self.looping = Rover(
            {id: entry for id, entry in plain.items() if "silent" in id}, roving_interval=0.001
        )
        self.ends: Counter[tuple[str, str]] = Counter()
        self.connections = count(1)
        self.made = self.cut = self.stopped = 0

    def rover_of(self, servers: dict[str, Server], **options: Any) -> Rover:
        rover = Rover(servers, **options)
        rover.on("connection", self.take)
        rover.on("unreachable", lambda rover, id, server: None)
        rover.on("error", self.look)
        rover.on("attempt", self.note)
        return rover

    def take(self, rover: Rover, slot: Slot, socket: Any) -> None:
        number = next(self.connections)
        if number % 10 == 0:
            raise PlannedError  # The rover closes it.
        if slot.server_id.startswith("surplus"):
            assert socket.recv(5) == b"HELLO"
        if number % 10 > 1:
            socket.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
        socket.close()

    def look(self, rover: Rover, error: RoverError) -> None:
        assert error.__cause__ is None or isinstance(error.__cause__, OSError)

    def note(self, rover: Rover, attempt: Attempt) -> None:
        assert attempt.id is not None
        kind = attempt.id.partition("/")[0]
        how = attempt.outcome if attempt.error is None else type(attempt.error).__name__
        self.ends[kind, how] += 1
        if self.ends.total() % 1000 == 0:
            raise PlannedError

    def make(self, number: int) -> None:
        """Make so many attempts, and return when all of them are over."""
        users = Group()
        secure, stopped = int(number * TLS_SHARE), int(number * STOPPED_SHARE)
        shares = [secure // 4] * 4 + [(number - secure - stopped) // USERS] * USERS
        for n, share in enumerate(shares):
            users.spawn(self.connect, self.secure if n < 4 else self.plain, share)
        users.spawn(self.stop_loops, stopped)
        users.join(raise_error=True)

    def connect(self, rover: Rover, number: int) -> None:
        ids = list(rover.servers)
        for n in range(number):
            if n % 10 == 0:
                # Attempts that are on their way to it are discarded.
                rover.drop_server(dropped := self.random.choice(ids))
            elif n % 10 == 1:
                rover.servers[dropped] = self.entries[dropped]
            self.made += 1
            patience = None if n % 20 else self.random.random() * 0.002
            try:
                with gevent.Timeout(patience):
                    rover.connect()
            except gevent.Timeout:
                self.cut += 1
        rover.servers.update((id, self.entries[id]) for id in ids)

    def stop_loops(self, number: int) -> None:
        """Have attempts of a loop killed by its ``stop()``."""
        until = self.stopped + number
        while self.stopped < until:
            self.looping.start()
            wait_until(lambda: self.looping.pending >= 20, timeout=30)
            self.stopped += self.looping.pending
            self.looping.stop()
            assert self.looping.pending == 0


def living_greenlets() -> int:
    return sum(
        isinstance(thing, greenlet.greenlet) and not thing.dead for thing in gc.get_objects()
    )


def resident() -> int:
    """Return the bytes of memory that this process holds, once the collector has run."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@pytest.fixture
def attempts() -> Iterator[Attempts]:
    process: Any = Popen(
        [sys.executable, str(Path(__file__).with_name("fault_servers.py"))],
        stdin=PIPE,
        stdout=PIPE,
    )
    try:
        told = json.loads(process.stdout.readline())
        context = client_context(None)
        context.load_verify_locations(cadata=told["authority"])
        yield Attempts(told["servers"], context)
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


@pytest.mark.timeout(SECONDS)
def test_attempts_of_all_kinds_leave_nothing_behind(
    attempts: Attempts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest would keep every line, and with it the exception that it quotes.
    caplog.set_level("CRITICAL", "gevent_rover.rover")
    reported: Counter[type] = Counter()
    monkeypatch.setattr(
        gevent.get_hub(),
        "handle_error",
        lambda context, kind, value, tb: reported.update([kind]),
    )
    # What is allocated once, and what buffers and caches grow to.
    attempts.make(max(2000, ATTEMPTS // 20))
    before = open_descriptors(), living_greenlets(), resident()
    attempts.make(ATTEMPTS)
    wait_until(lambda: open_descriptors() <= before[0])
    wait_until(lambda: living_greenlets() <= before[1])
    grown = resident() - before[2]
    print(f"{attempts.made} made, {attempts.cut} cut, {attempts.stopped} stopped")
    print(dict(reported), f"{grown / 1e6:+.1f} MB", dict(attempts.ends))
    assert grown < GROWTH

    # There was enough of each, none was lost, and each ended as its kind does.
    assert attempts.ends.total() == attempts.made - attempts.cut
    assert set(reported) == {PlannedError}
    for kind, ends in ENDS.items():
        seen = {how for (of, how) in attempts.ends if of == kind}
        assert ends <= seen <= ends | {"TimeoutError", "discarded"}, kind
        assert sum(attempts.ends[kind, how] for how in ends) >= ATTEMPTS * TLS_SHARE / 10, kind
    discarded = sum(number for (_, how), number in attempts.ends.items() if how == "discarded")
    assert min(discarded, attempts.cut) >= ATTEMPTS // 1000
    assert attempts.stopped >= ATTEMPTS * STOPPED_SHARE
