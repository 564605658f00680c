"""Forks: the child is stopped and holds nothing, the parent loses nothing."""

from __future__ import annotations

import ctypes
import json
import logging
import mmap
import os
import traceback
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from conftest import Event, entry, record, wait_until
from gevent.monkey import get_original
from gevent.os import fork as gevent_fork
from gevent.os import fork_and_watch, waitpid
from gevent.subprocess import check_output

from gevent_rover import PoolTimeout, Rover, Server, SlotPool, SlotServer
from gevent_rover.net import forks
from gevent_rover.roving.workers import Workers

FORKS: dict[str, Callable[[], int]] = {
    "gevent": gevent_fork,
    "os": os.fork,
    # A fork in C runs none of Python's hooks.
    "hookless": ctypes.PyDLL(None).fork,
}


# Patched, they wait for the hub; the parent must block until the child has ended.
_read, _close = get_original("os", "read"), get_original("os", "close")
_write, _waitpid = get_original("os", "write"), get_original("os", "waitpid")


def in_child(fork: Callable[[], int], tell: Callable[[], Any]) -> Any:
    """Fork, run ``tell`` in the child, and return what it returned there."""
    reader, writer = os.pipe()
    pid = fork()
    if not pid:
        try:
            try:
                told = tell()
            except BaseException:
                told = traceback.format_exc()
            _write(writer, json.dumps(told).encode())
        finally:
            os._exit(0)
    _close(writer)
    told = b""
    while chunk := _read(reader, 65536):
        told += chunk
    _close(reader)
    _, status = _waitpid(pid, 0)
    assert status == 0
    return json.loads(told)


def held(*servers: SlotServer) -> int:
    """Return how many slots are taken at the servers."""
    return sum(len(server.slots) for server in servers)


@pytest.fixture(params=sorted(FORKS))
def fork(request: Any) -> Callable[[], int]:
    return FORKS[request.param]


def test_the_child_has_a_stopped_rover_and_an_empty_pool(
    fork: Callable[[], int], slot_server: Callable[..., SlotServer], closing: Any
) -> None:
    servers = [slot_server() for _ in range(2)]
    registry = {str(index): entry(server) for index, server in enumerate(servers)}
    rover = closing(Rover(registry, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=6))
    rover.start()
    wait_until(lambda: pool.size == 6)
    socket = pool.acquire()

    def tell() -> Any:
        try:
            pool.acquire(0)
            acquired = "a connection"
        except PoolTimeout as exc:
            acquired = str(exc)
        return [rover.started, rover.pending, pool.size, pool.leased, socket.fileno(), acquired]

    started, pending, size, leased, fileno, acquired = in_child(fork, tell)
    assert (started, pending, size, leased, fileno) == (False, 0, 0, 0, -1)
    assert "stopped by a fork" in acquired
    assert (pool.size, pool.leased) == (6, 1)
    socket.sendall(b"still connected")
    pool.release(socket)
    gevent.sleep(0.2)
    assert (pool.size, pool.leased) == (6, 0)
    wait_until(lambda: held(*servers) == 6)  # and not an attempt's more, for a moment
    assert rover.started


def test_the_child_closes_its_copies_without_running_its_hub(
    slot_server: Callable[..., SlotServer], talker: Callable[..., Server], closing: Any
) -> None:
    server, silent = slot_server(), talker()
    rover = closing(Rover({"a": entry(server)}, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=3))
    rover.start()
    wait_until(lambda: pool.size == 3)
    rover.servers["silent"] = silent
    hanging = Rover({"silent": silent}, roving_interval=0.01)
    closing(hanging).start()
    wait_until(lambda: hanging.pending > 3)

    def sockets() -> int:
        return sum(
            os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
            for name in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{name}")
        )

    before = sockets()
    ours = hanging.pending + rover.pending + pool.size
    assert in_child(os.fork, sockets) <= before - ours


def test_a_fork_amid_a_slot_line_leaves_all_of_it_to_the_parent(
    talker: Callable[..., Server],
    rover_of: Callable[..., tuple[Rover, list[Event]]],
) -> None:
    gate = gevent.event.Event()

    def drip(sock: Any) -> None:
        sock.sendall(b"17")
        gate.wait()
        sock.sendall(b"3\r\nmore")
        sock.recv(1)

    rover, events = rover_of({"a": talker(drip)}, roving_interval=60)
    rover.start()
    wait_until(lambda: rover.pending == 1)
    gevent.sleep(0.05)

    def tell() -> Any:
        gate.set()  # The child's copy of the server would say the rest, too.
        gevent.sleep(0.2)
        return [name for name, _ in events]

    assert in_child(gevent_fork, tell) == []
    gate.set()
    wait_until(lambda: len(events) == 2)
    assert events[0][0] == "connection"
    assert events[0][1]["slot"] == 173


def test_start_in_the_child_roves_afresh(
    slot_server: Callable[..., SlotServer], closing: Any
) -> None:
    server = slot_server()
    rover = closing(Rover({"a": entry(server)}, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=3))
    rover.start()
    wait_until(lambda: pool.size == 3)
    reader, writer = os.pipe()
    pid = fork_and_watch()
    if not pid:
        try:
            rover.start()
            wait_until(lambda: pool.size == 3)
            os.write(writer, json.dumps(pool.slots()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    assert waitpid(pid, 0) == (pid, 0)  # Meanwhile the hub serves the child.
    told = json.loads(os.read(reader, 65536))
    os.close(reader)
    # The parent's three are still taken, so the child got others.
    assert len(told) == 3
    assert min(slot for slot, _ in told) >= 3
    assert pool.slots() == [(0, False), (1, False), (2, False)]
    wait_until(lambda: held(server) == 3)


@pytest.mark.integration
def test_a_hundred_forks_at_full_speed_cost_the_parent_nothing(
    slot_server: Callable[..., SlotServer], closing: Any
) -> None:
    servers = [slot_server() for _ in range(3)]
    rover = closing(Rover({str(i): entry(s) for i, s in enumerate(servers)}, roving_interval=0.05))
    open_sockets: list[Any] = []
    outcomes: dict[str, int] = {}

    @rover.on("connection")  # type: ignore[untyped-decorator]
    def keep(sender: Rover, slot: int, socket: Any) -> None:
        open_sockets.append(socket)
        if len(open_sockets) > 20:
            open_sockets.pop(0).close()

    @rover.on("attempt")  # type: ignore[untyped-decorator]
    def count(sender: Rover, attempt: Any) -> None:
        outcomes[attempt.outcome] = outcomes.get(attempt.outcome, 0) + 1

    rover.wanted = lambda: 8
    rover.start()
    for _ in range(100):
        gevent.sleep(0.005)
        pid = gevent_fork()
        if not pid:
            os._exit(0 if rover.pending == 0 and not rover.started else 1)
        _, status = _waitpid(pid, 0)
        assert status == 0
        assert rover.started
    rover.stop()
    for socket in open_sockets:
        socket.close()
    assert set(outcomes) == {"connection"}
    wait_until(lambda: held(*servers) == 0)


def test_a_subprocess_costs_the_parent_nothing(
    slot_server: Callable[..., SlotServer], closing: Any
) -> None:
    server = slot_server()
    rover = closing(Rover({"a": entry(server)}, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=3))
    rover.start()
    wait_until(lambda: pool.size == 3)
    assert check_output(["echo", "hello"]) == b"hello\n"
    gevent.sleep(0.1)
    assert (pool.size, rover.started) == (3, True)
    wait_until(lambda: held(server) == 3)  # An attempt may have one for a moment.


def test_a_child_that_uses_the_pool_is_warned_once(
    slot_server: Callable[..., SlotServer], closing: Any, caplog: Any
) -> None:
    server = slot_server()
    rover = closing(Rover({"a": entry(server)}, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=3))
    rover.start()
    wait_until(lambda: pool.size == 3)

    def tell() -> Any:
        before = len(caplog.records)
        for _ in range(3):
            with pytest.raises(PoolTimeout):
                pool.acquire(0)
        return [record.levelno for record in caplog.records[before:]]

    assert in_child(gevent_fork, tell) == [logging.WARNING]
    assert not [record for record in caplog.records if "fork" in record.getMessage()]


def test_the_mark_tells_the_child_and_its_child(fork: Callable[[], int]) -> None:
    for mark in (forks._make_mark(), forks._Pid()):

        def tell(mark: Any = mark) -> Any:
            told = [bool(mark[0])]
            mark[0] = 1
            return [*told, bool(mark[0]), in_child(fork, lambda: bool(mark[0]))]

        assert in_child(fork, tell) == [False, True, False]
        assert mark[0]


def test_where_no_page_can_be_cleared_the_pid_is_the_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MAP_PRIVATE")
    assert isinstance(forks._make_mark(), forks._Pid)


def test_one_that_fails_after_a_fork_keeps_no_other_from_letting_go(
    slot_server: Callable[..., SlotServer], closing: Any, caplog: Any
) -> None:
    class Failing(forks.Forkable):
        def _after_fork(self) -> None:
            raise ZeroDivisionError

    server = slot_server()
    # Whichever comes first.
    failing = [Failing()]
    rover = closing(Rover({"a": entry(server)}, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=3))
    failing.append(Failing())
    rover.start()
    wait_until(lambda: pool.size == 3)

    def tell() -> Any:
        messages = [record.getMessage() for record in caplog.records]
        return [rover.started, pool.size, sum("after a fork" in said for said in messages)]

    assert in_child(gevent_fork, tell) == [False, 0, 2]
    assert (rover.started, pool.size) == (True, 3)
    failing.clear()


def test_a_rover_of_a_thread_that_ended_forks_without_an_error(
    slot_server: Callable[..., SlotServer], closing: Any, caplog: Any
) -> None:
    rover = closing(Rover({"a": entry(slot_server())}, roving_interval=0.02))
    events = record(rover)

    def rove_with_a_hub_of_its_own() -> None:
        try:
            with rover:
                wait_until(lambda: len(events) >= 6)
        finally:
            gevent.get_hub().destroy(destroy_loop=True)

    gevent.get_hub().threadpool.apply(rove_with_a_hub_of_its_own)
    assert in_child(gevent_fork, lambda: [r.getMessage() for r in caplog.records]) == []
    for _, keywords in events:
        if "socket" in keywords:
            keywords["socket"]._sock.close()  # Its own close() would ask that thread's hub.


def test_a_worker_that_had_not_begun_when_its_hub_was_destroyed_is_let_go_of() -> None:
    done: list[int] = []
    workers = Workers(done.append, lambda: None)

    def submit() -> None:
        workers.submit(1)
        gevent.get_hub().destroy(destroy_loop=True)

    gevent.get_hub().threadpool.apply(submit)
    assert len(workers.greenlets) == 1
    workers.abandon()
    assert (workers.greenlets, done) == ([], [])


def test_waiters_are_dropped_in_the_child_and_served_in_the_parent(closing: Any) -> None:
    pool = closing(SlotPool())
    waiter = gevent.spawn(pool.acquire)
    wait_until(lambda: pool.waiting == 1)
    assert in_child(gevent_fork, lambda: pool.waiting) == 0
    ours, theirs = gevent.socket.socketpair()
    closing(theirs)
    assert pool.offer(0, ours)
    assert waiter.get(timeout=5) is ours
    pool.release(ours)
