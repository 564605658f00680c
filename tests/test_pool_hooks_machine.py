"""A pool with hooks against a small model: each hook waits until the machine lets it go on."""

from __future__ import annotations

from itertools import count
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import AsyncResult
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
from gevent_rover.pooling import preparing

IDS = ("web1", "web2")


class Connection:
    """What the model knows of one connection; its state is what the pool's must be."""

    def __init__(self, slot: Slot, order: int) -> None:
        self.slot, self.order = slot, order
        self.mine, self.peer = socket.socketpair()
        self.state = "new"
        self.released = 0  # when it came back, for the order of those that are idle
        self.gate: AsyncResult[Any] = AsyncResult()  # of the hook that is running
        self.client: list[Connection] = [self]  # unhashable, as clients may be
        self.set_up = False
        self.torn_down = 0


class User:
    """A greenlet that leases."""

    def __init__(self, turn: int, tries: int) -> None:
        self.turn, self.tries = turn, tries
        self.state = "waiting"
        self.connection: Connection | None = None
        self.greenlet: Any = None


class HookedPoolMachine(RuleBasedStateMachine):
    """Does the same to a pool and its model, and compares them after every step."""

    @initialize(max_slots=st.integers(1, 3))
    def begin(self, max_slots: int) -> None:
        self.servers: dict[str, Server] = {}
        self.numbers = count(1)
        for id in IDS:
            self.change_server(id)
        self.rover = Rover(self.servers, timeout=1000)  # never started: its ticks are a rule
        self.pool: SlotPool[Any] = SlotPool(
            self.rover,
            max_slots=max_slots,
            choice=LowestSlot(),
            setup=self.setup,
            check=self.check,
            reset=self.reset,
            teardown=self.tear_down,
        )
        self.max_slots = max_slots
        self.connections: list[Connection] = []
        self.by_socket: dict[Any, Connection] = {}
        self.users: list[User] = []
        self.suspects: set[str] = set()
        self.closed = False

    def teardown(self) -> None:
        try:
            if not self.closed:
                self.close()
            while (running := self.running()) or self.having("leased", "retired"):
                for connection in running:
                    self.end_hook(connection, fails=False)
                for connection in self.having("leased", "retired"):
                    self.give_back(connection)
                self.settle()
                self.compare()
            gevent.joinall([user.greenlet for user in self.users], timeout=5)
            assert {connection.state for connection in self.connections} <= {"closed"}
        finally:
            gevent.killall([user.greenlet for user in self.users])
            for connection in self.connections:
                connection.mine.close()
                connection.peer.close()

    # The hooks

    def setup(self, sock: Any, slot: Slot) -> Any:
        connection = self.by_socket[sock]
        connection.gate.get()
        connection.set_up = True
        return connection.client

    def check(self, client: list[Connection]) -> None:
        client[0].gate.get()

    def reset(self, client: list[Connection]) -> None:
        client[0].gate.get()

    def tear_down(self, client: list[Connection]) -> None:
        gevent.sleep(0)
        client[0].torn_down += 1

    # The model

    def having(self, *states: str) -> list[Connection]:
        return [each for each in self.connections if each.state in states]

    def kept(self) -> list[Connection]:
        kept = self.having("preparing", "idle", "checking", "leased", "resetting")
        return sorted(kept, key=lambda each: (each.slot, each.order))

    def running(self) -> list[Connection]:
        """Return the connections on which a hook is running."""
        states = "preparing", "candidate", "checking", "checking retired", "resetting", "ending"
        return self.having(*states)

    def is_gone(self, connection: Connection) -> bool:
        return self.servers.get(connection.slot.server_id) != connection.slot.server

    def give_up(self, connection: Connection) -> None:
        connection.state = {
            "leased": "retired",
            "checking": "checking retired",
            "resetting": "ending",
        }.get(connection.state, "closed")

    def give_up_excess(self) -> None:
        while len(kept := self.kept()) > self.max_slots:
            highest = [each for each in kept if each.slot == kept[-1].slot]
            unused = [each for each in highest if each.state in ("idle", "preparing")]
            self.give_up((unused or highest)[-1])

    def make_idle(self, connection: Connection) -> None:
        connection.state = "idle"
        connection.released = next(self.numbers)
        waiting = sorted(self.having_users("waiting"), key=lambda user: user.turn)
        if waiting:
            self.try_one(waiting[0])

    def having_users(self, state: str) -> list[User]:
        return [user for user in self.users if user.state == state]

    def try_one(self, user: User) -> None:
        """Have a user check the next connection, or wait for one."""
        user.state, user.connection = "waiting", None
        for connection in sorted(self.having("idle"), key=lambda each: (each.slot, each.released)):
            if self.is_gone(connection):
                connection.state = "closed"
                continue
            if user.tries == 0:
                break
            connection.state, user.state = "checking", "checking"
            connection.gate = AsyncResult()
            user.connection = connection
            return

    def retry(self, user: User) -> None:
        """Go on after a check that failed."""
        user.tries -= 1
        if user.tries == 0:
            user.state, user.connection = "timed out", None
        elif self.closed:
            user.state, user.connection = "refused", None
        else:
            self.try_one(user)

    # Connections come, and are set up

    @rule(slot=st.integers(0, 3), id=st.sampled_from(IDS))
    def offer(self, slot: int, id: str) -> None:
        server = self.servers.get(id, {"path": "gone"})
        connection = Connection(Slot(slot, id, server), next(self.numbers))
        self.connections.append(connection)
        self.by_socket[connection.mine] = connection
        kept = self.kept()
        full = len(kept) >= self.max_slots
        others = self.having("candidate", *(["preparing"] if id in self.suspects else []))
        if (
            self.closed
            or self.is_gone(connection)
            or (full and slot >= kept[-1].slot)
            or any(other.slot.server_id == id for other in others)
        ):
            connection.state = "closed"
        else:
            connection.state = "candidate" if full else "preparing"
        taken = self.pool.offer(connection.slot, connection.mine)
        assert taken is (connection.state != "closed")
        self.settle()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), fails=st.booleans())
    def end_one_hook(self, data: st.DataObject, fails: bool) -> None:
        self.end_hook(data.draw(st.sampled_from(self.running())), fails=fails)

    @rule(fails=st.booleans())
    def end_setups(self, fails: bool) -> None:
        for connection in self.having("preparing", "candidate"):
            if connection.state != "closed":
                self.end_hook(connection, fails=fails)

    def end_hook(self, connection: Connection, *, fails: bool) -> None:
        if fails:
            connection.gate.set_exception(ValueError("a hook that fails"))
        else:
            connection.gate.set(None)
        state, connection.state = connection.state, "closed"
        if state in ("preparing", "candidate"):
            self.setup_ended(connection, state, fails=fails)
        elif state in ("checking", "checking retired"):
            self.check_ended(connection, state, fails=fails)
        elif not fails and state == "resetting" and not self.is_gone(connection):
            self.make_idle(connection)
        self.settle()

    def setup_ended(self, connection: Connection, state: str, *, fails: bool) -> None:
        if fails:
            self.suspects.add(connection.slot.server_id)
        elif not self.is_gone(connection):
            kept = self.kept()
            if state == "candidate":
                if len(kept) >= self.max_slots and connection.slot >= kept[-1].slot:
                    return
                connection.order = next(self.numbers)
            connection.state = "preparing"
            self.give_up_excess()
            self.make_idle(connection)

    def check_ended(self, connection: Connection, state: str, *, fails: bool) -> None:
        [user] = [user for user in self.users if user.connection is connection]
        if self.closed:
            user.state, user.connection = "refused", None
        elif fails or self.is_gone(connection):
            self.retry(user)
        else:
            user.state = "holding"
            connection.state = "leased" if state == "checking" else "retired"

    @precondition(lambda self: self.having("preparing", "candidate"))
    @rule(data=st.data())
    def hang(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(self.having("preparing", "candidate")))
        connection.state = "candidate"
        [found] = [
            each
            for each in [*self.pool._stock.preparing, *self.pool._stock.candidates]
            if each.socket is connection.mine
        ]
        self.pool._stock._hangs(found)  # type: ignore[attr-defined]  # what the timer calls

    # Users

    @precondition(lambda self: not self.closed)
    @rule()
    def lease(self) -> None:
        user = User(next(self.numbers), self.max_slots)
        self.users.append(user)
        self.try_one(user)
        user.greenlet = gevent.spawn(self.pool.acquire, None)
        self.settle()

    @precondition(lambda self: self.having_users("holding"))
    @rule(data=st.data(), discard=st.booleans())
    def end_lease(self, data: st.DataObject, discard: bool) -> None:
        user = data.draw(st.sampled_from(self.having_users("holding")))
        connection = user.connection
        assert connection is not None
        self.give_back(connection, discard=discard)
        self.settle()

    def give_back(self, connection: Connection, *, discard: bool = False) -> None:
        for user in self.users:
            if user.connection is connection:
                user.state, user.connection = "done", None
        if discard:
            connection.state = "closed"
            self.pool.discard(connection.client)
        else:
            connection.gate = AsyncResult()
            connection.state = "resetting" if connection.state == "leased" else "closed"
            self.pool.release(connection.client)
        with pytest.raises(Exception, match="not leased from this pool"):
            self.pool.release(connection.client)

    @precondition(lambda self: self.having_users("waiting") or self.having_users("checking"))
    @rule(data=st.data())
    def kill_user(self, data: st.DataObject) -> None:
        users = self.having_users("waiting") + self.having_users("checking")
        user = data.draw(st.sampled_from(users))
        if user.connection is not None:
            user.connection.state = "closed"
        user.state, user.connection = "killed", None
        user.greenlet.kill()
        self.settle()

    # The registry, the ticks, the sizes, the end

    @rule(id=st.sampled_from(IDS))
    def change_server(self, id: str) -> None:
        self.servers[id] = {"host": "127.0.0.1", "port": next(self.numbers)}

    @rule(id=st.sampled_from(IDS))
    def drop_server(self, id: str) -> None:
        self.rover.drop_server(id)

    @rule()
    def tick(self) -> None:
        for connection in [*self.kept(), *self.having("candidate")]:
            if self.is_gone(connection):
                self.give_up(connection)
        self.suspects &= set(self.servers)
        self.rover.start()  # a tick at once,
        gevent.sleep(0)
        self.rover.stop()  # and the attempts that it began, given up
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule(max_slots=st.integers(1, 3))
    def resize(self, max_slots: int) -> None:
        self.max_slots = self.pool.max_slots = max_slots
        self.give_up_excess()
        self.settle()

    @precondition(lambda self: not self.closed and len(self.connections) > 15)
    @rule()
    def close(self) -> None:
        self.closed = True
        for connection in [*self.kept(), *self.having("candidate")]:
            self.give_up(connection)
        for user in self.having_users("waiting"):
            user.state = "refused"
        self.pool.close()
        self.settle()

    def settle(self) -> None:
        """Let greenlets run until they wait for the machine."""
        for _ in range(5):
            gevent.sleep(0)

    @invariant()
    def compare(self) -> None:
        pool, kept = self.pool, self.kept()
        used = ("checking", "leased", "resetting")
        assert pool.slots() == [(each.slot, each.state in used) for each in kept]
        assert pool.size == len(kept)
        assert pool.idle == len(self.having("idle"))
        assert pool.preparing == len(self.having("preparing"))
        assert pool.leased == len(self.having(*used))
        assert pool.retired == len(self.having("retired", "checking retired", "ending"))
        assert pool.waiting == len(self.having_users("waiting"))
        stats = pool.stats()
        assert stats.candidates == len(self.having("candidate"))
        assert stats.opened == sum(stats.closed.values()) + sum(
            each.state != "closed" for each in self.connections
        )
        for each in self.connections:
            assert (each.mine.fileno() >= 0) is (each.state != "closed")
            assert each.torn_down == (each.state == "closed" and each.set_up)
        for user in self.users:
            self.compare_user(user)

    def compare_user(self, user: User) -> None:
        greenlet = user.greenlet
        if user.state in ("waiting", "checking"):
            assert not greenlet.dead
        elif user.state == "holding":
            assert user.connection is not None
            assert greenlet.value is user.connection.client
        elif user.state == "killed":
            assert isinstance(greenlet.value, gevent.GreenletExit)
        elif user.state == "timed out":
            assert isinstance(greenlet.exception, PoolTimeout)
        elif user.state == "refused":
            assert isinstance(greenlet.exception, PoolClosed)


@pytest.fixture(autouse=True)
def _setups_hang_when_the_machine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "HANGS_AFTER", 1000.0)


@pytest.fixture(autouse=True)
def _users_errors_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *args: None)
    return


TestHookedPool = HookedPoolMachine.TestCase
TestHookedPool.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
