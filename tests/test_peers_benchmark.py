"""The benchmark against peers runs, its rows are whole, and the peers do what they say."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import run_benchmark, wait_until
from gevent import socket

sys.path.append(str(Path(__file__).parents[1]))  # behind an installed package

from benchmarks.child import Child, python
from benchmarks.loopback import Address
from benchmarks.peers.clients import KeptThroughProxy, OnceThroughProxy, Pooled, TwoChoices
from benchmarks.peers.fleet import REQUEST
from benchmarks.peers.haproxy import command, haproxy
from benchmarks.peers.opened import SCENARIOS, arrivals
from benchmarks.peers.rows import CLOSED, rows_of, tables
from benchmarks.peers.site import NO_HAPROXY, OURS, PEERS, Setup

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux"),
]

NO_WORK = REQUEST.pack(0.0)
Closing = Callable[[Any], Any]
#: A process of one server, its address with the slot line, and the one without.
Served = tuple[Child, Address, Address]


def unused(stack: ExitStack) -> Address:
    """Return an address where nobody listens but who is told it, until the stack ends."""
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    host, port = sock.getsockname()
    return host, port


def core() -> int:
    return min(os.sched_getaffinity(0))


@contextmanager
def serving(count: int, workers: int = 1) -> Iterator[list[Served]]:
    """Run a process for each of ``count`` servers for the time of a ``with`` block."""
    with ExitStack() as stack:
        served = []
        for _ in range(count):
            slotted, bare = unused(stack), unused(stack)
            ports = [[slotted[1], bare[1]]]
            child = stack.enter_context(python("peers.fleet", ports, workers, core()))
            served.append((child, slotted, bare))
        for child, _, _ in served:
            child.receive()
        yield served


# The command


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_quick_run_has_a_row_for_every_scenario_and_peer(tmp_path: Path) -> None:
    output = tmp_path / "peers.json"
    printed = run_benchmark("benchmarks.peers", "--quick", "--output", output)
    rows = json.loads(output.read_text())["rows"]
    assert [(row["scenario"], row["peer"]) for row in rows] == [
        (scenario, peer) for scenario in (*CLOSED, *SCENARIOS) for peer in PEERS
    ]
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    lines = [line for line in lines if not line.startswith(("| scenario", "| --"))]
    for row, line in zip(rows, lines, strict=True):
        assert row["scenario"] in line and row["peer"] in line
        if PEERS[row["peer"]].balance and command() is None:
            assert row["skipped"] == NO_HAPROXY
            continue
        assert row["skipped"] == ""
        assert 0 < row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
        assert 0 < row["p50"]["median"] <= row["p99"]["median"]
        assert row["client cpu"]["median"] > 0
        assert (row["haproxy cpu"]["median"] > 0) == bool(PEERS[row["peer"]].balance)
        if row["scenario"] in (*CLOSED, "equal servers"):
            assert row["failures"]["high"] == 0
        if row["scenario"] in CLOSED:
            assert row["requests/s"]["median"] > 0
            assert (row.get("outcome") is not None) == (PEERS[row["peer"]].target is not None)


@pytest.mark.integration
def test_only_leaves_the_other_scenarios_out(tmp_path: Path) -> None:
    output = tmp_path / "peers.json"
    run_benchmark(
        "benchmarks.peers", "--quick", "--only", "one slow", "--rounds", 2, "--output", output
    )
    report = json.loads(output.read_text())
    assert report["rounds"] == 2
    assert {row["scenario"] for row in report["rows"]} == {"one slow"}


# Rows


def test_ratios_above_1_are_in_our_favour_and_decide_the_outcome() -> None:
    kept = "HAProxy leastconn, kept"
    (scenario, _) = CLOSED
    flat_out = {
        OURS: [{"requests/s": 300.0}, {"requests/s": 280.0}],
        kept: [{"requests/s": 200.0}, {"requests/s": 200.0}],
    }
    row = rows_of(scenario, flat_out)[list(PEERS).index(kept)]
    assert (row["ratio"]["median"], row["outcome"]) == (1.45, "reached")
    flat_out[OURS] = [{"requests/s": 270.0}, {"requests/s": 280.0}]
    assert rows_of(scenario, flat_out)[list(PEERS).index(kept)]["outcome"] == "missed"
    came = {OURS: [{"p99": 10.0}], kept: [{"p99": 30.0}]}
    row = rows_of("equal servers", came)[list(PEERS).index(kept)]
    assert row["ratio"]["median"] == 3
    assert "outcome" not in row


def test_without_haproxy_its_rows_say_why_they_are_skipped() -> None:
    figures = {name: [{"p99": 1.0}] for name, peer in PEERS.items() if not peer.balance}
    rows = rows_of("equal servers", figures)
    assert [row["peer"] for row in rows if row["skipped"] == NO_HAPROXY] == [
        name for name, peer in PEERS.items() if peer.balance
    ]
    assert tables(rows).count(f"skipped: {NO_HAPROXY}") == 4


def test_haproxy_is_looked_for_where_debian_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command() in (None, "/usr/sbin/haproxy", "/sbin/haproxy")
    mine = tmp_path / "haproxy"
    mine.touch(mode=0o755)
    assert command() == str(mine)


# The load


def test_load_is_that_of_the_fleet_at_its_smallest() -> None:
    setup = Setup(servers=4, workers=4, mean=0.04, slowness=4.0, load=0.5)
    assert SCENARIOS["equal servers"].rate(setup) == pytest.approx(200)
    assert SCENARIOS["one slow"].rate(setup) == pytest.approx(162.5)
    assert SCENARIOS["one dies"].rate(setup) == pytest.approx(150)
    assert SCENARIOS["one joins"].rate(setup) == pytest.approx(150)


def test_arrivals_are_the_same_for_a_seed() -> None:
    setup = Setup()
    one, again = (list(arrivals(setup, 400.0, seed=1)) for _ in range(2))
    assert one == again != list(arrivals(setup, 400.0, seed=2))
    assert {client for _, client, _ in one} == set(range(setup.clients))


# The peers


def test_a_server_says_its_slot_at_one_of_its_ports_only() -> None:
    with serving(1) as [(child, slotted, bare)], ExitStack() as stack:

        def connected(address: Address) -> socket.socket:
            sock = stack.enter_context(socket.create_connection(address))
            sock.settimeout(5)
            return sock

        greeted = [connected(slotted) for _ in range(2)]
        assert [sock.recv(64) for sock in greeted] == [b"0\r\n", b"1\r\n"]
        socks = [*greeted, connected(bare)]
        for sock in socks:
            sock.sendall(NO_WORK)
            assert sock.recv(64) == NO_WORK
        child.ask({"listen": False})
        assert [sock.recv(1) for sock in socks] == [b"", b"", b""]
        with pytest.raises(ConnectionRefusedError):
            connected(bare)
        child.ask({"listen": True})
        assert connected(slotted).recv(64) == b"0\r\n"


def test_both_ports_of_a_server_have_the_same_workers() -> None:
    with serving(1) as [(child, slotted, bare)], ExitStack() as stack:
        child.ask({"slow": [1000.0]})
        first, second = (
            stack.enter_context(socket.create_connection(address)) for address in (slotted, bare)
        )
        assert first.recv(64) == b"0\r\n"
        long, short = REQUEST.pack(0.0001), REQUEST.pack(1e-7)
        first.sendall(long)  # 100 ms, since it's slow
        child.ask({})  # It has read what came before this.
        second.sendall(short)
        with gevent.Timeout(5):
            assert second.recv(64) == short  # only once the worker is through
        first.setblocking(False)
        assert first.recv(64) == long


def test_two_choices_uses_all_servers_and_keeps_its_connections(closing: Closing) -> None:
    with serving(3) as served:
        client = closing(TwoChoices([bare for _, _, bare in served], seed=1))
        for _ in range(50):
            assert client.request(NO_WORK) == NO_WORK
        assert [len(each.idle) for each in client.servers] == [1, 1, 1]
        assert [each.in_flight for each in client.servers] == [0, 0, 0]


def test_two_choices_takes_the_server_with_fewer_requests_of_its_own(closing: Closing) -> None:
    with serving(2) as served:
        client = closing(TwoChoices([bare for _, _, bare in served]))
        requests = [gevent.spawn(client.request, REQUEST.pack(0.01)) for _ in range(6)]
        wait_until(lambda: sum(each.in_flight for each in client.servers) == 6)
        assert [each.in_flight for each in client.servers] == [3, 3]
        gevent.joinall(requests, raise_error=True)
        assert [len(each.idle) for each in client.servers] == [3, 3]


def test_two_choices_leaves_out_a_server_that_died(
    closing: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TwoChoices, "LEFT_OUT", 60.0)
    with serving(2) as [(dying, _, first), (_, _, second)]:
        client = closing(TwoChoices([first, second], seed=1))
        for _ in range(20):
            client.request(NO_WORK)
        dying.kill()
        failures = 0
        for _ in range(50):
            try:
                client.request(NO_WORK)
            except OSError:
                failures += 1
        # The connection that it had, and the one that was refused.
        assert failures == 2
        dead, alive = client.servers
        assert (dead.idle, dead.in_flight, len(alive.idle)) == ([], 0, 1)


def test_ours_speaks_to_the_same_servers(closing: Closing) -> None:
    with serving(2) as served:
        client = closing(
            Pooled([slotted for _, slotted, _ in served], 4, roving_interval=0.1, timeout=5)
        )
        assert [client.request(NO_WORK) for _ in range(10)] == [NO_WORK] * 10


@pytest.mark.skipif(command() is None, reason=NO_HAPROXY)
def test_haproxy_balances_and_notices_a_death(closing: Closing) -> None:
    found = command()
    assert found is not None
    with serving(2) as served, ExitStack() as stack:
        addresses = [unused(stack), unused(stack)]
        servers = [bare for _, _, bare in served]
        proxy = stack.enter_context(haproxy(found, "leastconn", addresses, servers, core()))
        wait_until(lambda: proxy.up() == 2)
        kept, once = closing(KeptThroughProxy(addresses)), closing(OnceThroughProxy(addresses))
        for client in (kept, once):
            assert [client.request(NO_WORK) for _ in range(4)] == [NO_WORK] * 4
        assert proxy.cpu() > 0
        served[0][0].kill()
        wait_until(lambda: proxy.up() == 1)
        assert [once.request(NO_WORK) for _ in range(4)] == [NO_WORK] * 4
