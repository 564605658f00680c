"""Users and hooks that are killed at any moment cost neither a connection nor a slot."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import wait_until
from gevent import socket
from gevent.pool import Pool

from gevent_rover import PoolTimeout, Rover, Server, Slot, SlotPool, SlotServer

LEASES = 10_000
AT_A_TIME = 40
MAX_SLOTS = 12


class Client:
    """Asks and reads the answer; knows whether it was torn down."""

    made = 0

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.torn_down = 0
        self.in_use = False

    def ask(self, question: bytes) -> bytes:
        self.socket.sendall(question)
        answer = b""
        while not answer.endswith(b"\n"):
            received = self.socket.recv(100)
            if not received:
                raise EOFError
            answer += received
        return answer


def echo(slot: int, sock: socket.socket, address: Any) -> None:
    try:
        sock.sendall(b"welcome\n")
        while chunk := sock.recv(1024):
            sock.sendall(chunk)
    except OSError:
        pass  # Its user was killed before it read the answer.


@pytest.mark.integration
@pytest.mark.usefixtures("no_leaks")
def test_killing_leases_at_random_points_with_all_hooks_yielding_loses_nothing(
    closing: Callable[[Any], Any], tmp_path: Path
) -> None:
    choice = random.Random()
    clients: list[Client] = []
    hooks = Counter[str]()

    def pause() -> None:
        if choice.random() < 0.5:
            gevent.sleep(0)

    def setup(sock: Any, slot: Slot) -> Client:
        hooks["setup"] += 1
        assert sock.recv(100) == b"welcome\n"
        pause()
        if choice.random() < 0.02:
            raise ConnectionError("a setup that fails now and then")
        client = Client(sock)
        clients.append(client)
        return client

    def check(client: Client) -> bool:
        hooks["check"] += 1
        assert client.ask(b"ping\n") == b"ping\n"
        pause()
        return choice.random() < 0.99

    def reset(client: Client) -> None:
        hooks["reset"] += 1
        assert client.ask(b"rollback\n") == b"rollback\n"
        pause()
        if choice.random() < 0.01:
            raise ValueError("a reset that fails now and then")

    def teardown(client: Client) -> None:
        hooks["teardown"] += 1
        pause()
        client.torn_down += 1
        client.socket.sendall(b"QUIT\n")

    slot_servers = []
    servers: dict[str, Server] = {}
    for i in range(4):
        path = str(tmp_path / str(i))
        listener = closing(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(100)
        server = closing(SlotServer(listener, echo))
        server.start()
        servers[f"server{i}"] = {"path": path}
        slot_servers.append(server)
    rover = closing(Rover(servers, roving_interval=0.01))
    pool = closing(
        SlotPool(
            rover,
            max_slots=MAX_SLOTS,
            setup=setup,
            check=check,
            reset=reset,
            teardown=teardown,
            max_lifetime=0.1,
            failures=(),  # So that no server is set aside for what is done here.
        )
    )
    rover.start()
    pool.wait_ready()
    ended = Counter[str]()
    leases = 0

    def use(number: int, timeout: float | None) -> None:
        nonlocal leases
        question = b"%d\n" % number
        outcome = "killed before its lease"
        try:
            with pool.lease(timeout) as client:
                leases += 1
                assert not client.in_use
                client.in_use = True
                outcome = "killed"
                assert client.ask(question) == question  # and not what was meant for another
                client.in_use = False
            outcome = "finished"
        except PoolTimeout:
            outcome = "timed out"
        finally:
            stats = pool.stats()
            assert stats.size == stats.idle + stats.leased + stats.preparing <= MAX_SLOTS
            closed = sum(stats.closed.values())
            assert stats.opened == closed + stats.size + stats.retired + stats.candidates
            ended[outcome] += 1

    users = Pool(AT_A_TIME)
    number = 0
    with gevent.Timeout(55):
        while leases < LEASES:
            number += 1
            user = users.spawn(use, number, choice.choice((None, None, 5.0, 0.001)))
            for victim in choice.sample(list(users), choice.choice((0, 0, 0, 1))):
                victim.kill(block=False)
            if choice.random() < 0.05:
                gevent.spawn_later(choice.random() / 100, user.kill, block=False)
            if choice.random() < 0.3:
                gevent.sleep(0)
        users.join()
    assert all(ended[outcome] for outcome in ("killed before its lease", "killed", "finished"))

    def is_whole() -> bool:
        stats = pool.stats()
        return (stats.idle, stats.candidates, stats.retired) == (MAX_SLOTS, 0, 0)

    wait_until(is_whole)
    assert (pool.leased, pool.waiting, pool.preparing) == (0, 0, 0)
    wait_until(lambda: sum(len(server.slots) for server in slot_servers) == MAX_SLOTS)
    stats = pool.stats()
    assert stats.closed["setup"] > 0
    assert stats.closed["check"] > 0
    assert stats.closed["reset"] > 0
    assert stats.closed["lifetime"] > 0
    pool.close(timeout=None)
    rover.stop()
    assert all(client.torn_down == 1 for client in clients)
    assert len(clients) == hooks["teardown"]
    wait_until(lambda: all(len(server.slots) == 0 for server in slot_servers))
    assert not pool._stock._by_client
