"""Users that are killed at any moment cost neither a connection nor a slot."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import entry, open_descriptors, wait_until
from gevent import socket
from gevent.pool import Pool

from gevent_rover import PoolTimeout, Rover, Server, SlotPool, SlotServer

LEASES = 10_000
AT_A_TIME = 60
MAX_SLOTS = 20


def echo(slot: int, sock: socket.socket, address: Any) -> None:
    try:
        while chunk := sock.recv(1024):
            sock.sendall(chunk)
    except (BrokenPipeError, ConnectionResetError):
        pass  # Its user was killed before it read the answer.


@pytest.mark.integration
@pytest.mark.usefixtures("no_leaks")
def test_leases_whose_greenlets_are_killed_at_random_points_lose_nothing(
    closing: Callable[[Any], Any], tmp_path: Path
) -> None:
    # Most of the servers on Unix domain sockets: thousands of connections over
    # TCP would leave as many local ports in TIME_WAIT.
    slot_servers = []
    servers: dict[str, Server] = {}
    for i in range(4):
        path = str(tmp_path / str(i))
        listener: Any = ("127.0.0.1", 0)
        if i:
            listener = closing(socket.socket(socket.AF_UNIX))
            listener.bind(path)
            listener.listen(100)
        server = closing(SlotServer(listener, echo))
        server.start()
        servers[f"server{i}"] = {"path": path} if i else entry(server)
        slot_servers.append(server)

    rover = closing(Rover(servers, roving_interval=0.01))
    pool = closing(SlotPool(rover, max_slots=MAX_SLOTS))
    rover.start()
    # No attempt of a tick is on its way, whose descriptors would be among these.
    wait_until(
        lambda: (
            pool.size == MAX_SLOTS
            and not rover.pending
            and sum(len(server.slots) for server in slot_servers) == MAX_SLOTS
        )
    )
    before = open_descriptors()
    choice = random.Random()
    leases = 0
    ended = dict.fromkeys(("killed while it waits", "killed", "timed out", "finished"), 0)

    def use(number: int, timeout: float | None) -> None:
        nonlocal leases
        request = b"%d\r\n" % number
        outcome = "killed while it waits"
        try:
            with pool.lease(timeout) as sock:
                leases += 1
                outcome = "killed"
                assert 0 <= pool.leased <= pool.size <= MAX_SLOTS
                sock.sendall(request)
                received = b""
                while len(received) < len(request):
                    received += sock.recv(100)
                assert received == request  # and not what was meant for another
            outcome = "finished"
        except PoolTimeout:
            outcome = "timed out"
        finally:
            ended[outcome] += 1

    users = Pool(AT_A_TIME)
    number = 0
    while leases < LEASES:
        number += 1
        user = users.spawn(use, number, choice.choice((None, None, 5.0, 0.001)))
        # Some are killed before they begin, which counts nowhere.
        for victim in choice.sample(list(users), choice.choice((0, 0, 1))):
            victim.kill(block=False)
        if choice.random() < 0.3:
            gevent.sleep(0 if choice.random() < 0.9 else 0.001)
        if choice.random() < 0.1:
            gevent.spawn_later(choice.random() / 100, user.kill, block=False)
    users.join(timeout=60)
    assert len(users) == 0
    assert all(ended.values()), ended

    wait_until(lambda: pool.idle == MAX_SLOTS)
    assert (pool.leased, pool.retired, pool.waiting) == (0, 0, 0)
    # An attempt of the next tick may be on its way right now.
    wait_until(lambda: len(open_descriptors()) == len(before))
    wait_until(lambda: sum(len(server.slots) for server in slot_servers) == MAX_SLOTS)

    pool.close()
    rover.stop()
    wait_until(lambda: all(len(server.slots) == 0 for server in slot_servers))
    for server in slot_servers:
        assert server.slots.take() == 0
        server.slots.free(0)
