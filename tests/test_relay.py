"""A relay: the connections of a pool for clients that know nothing of slots."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from conftest import entry, port_of, wait_until
from gevent import socket
from test_server import read_all

from gevent_rover import Relay, Rover, SlotPool, SlotServer

pytestmark = pytest.mark.usefixtures("no_leaks")

Closing = Callable[[Any], Any]
SlotServers = Callable[..., SlotServer]
Relays = Callable[..., Relay]
Connect = Callable[[Relay], Any]

RESET = struct.pack("ii", 1, 0)


def echo(slot: int, sock: Any, address: Any) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


@pytest.fixture
def relay_of(closing: Closing) -> Relays:
    """Give a function that starts a relay to slot servers, with a pool that is ready."""

    def relay_of(
        *servers: SlotServer, max_slots: int = 4, ready: bool = True, **options: Any
    ) -> Relay:
        registry = {str(number): entry(server) for number, server in enumerate(servers)}
        rover = closing(Rover(registry, roving_interval=0.05))
        pool = closing(SlotPool(rover, max_slots=max_slots))
        rover.start()
        if ready:
            pool.wait_ready()
        relay = closing(Relay(("127.0.0.1", 0), pool, **options))
        relay.stop_timeout = 0
        relay.start()
        assert isinstance(relay, Relay)
        return relay

    return relay_of


@pytest.fixture
def connect(closing: Closing) -> Connect:
    def connect(relay: Relay) -> Any:
        return closing(socket.create_connection(("127.0.0.1", port_of(relay)), timeout=5))

    return connect


def ask(sock: Any, data: bytes) -> bytes:
    sock.sendall(data)
    return sock.recv(len(data))  # type: ignore[no-any-return]


def failures(relay: Relay) -> int:
    return relay.slot_pool.stats().failures


def test_each_client_has_a_connection_of_its_own_for_as_long_as_it_stays(
    slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    servers = [slot_server(echo) for _ in range(2)]
    relay = relay_of(*servers, max_slots=4)
    clients = [connect(relay) for _ in range(3)]
    for number, client in enumerate(clients):
        assert ask(client, b"%d" % number) == b"%d" % number
    assert relay.slot_pool.stats().leased == 3
    assert relay.clients == 3
    clients[0].close()
    wait_until(lambda: relay.slot_pool.stats().leased == 2)
    wait_until(lambda: relay.slot_pool.stats().idle == 2)
    stats = relay.slot_pool.stats()
    assert (stats.closed["discarded"], stats.failures) == (1, 0)
    assert (relay.served, relay.turned_away) == (3, 0)


def test_the_clients_are_spread_over_the_servers(
    slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    servers = [slot_server(echo) for _ in range(3)]
    relay = relay_of(*servers, max_slots=9)
    wait_until(lambda: [len(server.slots) for server in servers] == [3, 3, 3])
    for client in [connect(relay) for _ in range(6)]:
        ask(client, b"x")
    assert [server.leased for server in relay.slot_pool.stats().servers.values()] == [2, 2, 2]


def test_who_finds_no_connection_in_time_is_closed_counted_and_logged(
    slot_server: SlotServers,
    relay_of: Relays,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "gevent_rover.relay")
    relay = relay_of(slot_server(echo), max_slots=1, timeout=0.05)
    served = connect(relay)
    ask(served, b"x")
    for _ in range(2):
        assert read_all(connect(relay)) == b""
    assert (relay.served, relay.turned_away) == (1, 2)
    assert ask(served, b"y") == b"y"
    said = [each for each in caplog.records if each.name == "gevent_rover.relay"]
    assert [each.levelname for each in said] == ["WARNING", "WARNING", "DEBUG", "DEBUG"]
    short, missed = (each.message for each in said[:2])
    assert short.startswith("2 clients, but max_slots is 1: it must exceed them")
    assert missed.startswith("no connection for ('127.0.0.1', ")
    assert "<SlotPool size=1/1 idle=0 leased=1" in missed


def test_a_client_waits_for_one_that_leaves(
    slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    relay = relay_of(slot_server(echo), max_slots=1)
    first, second = connect(relay), connect(relay)
    ask(first, b"x")
    second.sendall(b"early")
    wait_until(lambda: relay.slot_pool.waiting == 1)
    first.close()
    assert second.recv(5) == b"early"
    assert relay.turned_away == 0


def test_a_client_that_is_turned_away_may_come_before_there_is_any_server(
    relay_of: Relays, connect: Connect
) -> None:
    relay = relay_of(ready=False, timeout=0.02)
    assert read_all(connect(relay)) == b""
    assert relay.turned_away == 1


def test_halves_end_one_by_one(
    slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    relay = relay_of(slot_server(echo))
    client = connect(relay)
    client.sendall(b"all there is")
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"all there is"
    wait_until(lambda: relay.clients == 0)
    assert failures(relay) == 0


def test_a_server_that_ends_the_connection_after_its_answer_has_not_failed(
    slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    def answer_once(slot: int, sock: Any, address: Any) -> None:
        sock.sendall(sock.recv(100))

    relay = relay_of(slot_server(answer_once))
    client = connect(relay)
    assert ask(client, b"once") == b"once"
    assert client.recv(1) == b""
    client.close()
    wait_until(lambda: relay.clients == 0)
    assert failures(relay) == 0


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_server_that_ends_it_without_an_answer_has_failed(
    how: str, slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    def fail(slot: int, sock: Any, address: Any) -> None:
        sock.recv(100)
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()

    relay = relay_of(slot_server(fail))
    client = connect(relay)
    client.sendall(b"question")
    if how == "reset":
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    else:
        assert client.recv(1) == b""
    client.close()
    wait_until(lambda: relay.clients == 0)
    assert failures(relay) == 1


def test_a_client_that_resets_says_nothing_about_its_server(
    slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    relay = relay_of(slot_server(echo))
    client = connect(relay)
    ask(client, b"x")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()
    wait_until(lambda: relay.clients == 0)
    stats = relay.slot_pool.stats()
    assert (stats.closed["discarded"], stats.failures) == (1, 0)


def test_how_long_a_client_stays_makes_no_server_slow(
    slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    servers = [slot_server(echo) for _ in range(2)]
    relay = relay_of(*servers)
    for pause in (0.5, 0, 0.5, 0):
        client = connect(relay)
        ask(client, b"x")
        gevent.sleep(pause)
        client.close()
        wait_until(lambda: relay.clients == 0)
    stats = relay.slot_pool.stats()
    assert [server.slowness for server in stats.servers.values()] == [1.0, 1.0]
    assert all(server.latency < 0.25 for server in stats.servers.values())


def test_a_stop_closes_who_waits_and_who_is_unused_and_lets_the_others_finish(
    slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    relay = relay_of(slot_server(echo), max_slots=2)
    used, unused, waiting = (connect(relay) for _ in range(3))
    ask(used, b"x")
    wait_until(lambda: relay.slot_pool.waiting == 1 and len(relay.pumps) == 2)
    stopping = gevent.spawn(relay.stop, 5)
    assert unused.recv(1) == b""
    assert waiting.recv(1) == b""
    assert ask(used, b"still served") == b"still served"
    used.close()
    stopping.get(timeout=5)
    wait_until(lambda: relay.slot_pool.stats().idle == 2)


def test_a_server_that_speaks_first_is_one_line_in_the_log(
    slot_server: SlotServers, relay_of: Relays, caplog: pytest.LogCaptureFixture
) -> None:
    def greet(slot: int, sock: Any, address: Any) -> None:
        gevent.sleep(0.01)
        sock.sendall(b"220 hello")
        sock.recv(1)

    relay = relay_of(slot_server(greet), ready=False)
    wait_until(lambda: relay.slot_pool.stats().closed["unread"] >= 3)
    said = [each.message for each in caplog.records if each.name == "gevent_rover.relay"]
    assert said == ["server '0' speaks before it's asked: a relay can't keep its connections"]


def test_a_server_whose_connections_died_is_trusted_once_it_has_answered(
    slot_server: SlotServers, closing: Closing, connect: Connect
) -> None:
    """Though no connection of a relay's lasts for an interval where clients come and go."""
    server = slot_server(echo)
    rover = closing(Rover({"a": entry(server)}, roving_interval=0.5))
    pool = closing(SlotPool(rover, max_slots=8))
    rover.start()
    pool.wait_ready()
    relay = closing(Relay(("127.0.0.1", 0), pool))
    relay.start()
    assert server.pool is not None
    server.pool.kill()  # Idle connections die young, so the server is suspected.
    wait_until(lambda: pool.stats().servers["a"].suspect)
    for _ in range(40):  # One in an interval would take 20 s.
        with connect(relay) as client:
            assert ask(client, b"x") == b"x"
    assert not pool.stats().servers["a"].suspect


def test_three_failures_are_forgotten_when_a_connection_has_worked(
    slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    said: list[bytes] = []

    def fail_at_first(slot: int, sock: Any, address: Any) -> None:
        data = sock.recv(100)
        if len(said) == 3:
            sock.sendall(data)
        elif data:  # Else it was an attempt of the rover's.
            said.append(data)

    relay = relay_of(slot_server(fail_at_first))
    for _ in range(4):
        with connect(relay) as client:
            client.sendall(b"x")
            heard = read_all(client)
        wait_until(lambda: relay.clients == 0)
    assert heard == b"x"
    [server] = relay.slot_pool.stats().servers.values()
    assert (server.failures, server.set_aside) == (3, False)


def test_a_pool_that_is_closed_turns_clients_away(
    slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    relay = relay_of(slot_server(echo))
    served = connect(relay)
    ask(served, b"x")
    relay.slot_pool.close()
    assert read_all(connect(relay)) == b""
    assert ask(served, b"y") == b"y"


def test_a_pool_must_lease_sockets(
    slot_server: SlotServers, closing: Closing, connect: Connect, reported: list[Any]
) -> None:
    rover = closing(Rover({"a": entry(slot_server(echo))}, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=1, setup=lambda sock, slot: "a client"))
    rover.start()
    relay = closing(Relay(("127.0.0.1", 0), pool))
    relay.start()
    assert read_all(connect(relay)) == b""
    wait_until(lambda: reported)
    [(_, failure)] = reported
    assert isinstance(failure, TypeError)
    assert str(failure) == "a relay's pool must lease sockets, and it leased 'a client'"
    reported.clear()
    wait_until(lambda: pool.stats().leased == 0)


def test_a_slow_server_is_known_by_its_answers_and_gets_few_clients(
    slot_server: SlotServers, relay_of: Relays, connect: Connect
) -> None:
    served = {"fast": 0, "slow": 0}

    def serve(name: str) -> Callable[..., None]:
        def handle(slot: int, sock: Any, address: Any) -> None:
            told = False
            while data := sock.recv(100):
                served[name] += not told
                told = True
                gevent.sleep(0.05 if name == "slow" else 0)
                sock.sendall(data)

        return handle

    relay = relay_of(slot_server(serve("fast")), slot_server(serve("slow")), max_slots=8)
    for _ in range(60):
        with connect(relay) as client:
            for _ in range(2):
                assert ask(client, b"x") == b"x"
        wait_until(lambda: relay.slot_pool.stats().leased == 0)
    assert served["slow"] <= 15, relay.slot_pool.stats()  # By connections alone each would get 30.
    assert relay.slot_pool.stats().servers["1"].slowness > 1
