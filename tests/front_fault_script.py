"""A process in which faults come and go around a front or a relay, while clients use it.

Its arguments: ``front`` or ``relay``, a seed, and seconds. Clients ask for an echo of random
bytes, through a fault proxy, and between the front and its backend is another one. Clients
are killed, the backend refuses. What arrives must be what was said, in order. In the first
half of the time no fault ends a connection cleanly amid an answer, so none may end so. At
the end nothing is missing or left over; else the process ends with a traceback. It prints a
line of JSON: how often each thing happened.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from time import monotonic
from typing import Any

import gevent
from conftest import living_greenlets, open_descriptors, wait_until
from fault_proxy import Fault, FaultProxy
from gevent import GreenletExit, socket
from gevent.pool import Group
from gevent.server import StreamServer

from gevent_rover import Front, PoolTimeout, Relay, Rover, Server, SlotPool

CLIENTS = 12
USERS = 4

#: Seconds after which a client gives up, one or the other; the last where nothing is spoilt.
PATIENCE = 0.1, 0.3, 1.0, 20.0

FAULTS = [
    Fault(latency=0.02),
    Fault(slice=1),
    Fault(slice=1000),
    Fault(bandwidth=200_000.0, slice=2000),
    Fault(stalled=True),
    Fault(reset_after=0),
    Fault(reset_after=2),
    Fault(reset_after=5000),
    Fault(reset_after=300_000),
    Fault(slow_close=0.1),
    Fault(refusing=True),
]

#: Those that end an answer amid as if it were whole.
CUTS = [Fault(limit=0), Fault(limit=3), Fault(limit=5000), Fault(slow_close=0.05, limit=100)]


#: Bytes of the kernel's for each side that is narrowed: else nothing ever waits in between.
NARROW = 8192


class Wrong(Exception):
    """What arrived isn't what was said, or ended too early as if it were whole."""


class Backend(StreamServer):
    """Echoes, and counts its connections."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.echo, spawn=1000)
        self.accepted = self.open = 0
        self.start()

    def echo(self, sock: socket.socket, address: object) -> None:
        self.accepted += 1
        self.open += 1
        try:
            while chunk := sock.recv(65536):
                sock.sendall(chunk)
        except OSError:
            pass
        finally:
            self.open -= 1


class Fronted:
    """A backend, a front, and a proxy between the two."""

    def __init__(self) -> None:
        self.backend = Backend()
        self.proxy = FaultProxy(self.backend.server_port)
        self.proxy.start()
        narrow(self.proxy)
        self.front = Front(("127.0.0.1", 0), self.proxy.entry(), connect_timeout=0.5)
        self.front.start()
        narrow(self.front)

    def refuse(self, entry: Server) -> None:
        self.front.backend = entry

    def accept(self) -> None:
        self.front.backend = self.proxy.entry()
        self.proxy.fault = Fault()

    def see_that_nothing_is_left(self) -> None:
        """Wait until all is given back, and see that the front works."""
        front, backend = self.front, self.backend
        wait_until(lambda: not len(front.slots), timeout=20)
        wait_until(lambda: not len(front.pumps), timeout=20)
        wait_until(lambda: not backend.open, timeout=20)
        assert front.started
        assert front.server_port is not None
        with closing(socket.create_connection(("127.0.0.1", front.server_port), 5)) as sock:
            assert read_line(sock) == b"0\r\n"
            sock.sendall(b"still here")
            sock.shutdown(socket.SHUT_WR)
            assert read_exactly(sock, 11) == b"still here"
        wait_until(lambda: not len(front.slots) and not backend.open)

    def stop(self) -> None:
        self.front.stop(timeout=0)
        self.proxy.stop(timeout=0)
        self.backend.stop(timeout=0)


class Storm:
    """What is between clients and backends, and all that goes on there.

    :param behind: the fronts, each with its backend.
    :param port: where clients connect to.
    :param says_slot: whether they get a slot line there.
    """

    def __init__(
        self, chance: random.Random, behind: list[Fronted], port: int, *, says_slot: bool
    ) -> None:
        self.chance = chance
        self.behind = behind
        self.says_slot = says_slot
        #: Before what clients connect to.
        self.before = FaultProxy(port)
        self.before.start()
        narrow(self.before)
        #: Where nobody listens.
        self.nowhere = socket.socket()
        self.nowhere.bind(("127.0.0.1", 0))
        self.clients = Group()
        self.users = Group()
        self.counts: Counter[str] = Counter()
        self.strange: list[BaseException] = []
        #: Whether a connection may end cleanly amid an answer, by a fault.
        self.cuts = False
        self.patience: tuple[float, ...] = PATIENCE[:-1]

    # One client

    def talk(self, use: Callable[[], object], what: str) -> None:
        """Do something as a client, and count how it ended."""
        try:
            patience = self.chance.choice(self.patience)
            with gevent.Timeout(patience, TimeoutError("it takes too long")):
                use()
        except GreenletExit:
            self.counts[f"{what} killed"] += 1
            raise
        except (OSError, EOFError, PoolTimeout) as exc:
            self.counts[f"{what} {type(exc).__name__}"] += 1
        except BaseException as exc:
            self.strange.append(exc)
        else:
            self.counts[f"{what} completed"] += 1

    def converse(self) -> None:
        """Connect, and have some things echoed."""
        assert self.before.server_port is not None
        with closing(socket.create_connection(("127.0.0.1", self.before.server_port))) as sock:
            if self.says_slot:
                line = read_line(sock)
                if not (line[:-2].isdigit() and int(line) < 1000):
                    raise Wrong(line)
            for _ in range(self.chance.randrange(3)):
                self.request(sock, ends=False)
            self.request(sock, ends=self.chance.random() < 0.5)

    def request(self, sock: socket.socket, *, ends: bool) -> None:
        """Have something echoed; ``ends``: shut the half down, and read to the end."""
        most = self.chance.choice((1, 100, 10_000, 200_000, 1_000_000))
        said = self.chance.randbytes(self.chance.randint(1, most))
        sender = gevent.spawn(send, sock, said, ends)
        try:
            self.compare(sock, said, to_the_end=ends)
        finally:
            sender.kill()
        self.counts["halves ended" if ends else "echoes"] += 1
        self.counts["bytes"] += len(said)

    def compare(self, sock: socket.socket, said: bytes, *, to_the_end: bool) -> None:
        """Read, and see that it's what was said."""
        whole, seen = memoryview(said), 0
        while seen < len(said) or to_the_end:
            chunk = sock.recv(100_000)
            if chunk != whole[seen : seen + len(chunk)]:
                raise Wrong(f"other bytes than were said, from {seen} of {len(said)} on")
            if not chunk:
                break
            seen += len(chunk)
        if seen < len(said):
            # Nothing at all was said to who is turned away.
            if seen and not self.cuts:
                raise Wrong(f"a clean end behind {seen} of {len(said)} bytes")
            raise EOFError

    # All of them, and what happens to them

    def client(self, until: float) -> None:
        while monotonic() < until:
            self.talk(self.converse, "client")
            gevent.sleep(self.chance.random() * 0.01)

    def user(self, pool: SlotPool[Any], until: float) -> None:
        def use() -> None:
            with pool.lease(timeout=0.5) as sock:
                self.request(sock, ends=False)

        while monotonic() < until:
            self.talk(use, "user")
            gevent.sleep(self.chance.random() * 0.01)

    def keep_up(self, pool: SlotPool[Any] | None, until: float) -> None:
        """Who was killed gets a successor."""
        while len(self.clients) < CLIENTS:
            self.clients.spawn(self.client, until)
        while pool is not None and len(self.users) < USERS:
            self.users.spawn(self.user, pool, until)

    def spoil(self, pool: SlotPool[Any] | None, seconds: float) -> None:
        """Change a fault at random, again and again."""
        began = monotonic()
        until = began + seconds
        proxies = [self.before, *(fronted.proxy for fronted in self.behind)]
        while monotonic() < until and not self.strange:
            self.keep_up(pool, until)
            gevent.sleep(self.chance.random() * 0.06)
            if not self.cuts and monotonic() > began + seconds / 2:
                self.cuts = True
            faults = [*FAULTS, *CUTS] if self.cuts else FAULTS
            well = self.chance.random() < 0.4
            self.chance.choice(proxies).fault = Fault() if well else self.chance.choice(faults)
            if self.chance.random() < 0.1:
                self.chance.choice(self.behind).refuse(entry_of(self.nowhere))
            elif self.chance.random() < 0.3:
                self.chance.choice(self.behind).accept()
            if self.chance.random() < 0.3:
                for group in (self.clients, self.users):
                    if group.greenlets:
                        self.chance.choice(list(group.greenlets)).kill(block=False)

    def heal(self) -> None:
        self.before.fault = Fault()
        for fronted in self.behind:
            fronted.accept()

    def see_that_all_is_well(self) -> None:
        """See that all of the clients have ended, and that one is served as if nothing had been."""
        self.heal()
        assert self.clients.join(timeout=30), "a client hangs"
        assert self.users.join(timeout=30), "a user hangs"
        if self.strange:
            raise self.strange[0]
        self.cuts, self.patience = False, PATIENCE[-1:]
        during, self.counts = self.counts, Counter()
        for _ in range(20):
            self.talk(self.converse, "client")
        if self.strange:
            raise self.strange[0]
        assert self.counts["client completed"] == 20, self.counts
        self.counts = during

    def stop(self) -> None:
        self.before.stop(timeout=0)
        for fronted in self.behind:
            fronted.stop()
        self.nowhere.close()


def narrow(server: StreamServer) -> None:
    """Have the kernel hold little for a server's connections."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        server.socket.setsockopt(socket.SOL_SOCKET, option, NARROW)


def send(sock: socket.socket, said: bytes, ends: bool) -> None:
    try:
        sock.sendall(said)
        if ends:
            sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # Who reads notices, too.


def read_line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise EOFError
        line += byte
    return line


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read ``size`` bytes, or to the end if that comes first."""
    data = b""
    while len(data) < size and (chunk := sock.recv(size - len(data))):
        data += chunk
    return data


def entry_of(sock: socket.socket) -> Server:
    host, port = sock.getsockname()
    return {"host": host, "port": port}


def storm_around_front(chance: random.Random, seconds: float) -> Counter[str]:
    fronted = Fronted()
    front = fronted.front
    assert front.server_port is not None
    storm = Storm(chance, [fronted], front.server_port, says_slot=True)
    rover = Rover({"front": storm.before.entry()}, roving_interval=0.05, timeout=0.5)
    rover.on("error", lambda rover, error: None)
    pool: SlotPool[Any] = SlotPool(rover, max_slots=USERS)
    with rover:
        storm.spoil(pool, seconds)
        storm.see_that_all_is_well()
        assert (pool.leased, pool.retired, pool.waiting) == (0, 0, 0), pool
        wait_until(lambda: pool.idle == pool.max_slots, timeout=15)
        pool.close()
    # The rover's last attempts end later.
    wait_until(lambda: not rover.pending)
    fronted.see_that_nothing_is_left()
    storm.counts["unreachable"] = front.unreachable
    storm.stop()
    return storm.counts


def storm_around_relay(chance: random.Random, seconds: float) -> Counter[str]:
    behind = [Fronted(), Fronted()]
    servers: dict[str, Server] = {}
    for fronted in behind:
        assert fronted.front.server_port is not None
        servers[str(len(servers))] = {"host": "127.0.0.1", "port": fronted.front.server_port}
    rover = Rover(servers, roving_interval=0.05, timeout=0.5)
    pool: SlotPool[socket.socket] = SlotPool(rover, max_slots=CLIENTS + 8)
    relay = Relay(("127.0.0.1", 0), pool, timeout=0.5)
    relay.start()
    narrow(relay)
    assert relay.server_port is not None
    storm = Storm(chance, behind, relay.server_port, says_slot=False)
    with rover:
        storm.spoil(None, seconds)
        storm.see_that_all_is_well()
        wait_until(lambda: not relay.clients, timeout=20)
        assert not len(relay.pumps)
        assert (pool.leased, pool.retired, pool.waiting) == (0, 0, 0), pool
        wait_until(lambda: pool.idle == pool.max_slots, timeout=15)
        relay.stop(timeout=0)
        pool.close()
    wait_until(lambda: not rover.pending)
    for fronted in behind:
        fronted.see_that_nothing_is_left()
        storm.counts["unreachable"] += fronted.front.unreachable
    storm.counts["turned away"] = relay.turned_away
    storm.stop()
    return storm.counts


def main(way: str, seed: str, seconds: str) -> None:
    storm = {"front": storm_around_front, "relay": storm_around_relay}[way]
    # Some things are opened once, whoever asks first.
    storm(random.Random(seed), 0.2)
    wait_until(lambda: not living_greenlets())
    descriptors = open_descriptors()
    counts = storm(random.Random(seed), float(seconds))
    wait_until(lambda: open_descriptors() <= descriptors)
    wait_until(lambda: not living_greenlets())
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
