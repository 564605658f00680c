"""A pool against a small model: whatever happens, in whatever order, both agree."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent import socket
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from gevent_rover import LowestSlot, PoolClosed, PoolTimeout, Rover, Server, Slot, SlotPool

IDS = ("web1", "web2")


class Connection:
    """What the model knows of one connection, and both of its ends."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.mine, self.peer = socket.socketpair()
        self.silent = True  # nothing can be read from it, and it's open


class Model:
    """The pool's rules, with lists in order of arrival and no thought for speed."""

    def __init__(self, max_slots: int, servers: dict[str, Server]) -> None:
        self.max_slots, self.servers = max_slots, servers
        self.kept: list[Connection] = []  # in order of arrival
        self.idle: list[Connection] = []  # in order of release
        self.leased: list[Connection] = []  # retired ones, too
        self.waiters: list[int] = []
        self.handed: dict[int, Connection] = {}  # by waiter
        self.closed = False

    def is_good(self, connection: Connection) -> bool:
        slot = connection.slot
        return connection.silent and self.servers.get(slot.server_id) == slot.server

    def remove(self, connection: Connection) -> None:
        for connections in (self.kept, self.idle, self.leased):
            if connection in connections:
                connections.remove(connection)

    def hand_on(self, connection: Connection) -> None:
        if self.waiters:
            self.handed[self.waiters.pop(0)] = connection
            self.leased.append(connection)
        else:
            self.idle.append(connection)

    def offer(self, connection: Connection) -> bool:
        highest = max((kept.slot for kept in self.kept), default=0)
        full = len(self.kept) == self.max_slots
        if self.closed or not self.is_good(connection) or (full and connection.slot >= highest):
            return False
        if full:
            candidates = [kept for kept in self.kept if kept.slot == highest]
            idle = [kept for kept in candidates if kept in self.idle]
            self.retire((idle or candidates)[-1])
        self.kept.append(connection)
        self.hand_on(connection)
        return True

    def retire(self, connection: Connection) -> None:
        self.kept.remove(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def acquire(self) -> Connection | None:
        while self.idle:
            connection = min(self.idle, key=lambda idle: idle.slot)
            if self.is_good(connection):
                self.idle.remove(connection)
                self.leased.append(connection)
                return connection
            self.remove(connection)
        return None

    def release(self, connection: Connection) -> None:
        self.leased.remove(connection)
        if connection in self.kept and self.is_good(connection):
            self.hand_on(connection)
        else:
            self.remove(connection)

    def close(self) -> None:
        self.closed = True
        for connection in list(self.kept):
            self.retire(connection)


class PoolMachine(RuleBasedStateMachine):
    """Does the same to a pool and its model, and compares them after every step."""

    connections: list[Connection]

    @initialize(max_slots=st.integers(1, 4))
    def begin(self, max_slots: int) -> None:
        self.entries = 0
        self.servers: dict[str, Server] = {}
        for id in IDS:
            self.change_server(id)
        self.rover = Rover(self.servers)  # never started: its ticks are a rule
        self.pool = SlotPool(self.rover, max_slots=max_slots, choice=LowestSlot())
        self.model = Model(max_slots, self.servers)
        self.connections = []
        self.waiters: dict[int, gevent.Greenlet[..., Any]] = {}
        self.killed: set[int] = set()

    def teardown(self) -> None:
        try:
            while self.model.idle:  # so that they come in the model's order
                self.acquire()
            self.compare()
            if not self.model.closed:
                self.close()
            self.compare()
            assert all(waiter.ready() for waiter in self.waiters.values())
        finally:
            gevent.killall(list(self.waiters.values()))
            for connection in self.connections:
                connection.mine.close()
                connection.peer.close()

    # Connections come

    def new_connection(self, slot: int, id: str) -> Connection:
        server = self.servers.get(id, {"path": "gone"})
        connection = Connection(Slot(slot, id, server))
        self.connections.append(connection)
        return connection

    @rule(slots=st.lists(st.integers(0, 3), min_size=2, max_size=5), id=st.sampled_from(IDS))
    def offer_several(self, slots: list[int], id: str) -> None:
        for slot in slots:
            self.offer(slot, id)

    @rule(slot=st.integers(0, 3), id=st.sampled_from(IDS))
    def offer(self, slot: int, id: str) -> None:
        connection = self.new_connection(slot, id)
        expected = self.model.offer(connection)
        assert self.pool.offer(connection.slot, connection.mine) is expected

    @rule(slot=st.integers(0, 3), id=st.sampled_from(IDS), ends=st.booleans())
    def offer_one_that_is_not_silent(self, slot: int, id: str, ends: bool) -> None:
        connection = self.new_connection(slot, id)
        self.disturb(connection, ends=ends)
        assert not self.pool.offer(connection.slot, connection.mine)

    # Users

    @precondition(lambda self: not self.model.closed)
    @rule()
    def acquire_all(self) -> None:
        while self.model.idle:
            self.acquire()

    @precondition(lambda self: not self.model.closed)
    @rule()
    def acquire(self) -> None:
        expected = self.model.acquire()
        if expected is not None:
            assert self.pool.acquire(0) is expected.mine
            return
        with pytest.raises(PoolTimeout):
            self.pool.acquire(0)

    def a_leased_one(self, data: st.DataObject) -> Connection:
        return data.draw(st.sampled_from(self.model.leased))

    @precondition(lambda self: self.model.leased)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        connection = self.a_leased_one(data)
        self.model.release(connection)
        self.pool.release(connection.mine)

    @precondition(lambda self: self.model.leased)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        connection = self.a_leased_one(data)
        self.model.remove(connection)
        self.pool.discard(connection.mine)

    # Waiters

    @precondition(lambda self: not self.model.closed)
    @rule()
    def add_waiter(self) -> None:
        number = len(self.waiters)
        self.waiters[number] = gevent.spawn(self.pool.acquire, None)
        connection = self.model.acquire()
        if connection is None:
            self.model.waiters.append(number)
        else:
            self.model.handed[number] = connection
        gevent.sleep(0)

    @precondition(lambda self: self.model.waiters)
    @rule(data=st.data())
    def kill_waiter(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.model.waiters))
        self.model.waiters.remove(number)
        self.killed.add(number)
        self.waiters[number].kill()

    @precondition(lambda self: self.model.waiters)
    @rule(slot=st.integers(0, 3), id=st.sampled_from(IDS))
    def kill_the_first_waiter_right_before_an_offer(self, slot: int, id: str) -> None:
        # The pool can't know yet: it hands the connection to one that gives it back.
        number = self.model.waiters[0]
        self.waiters[number].kill(block=False)
        self.offer(slot, id)
        self.take_back(number)

    @precondition(lambda self: self.model.waiters)
    @rule(slot=st.integers(0, 3), id=st.sampled_from(IDS))
    def kill_the_first_waiter_right_after_an_offer(self, slot: int, id: str) -> None:
        number = self.model.waiters[0]
        failures: list[BaseException] = []

        def run() -> None:
            try:
                self.offer(slot, id)
            except BaseException as exc:
                failures.append(exc)
            self.waiters[number].throw(gevent.GreenletExit)

        gevent.get_hub().loop.run_callback(run)
        self.waiters[number].join()
        for failure in failures:
            raise failure
        self.take_back(number)

    def take_back(self, number: int) -> None:
        """Give on, in the model, what a waiter was handed that was killed."""
        self.killed.add(number)
        connection = self.model.handed.pop(number, None)
        if connection is None:
            self.model.waiters.remove(number)
        else:
            self.model.release(connection)
        gevent.sleep(0)

    # The peers, the registry, the end

    def disturb(self, connection: Connection, *, ends: bool) -> None:
        connection.silent = False
        if ends:
            connection.peer.close()
        else:
            connection.peer.sendall(b"!")

    @precondition(lambda self: self.model.idle or self.model.leased)
    @rule(data=st.data(), ends=st.booleans(), noticed=st.booleans())
    def peer_ends_or_talks(self, data: st.DataObject, ends: bool, noticed: bool) -> None:
        connection = data.draw(st.sampled_from(self.model.idle + self.model.leased))
        if not connection.silent:
            return
        self.disturb(connection, ends=ends)
        if not noticed and not self.model.closed:
            self.acquire()  # before the hub could tell the pool
        if connection in self.model.idle:
            self.model.remove(connection)
        # The hub looks at its callbacks, then at its descriptors.
        while connection not in self.model.leased and connection.mine.fileno() >= 0:
            gevent.sleep(0)

    @rule(id=st.sampled_from(IDS))
    def drop_server(self, id: str) -> None:
        self.rover.drop_server(id)

    @precondition(lambda self: len(self.servers) < len(IDS))
    @rule()
    def bring_servers_back(self) -> None:
        for id in IDS:
            if id not in self.servers:
                self.change_server(id)

    @rule(id=st.sampled_from(IDS))
    def change_server(self, id: str) -> None:
        self.entries += 1
        self.servers[id] = {"host": "127.0.0.1", "port": self.entries}

    @rule()
    def tick(self) -> None:
        for connection in list(self.model.kept):
            if self.servers.get(connection.slot.server_id) != connection.slot.server:
                self.model.retire(connection)
        self.rover.start()  # a tick at once,
        gevent.sleep(0)
        self.rover.stop()  # and the attempts that it began, given up

    @precondition(lambda self: not self.model.closed and len(self.connections) > 20)
    @rule()
    def close(self) -> None:
        waiters, self.model.waiters = self.model.waiters, []
        self.model.close()
        self.pool.close()
        for number in waiters:
            with pytest.raises(PoolClosed):
                self.waiters[number].get()
        with pytest.raises(PoolClosed):
            self.pool.acquire(None)

    @invariant()
    def compare(self) -> None:
        pool, model = self.pool, self.model
        leased = [connection for connection in model.kept if connection in model.leased]
        by_slot = sorted(model.kept, key=lambda connection: connection.slot)
        assert pool.slots() == [(connection.slot, connection in leased) for connection in by_slot]
        assert pool.size == len(model.kept)
        assert pool.idle == len(model.idle)
        assert pool.leased == len(leased)
        assert pool.retired == len(model.leased) - len(leased)
        assert pool.waiting == len(model.waiters)
        assert pool.deficit == model.max_slots - len(model.kept)
        for connection in self.connections:
            is_open = connection in model.idle or connection in model.leased
            assert (connection.mine.fileno() >= 0) is is_open
        gevent.sleep(0)
        for number, connection in model.handed.items():
            assert self.waiters[number].value is connection.mine
        for number in self.killed:
            assert isinstance(self.waiters[number].value, gevent.GreenletExit)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
