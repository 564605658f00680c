"""A snapshot: what it says of a rover, a pool and each server, and what it doesn't."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from conftest import entry, wait_until
from gevent import socket
from test_fork import FORKS, in_child

from gevent_rover import Rover, Server, SlotPool, SlotServer
from gevent_rover.policy.histogram import BOUNDS, quantile
from gevent_rover.status import Snapshot, snapshot
from gevent_rover.status.texts import line_of

Closing = Callable[[Any], Any]


def echo(slot: int, sock: socket.socket, address: object) -> None:
    while data := sock.recv(100):
        sock.sendall(data)


def rows_of(seen: Snapshot) -> dict[str | None, Any]:
    return {row["id"]: row for row in seen["servers"]}


def state_of(rover: Rover, pool: SlotPool[Any], id: str) -> str:
    return str(rows_of(snapshot(rover, pool))[id]["state"])


def ask(pool: SlotPool[Any], times: int = 1) -> None:
    for _ in range(times):
        with pool.lease() as sock:
            sock.sendall(b"x")
            if sock.recv(1) != b"x":
                raise ConnectionResetError("it hung up")


def test_it_says_what_rover_and_pool_are_up_to(
    closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    server = slot_server(echo)
    rover = closing(Rover({"web1": entry(server)}, roving_interval=0.05))
    pool = closing(SlotPool(rover, max_slots=3))
    rover.start()
    pool.wait_ready()
    ask(pool, 20)
    leased = pool.acquire()
    seen = snapshot(rover, pool, name="cache")
    assert seen["worker"]["pid"] == os.getpid()
    assert seen["rover"] == {"started": True, "pending": rover.pending, "interval": 0.05}
    assert abs(seen["time"] - time.time()) < 5
    assert seen["bounds"] == BOUNDS
    mine = seen["pool"]
    assert mine is not None
    assert (mine["name"], mine["size"], mine["idle"], mine["leased"]) == ("cache", 3, 2, 1)
    assert (mine["leases"], mine["failures"], mine["opened"], mine["closed_by"]) == (21, 0, 3, {})
    [row] = seen["servers"]
    assert (row["id"], row["address"], row["state"]) == (
        "web1",
        f"127.0.0.1:{server.server_port}",
        "up",
    )
    assert [slot for slot, _ in row["slots"]] == [0, 1, 2]
    assert sorted(state for _, state in row["slots"]) == ["idle", "idle", "leased"]
    assert (row["idle"], row["leased"], row["leases"], row["failures"]) == (2, 1, 21, 0)
    assert sum(count for _, count in row["lease_times"]) == 20
    assert row["attempts"] >= 3
    assert (row["failed_attempts"], row["error"], row["error_since"]) == (0, None, None)
    pool.release(leased)


def test_it_is_plain_json(closing: Closing, slot_server: Callable[..., SlotServer]) -> None:
    rover = closing(Rover({"web1": entry(slot_server(echo))}))
    pool = closing(SlotPool(rover, max_slots=1))
    rover.start()
    ask(pool)
    seen = json.loads(json.dumps(snapshot(rover, pool)))
    assert seen["servers"][0]["slots"] == [[0, "idle"]]
    assert all(len(pair) == 2 for pair in seen["servers"][0]["lease_times"])


def test_quantiles_come_from_its_histograms(
    closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    def slow(slot: int, sock: socket.socket, address: object) -> None:
        while data := sock.recv(100):
            gevent.sleep(0.02)
            sock.sendall(data)

    rover = closing(Rover({"web1": entry(slot_server(slow))}))
    pool = closing(SlotPool(rover, max_slots=1))
    rover.start()
    ask(pool, 5)
    [row] = snapshot(rover, pool)["servers"]
    counts = [0] * (len(BOUNDS) + 1)
    for index, count in row["lease_times"]:
        counts[index] = count
    median = quantile(counts, 0.5)
    assert median is not None
    assert 0.015 < median < 0.2


def test_a_server_dies_and_comes_back(
    closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    server = slot_server(echo)
    rover = closing(Rover({"web1": entry(server)}, roving_interval=0.02))
    pool = closing(SlotPool(rover, max_slots=2))
    rover.start()
    pool.wait_ready()
    began = time.time()
    server.stop(timeout=0)
    wait_until(lambda: state_of(rover, pool, "web1") == "unreachable")
    row = rows_of(snapshot(rover, pool))["web1"]
    assert row["error"].startswith("ConnectionRefusedError: ")
    assert began - 1 < row["error_since"] <= row["error_at"] < time.time() + 1
    assert row["slots"] == ()
    attempts = row["attempts"]
    server.start()
    wait_until(lambda: state_of(rover, pool, "web1") == "up")
    row = rows_of(snapshot(rover, pool))["web1"]
    assert row["error"].startswith("ConnectionRefusedError: ")  # It's still worth knowing.
    assert row["attempts"] > attempts


def test_one_whose_leases_fail_is_set_aside_and_the_exception_is_named(
    closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    rover = closing(Rover({"bad": entry(slot_server(echo))}, roving_interval=0.02))
    pool = closing(SlotPool(rover, max_slots=1))
    rover.start()
    for _ in range(3):
        with pytest.raises(ConnectionResetError), pool.lease():
            raise ConnectionResetError("it hung up")
    row = rows_of(snapshot(rover, pool))["bad"]
    assert (row["state"], row["failures"]) == ("set aside", 3)
    assert row["error"] == "ConnectionResetError: it hung up"
    ask(pool)
    assert state_of(rover, pool, "bad") == "up"


def test_one_that_speaks_another_protocol_is_an_error(
    closing: Closing, says: Callable[..., Server]
) -> None:
    rover = closing(Rover({"mail": says(b"220 mail.example\r\n")}, roving_interval=0.02))
    rover.on("error", lambda rover, error: None)
    rover.start()
    pool = closing(SlotPool(rover))
    wait_until(lambda: state_of(rover, pool, "mail") == "error")
    assert "ProtocolError: " in rows_of(snapshot(rover, pool))["mail"]["error"]


def test_one_that_left_drains_as_long_as_its_connections_are_in_use(
    closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    rover = closing(Rover({"web1": entry(slot_server(echo))}, roving_interval=0.02))
    pool = closing(SlotPool(rover, max_slots=1))
    rover.start()
    leased = pool.acquire()
    rover.drop_server("web1")
    row = rows_of(snapshot(rover, pool))["web1"]
    assert (row["state"], row["address"]) == ("draining", None)
    pool.release(leased)
    assert snapshot(rover, pool)["servers"] == []


def test_a_rover_alone_and_a_pool_alone(closing: Closing, offer: Any) -> None:
    rover = closing(
        Rover({"a": {"path": "\0name"}, "b": {"host": "::1", "port": 7}, "c": {"port": 7}})
    )
    seen = snapshot(rover)
    assert seen["pool"] is None
    assert [row["address"] for row in seen["servers"]] == ["unix:@name", "[::1]:7", None]
    pool = closing(SlotPool(max_slots=2))
    peers = [offer(pool, 4, "x")]
    plain, peer = socket.socketpair()
    pool.offer(7, plain)
    seen = snapshot(None, pool)
    assert seen["rover"] is None
    assert {id: row["slots"] for id, row in rows_of(seen).items()} == {
        "x": ((4, "idle"),),
        None: ((7, "idle"),),
    }
    assert {row["state"] for row in seen["servers"]} == {"up"}
    assert len(peers) == 1
    peer.close()


def test_a_closed_pool_says_so(closing: Closing) -> None:
    pool = closing(SlotPool())
    pool.close()
    mine = snapshot(None, pool)["pool"]
    assert mine is not None
    assert mine["closed"]


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
def test_another_process_has_another_id_and_counts_from_nothing(
    fork: Callable[[], int], closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    rover = closing(Rover({"web1": entry(slot_server(echo))}))
    pool = closing(SlotPool(rover, max_slots=1))
    rover.start()
    ask(pool, 3)
    mine = snapshot(rover, pool)
    theirs: Any = in_child(fork, lambda: snapshot(rover, pool))
    assert theirs["worker"]["id"] != mine["worker"]["id"]
    assert snapshot(rover, pool)["worker"] == mine["worker"]
    assert (theirs["pool"]["leases"], theirs["servers"][0]["lease_times"]) == (0, [])
    assert theirs["servers"][0]["attempts"] == 0


def test_the_line_of_a_worker_says_what_a_snapshot_does(
    closing: Closing, slot_server: Callable[..., SlotServer], dead_server: Server
) -> None:
    servers: Any = {"web1": entry(slot_server(echo)), '<b>\n"\ud800': dead_server, 17: {"port": 1}}
    rover = closing(Rover(servers, roving_interval=0.02))
    rover.on("error", lambda rover, error: None)
    pool = closing(SlotPool(rover, max_slots=3))
    rover.start()
    pool.wait_ready()
    ask(pool, 20)
    leased = pool.acquire()
    wait_until(lambda: rover.health.get('<b>\n"\ud800') is not None)
    rover.stop()
    rover.servers["web2"] = {"path": "/nobody"}
    for stay in (True, False):
        if not stay:
            rover.drop_server("web1")
        line = line_of("here", rover, pool, "cache")
        assert b"\n" not in line
        said = json.loads(line)
        seen: Any = json.loads(json.dumps(snapshot(rover, pool, name="cache")))
        assert said["where"] == "here"
        assert said["snapshot"].pop("time") == pytest.approx(seen.pop("time"))
        shown, rows = said["snapshot"].pop("servers"), seen.pop("servers")
        assert said["snapshot"] == seen
        empty = {"slots": [], "lease_times": [], "slowness": 1.0}
        for mine, row in zip(shown, rows, strict=True):
            for key in ("error_since", "error_at"):
                if row[key] is not None:
                    assert mine.pop(key) == pytest.approx(row.pop(key))
            for key, most in (("lease_seconds", 1e-6), ("latency", 0), ("slowness", 0)):
                if key in mine:
                    assert mine.pop(key) == pytest.approx(row.pop(key), rel=1e-5, abs=most)
            row["id"] = row["id"] and str(row["id"])
            left_out = {key: empty.get(key, row[key] and 0) for key in row.keys() - mine.keys()}
            assert left_out | mine == row
    pool.release(leased)
