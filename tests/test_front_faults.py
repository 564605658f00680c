"""Fronts and relays among faults: what arrives is right, and nothing is missing or left over.

``ROVER_SOAK_SECONDS`` says how long the faults come and go each time (default: 8),
``ROVER_SOAK_SEED`` repeats the choices of an earlier run, though not its timing.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import greenlet
import pytest
import trustme
from certificates import client_context, server_context
from conftest import ROOT, Reported, entry, open_descriptors, port_of, wait_until
from gevent import GreenletExit, socket, ssl
from gevent.event import Event
from gevent.server import StreamServer
from gevent.subprocess import PIPE, Popen

from gevent_rover import Front, Relay, Rover, Slot, SlotPool, Slots, SlotServer

Closing = Callable[[Any], Any]
Socket = socket.socket

SCRIPT = Path(__file__).with_name("front_fault_script.py")
SECONDS = float(os.environ.get("ROVER_SOAK_SECONDS", "8"))
SEED = int(os.environ.get("ROVER_SOAK_SEED", random.randrange(2**32)))

#: More than one switch of a greenlet takes; less than what goes through whole.
SIZE = 300_000


@pytest.mark.integration
@pytest.mark.timeout(SECONDS + 110)
@pytest.mark.parametrize("way", ["front", "relay"])
def test_nothing_is_lost_or_left_over_while_faults_come_and_go(way: str) -> None:
    print(f"ROVER_SOAK_SEED={SEED} ROVER_SOAK_SECONDS={SECONDS:g}")
    paths = [str(ROOT), str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")]
    with Popen(
        [sys.executable, "-W", "error", str(SCRIPT), way, str(SEED), str(SECONDS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=PIPE,
        stderr=PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=SECONDS + 100)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, ""), err
    print(out)
    counts = json.loads(out)
    # There was trouble of each kind, and work got done all the same.
    assert counts["client completed"] >= 50
    assert counts["halves ended"] >= 20
    assert counts["client killed"] >= 10
    assert counts["client ConnectionResetError"] >= 10
    assert counts["client TimeoutError"] >= 5
    assert counts["unreachable"] >= 10
    if way == "front":
        assert counts["user completed"] >= 20


# Handlers that are killed


class CountingSlots(Slots):
    """Counts how often each slot was taken and given back."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: Counter[int] = Counter()
        self.freed: Counter[int] = Counter()

    def take(self) -> int | None:
        slot = super().take()
        assert slot is not None
        self.taken[slot] += 1
        return slot

    def free(self, slot: int) -> None:
        super().free(slot)
        self.freed[slot] += 1


def echo(sock: Socket, address: object = None) -> None:
    try:
        while chunk := sock.recv(65536):
            sock.sendall(chunk)
    except OSError:
        pass


def read_all(sock: Socket) -> bytes:
    data = bytearray()
    while chunk := sock.recv(65536):
        data += chunk
    return bytes(data)


def have_echoed(port: int) -> tuple[bytes, bytes] | None:
    """Have something echoed; return it, and what came. None: it was reset, say."""
    said = random.randbytes(SIZE)
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sender = gevent.spawn(send_all, sock, said)
            try:
                return said, read_all(sock)
            finally:
                sender.kill()
    except OSError:
        return None


def converse(port: int, expected: bytes) -> bool:
    """Have something echoed, and tell whether all of it came; what came must be right."""
    echoed = have_echoed(port)
    if echoed is None:
        return False
    said, got = echoed
    whole = expected + said
    assert whole.startswith(got)
    return got == whole


def send_all(sock: Socket, said: bytes) -> None:
    try:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def no_descriptor_closes_twice() -> None:
    """Take the descriptors that are free now, and see that nobody closes them any more."""
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    try:
        for _ in range(3):
            gevent.sleep(0)
        for descriptor in taken:
            os.fstat(descriptor)
    finally:
        for descriptor in taken:
            os.close(descriptor)


def kill_handlers_at_every_switch(server: Any, use: Callable[[], bool]) -> int:
    """Kill a server's handlers at the first switch that there is, then at the second, and so on.

    :param use: is a client; it tells whether it was served whole.
    :returns: how many were killed before one was served whole.
    """
    killed = 0
    while True:
        before = open_descriptors()
        client = gevent.spawn(use)
        switches = 0

        def kill_at_switch(event: str, args: Any, at: int = killed) -> None:
            nonlocal switches
            if server.pool.greenlets:
                if switches == at:
                    server.pool.kill(block=False)
                switches += 1

        previous = greenlet.settrace(kill_at_switch)
        try:
            client.join(timeout=20)
        finally:
            greenlet.settrace(previous)
        assert client.ready(), f"the client hangs whose handler was killed at switch {killed}"
        served = client.get()
        wait_until(lambda: not server.pool.greenlets)
        wait_until(lambda: open_descriptors() <= before)  # noqa: B023
        no_descriptor_closes_twice()
        if served and switches <= killed:
            return killed
        killed += 1
        assert killed < 1000, "no handler lives to the end"


@pytest.fixture
def backend(closing: Closing) -> StreamServer:
    server = closing(StreamServer(("127.0.0.1", 0), echo))
    server.stop_timeout = 0.0
    server.start()
    assert isinstance(server, StreamServer)
    return server


@pytest.mark.integration
@pytest.mark.usefixtures("no_leaks")
def test_a_front_whose_handlers_are_killed_at_any_switch_gives_all_back_once(
    backend: StreamServer, closing: Closing, reported: Reported
) -> None:
    slots = CountingSlots()
    front = closing(Front(("127.0.0.1", 0), entry(backend), slots=slots))
    front.start()
    assert converse(port_of(front), b"0\r\n")  # Something is opened once.

    killed = kill_handlers_at_every_switch(front, lambda: converse(port_of(front), b"0\r\n"))

    assert killed >= 10
    assert (len(slots), len(front.pumps)) == (0, 0)
    assert slots.taken == slots.freed
    assert set(slots.taken) == {0}
    assert [exc for _, exc in reported] == []


@pytest.mark.integration
@pytest.mark.usefixtures("no_leaks")
def test_a_relay_whose_handlers_are_killed_at_any_switch_gives_all_back_once(
    slot_server: Callable[..., SlotServer], closing: Closing, reported: Reported
) -> None:
    slots = CountingSlots()
    server = slot_server(lambda slot, sock, address: echo(sock), slots=slots)
    pool: SlotPool[Socket] = closing(SlotPool(max_slots=5))
    relay = closing(Relay(("127.0.0.1", 0), pool, timeout=0.2))
    relay.start()

    def use() -> bool:
        sock = socket.create_connection(("127.0.0.1", port_of(server)))
        slot = Slot(int(sock.recv(10)), "server", entry(server))
        # The client comes first, and waits.
        client = gevent.spawn(converse, port_of(relay), b"")
        try:
            # Its handler may be killed before that.
            wait_until(lambda: relay.clients or client.ready())
            if not pool.offer(slot, sock):
                sock.close()
            return bool(client.get())
        finally:
            client.kill()
            wait_until(lambda: not pool.leased)
            while pool.idle:
                pool.discard(pool.acquire())

    assert use()

    killed = kill_handlers_at_every_switch(relay, use)

    assert killed >= 10
    assert (relay.clients, len(relay.pumps)) == (0, 0)
    assert (pool.size, pool.leased, pool.retired, pool.waiting) == (0, 0, 0, 0)
    wait_until(lambda: not len(slots))
    assert slots.taken == slots.freed
    assert [exc for _, exc in reported] == []


# Servers that are stopped, at any moment


@pytest.mark.integration
@pytest.mark.usefixtures("no_leaks")
def test_a_front_that_is_stopped_at_any_moment_gives_all_back_once(
    backend: StreamServer, closing: Closing, reported: Reported
) -> None:
    chance = random.Random(SEED)
    print(f"ROVER_SOAK_SEED={SEED}")
    for _ in range(60):
        slots = CountingSlots()
        front = closing(Front(("127.0.0.1", 0), entry(backend), slots=slots))
        front.start()
        port = port_of(front)
        clients = [
            gevent.spawn_later(chance.random() * 0.01, converse_somewhere, port, slots)
            for _ in range(8)
        ]
        gevent.sleep(chance.random() * 0.02)

        front.stop(timeout=chance.choice((0, 0.005, 5)))

        gevent.joinall(clients, timeout=20, raise_error=True)
        assert all(client.ready() for client in clients)
        wait_until(lambda: not len(slots) and not len(front.pumps))  # noqa: B023
        assert slots.taken == slots.freed
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    assert [exc for _, exc in reported] == []


def converse_somewhere(port: int, slots: CountingSlots) -> None:
    """Have something echoed, whichever slot this is."""
    echoed = have_echoed(port)
    if echoed is None:
        return
    said, got = echoed
    line, _, answer = got.partition(b"\r\n")
    assert said.startswith(answer)
    assert int(line or 0) <= len(slots.taken)


@pytest.mark.integration
@pytest.mark.usefixtures("no_leaks")
def test_a_relay_that_is_stopped_at_any_moment_gives_all_back_once(
    slot_server: Callable[..., SlotServer], closing: Closing, reported: Reported
) -> None:
    chance = random.Random(SEED)
    print(f"ROVER_SOAK_SEED={SEED}")
    server = slot_server(lambda slot, sock, address: echo(sock))
    rover = closing(Rover({"server": entry(server)}, roving_interval=0.05))
    pool: SlotPool[Socket] = closing(SlotPool(rover, max_slots=10))
    rover.start()
    for _ in range(40):
        relay = closing(Relay(("127.0.0.1", 0), pool))
        relay.start()
        port = port_of(relay)
        clients = [
            gevent.spawn_later(chance.random() * 0.01, converse, port, b"") for _ in range(8)
        ]
        gevent.sleep(chance.random() * 0.02)

        relay.stop(timeout=chance.choice((0, 0.005, 5)))

        gevent.joinall(clients, timeout=20, raise_error=True)
        assert all(client.ready() for client in clients)
        wait_until(lambda: not relay.clients and not len(relay.pumps))  # noqa: B023
        assert (pool.leased, pool.retired, pool.waiting) == (0, 0, 0)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    wait_until(lambda: pool.idle == pool.max_slots)
    rover.stop()
    pool.close()
    wait_until(lambda: not len(server.slots) and not rover.pending)
    assert [exc for _, exc in reported] == []


@pytest.mark.parametrize("ending", ["stop", "kill"])
@pytest.mark.usefixtures("no_leaks")
def test_an_answer_that_a_front_cuts_off_does_not_end_as_if_it_were_whole(
    closing: Closing, ending: str
) -> None:
    whole = 64_000_000
    ended = Event()

    def answer(sock: Socket, address: object) -> None:
        try:
            sock.sendall(bytes(whole))
        except OSError:
            pass
        finally:
            ended.set()

    backend = closing(StreamServer(("127.0.0.1", 0), answer))
    backend.start()
    front = closing(Front(("127.0.0.1", 0), entry(backend)))
    front.start()
    with socket.create_connection(("127.0.0.1", port_of(front)), 10) as sock:
        assert sock.recv(3) == b"0\r\n"
        wait_until(lambda: any(flow.rest for pump in front.pumps for flow in pump.flows))

        if ending == "stop":
            front.stop(timeout=0)
        else:
            front.pool.kill(GreenletExit)

        with pytest.raises(ConnectionResetError):
            read_all(sock)
    assert ended.wait(10)
    wait_until(lambda: not len(front.slots))


# Ends of TLS


class Secure:
    """A front that speaks TLS to its clients, and a client of it; the backend is the test."""

    def __init__(self, closing: Closing) -> None:
        authority = trustme.CA()
        self.accepted: list[Socket] = []
        over = Event()

        def handle(sock: Socket, address: object) -> None:
            self.accepted.append(sock)
            over.wait()

        backend = closing(StreamServer(("127.0.0.1", 0), handle))
        backend.start()
        self.front = closing(
            Front(
                ("127.0.0.1", 0),
                entry(backend),
                ssl_context=server_context(authority.issue_cert("127.0.0.1")),
            )
        )
        self.front.stop_timeout = 0.0
        self.front.start()
        plain = closing(socket.create_connection(("127.0.0.1", port_of(self.front)), 10))
        context = client_context(authority)
        self.client = closing(context.wrap_socket(plain, server_hostname="127.0.0.1"))
        assert self.client.recv(3) == b"0\r\n"
        wait_until(lambda: self.accepted)
        self.backend = self.accepted[0]
        self.backend.settimeout(10)
        self.over = over


@pytest.fixture
def secure(closing: Closing) -> Iterator[Secure]:
    secure = Secure(closing)
    yield secure
    secure.over.set()


@pytest.mark.usefixtures("no_leaks")
def test_what_a_tls_client_says_arrives_although_the_backend_has_ended_its_half(
    secure: Secure,
) -> None:
    sender = gevent.spawn(secure.client.sendall, bytes(20_000_000))
    wait_until(lambda: any(flow.rest for pump in secure.front.pumps for flow in pump.flows))
    secure.backend.sendall(b"no more")
    secure.backend.shutdown(socket.SHUT_WR)
    gevent.sleep(0.05)
    seen = 0
    try:
        while seen < 20_000_000 and (chunk := secure.backend.recv(1_000_000)):
            seen += len(chunk)
    finally:
        sender.join(10)
    assert seen == 20_000_000
    assert sender.successful()
    assert secure.client.recv(10) == b"no more"
    secure.client.unwrap()
    assert secure.backend.recv(1) == b""


@pytest.mark.parametrize("first", ["backend", "client"])
@pytest.mark.usefixtures("no_leaks")
def test_the_ends_of_both_sides_are_passed_on_though_they_come_at_once(
    secure: Secure, first: str
) -> None:
    def end_client() -> None:
        secure.client.settimeout(0.0)
        with pytest.raises(ssl.SSLWantReadError):
            secure.client.unwrap()

    ends = [lambda: secure.backend.shutdown(socket.SHUT_WR), end_client]
    for end in ends if first == "backend" else reversed(ends):
        end()  # Neither switches.

    # The client keeps its TCP connection open: it waits for the front's end.
    wait_until(lambda: not len(secure.front.slots))
    assert secure.backend.recv(1) == b""
