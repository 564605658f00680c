"""The benchmark of front and relay runs, its rows are whole, and its parts do what they say."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from backends import client_library, free_port, program
from conftest import run_benchmark, wait_until
from gevent import socket

sys.path.append(str(Path(__file__).parents[1]))  # behind an installed package

from benchmarks.child import python
from benchmarks.loopback import Address
from benchmarks.proxying.front import WordlessFront
from benchmarks.proxying.memory import open_pair
from benchmarks.proxying.processes import child_on, on_core
from benchmarks.proxying.proxies import front, haproxy, relay, socat
from benchmarks.proxying.rows import (
    FRONT,
    HAPROXY,
    PEERS,
    RELAY,
    SOCAT,
    TWO_HAPROXIES,
    Measured,
    lag_rows,
    memory_rows,
    tables,
    throughput_rows,
)
from benchmarks.proxying.throughput import GET, PING

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux"),
]

Closing = Callable[[Any], Any]
PROGRAMS = ("redis-server", "redis-benchmark", "haproxy", "socat")


def address() -> Address:
    return "127.0.0.1", free_port()


def core() -> int:
    return min(os.sched_getaffinity(0))


def answer(sock: socket.socket, said: bytes) -> bytes:
    """Return what is answered to something, as much as was said."""
    sock.sendall(said)
    data = b""
    while len(data) < len(said):
        more = sock.recv(len(said) - len(data))
        assert more
        data += more
    return data


# The command


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_quick_run_has_a_row_for_everything_and_everybody(tmp_path: Path) -> None:
    client_library("redis")
    for each in PROGRAMS:
        program(each)
    output = tmp_path / "proxying.json"
    printed = run_benchmark("benchmarks.proxying", "--quick", "--output", output)
    report = json.loads(output.read_text())
    rows = report["rows"]
    lags = ["one busy pair alone", "100 pairs come", "100 idle pairs and one busy"]
    assert [(row["what"], row["peer"]) for row in rows] == [
        *((what, peer) for what in (PING, GET) for peer in PEERS["throughput"]),
        *(("idle pair", peer) for peer in PEERS["memory"]),
        *((what, FRONT) for what in lags),
        *(("one of four slow", peer) for peer in PEERS["balance"]),
    ]
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    lines = [line for line in lines if not line.startswith(("| what", "| --"))]
    for row, line in zip(rows, lines, strict=True):
        assert row["what"] in line and row["peer"] in line
        assert row["skipped"] == ""
        for name, figure in row.items():
            if isinstance(figure, dict) and "cpu" not in name:  # It's counted in ticks.
                assert 0 <= figure["low"] <= figure["median"] <= figure["high"]
        if row["section"] in ("throughput", "balance"):
            assert row["requests/s"]["low"] > 0
        if row["section"] == "balance":
            assert row["failures"]["high"] == 0
            shares = [share["median"] for share in [*row["shares"], row["slow share"]]]
            assert len(shares) == 4
            assert sum(shares) == pytest.approx(100, abs=0.5)
    assert [(row["what"], row["peer"]) for row in rows if "outcome" in row] == [
        (PING, FRONT),
        (GET, FRONT),
        ("idle pair", FRONT),
        (lags[-1], FRONT),
    ]
    assert report["programs"].keys() == {"redis-server", "haproxy", "socat"}


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_only_leaves_the_other_sections_out(tmp_path: Path) -> None:
    output = tmp_path / "proxying.json"
    arguments = ("--quick", "--only", "lag", "--rounds", 2, "--output", output)
    run_benchmark("benchmarks.proxying", *arguments)
    report = json.loads(output.read_text())
    assert report["rounds"] == 2
    assert {row["section"] for row in report["rows"]} == {"lag"}


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_without_its_programs_rows_say_why_they_are_skipped(tmp_path: Path) -> None:
    output = tmp_path / "proxying.json"
    arguments = ("--quick", "--only", "throughput", "--output", output)
    printed = run_benchmark("benchmarks.proxying", *arguments, PATH=str(tmp_path))
    rows = json.loads(output.read_text())["rows"]
    reason = "there is no redis-benchmark command"
    assert [row["skipped"] for row in rows] == [reason] * 2 * len(PEERS["throughput"])
    assert printed.count(f"skipped: {reason}") == len(rows)


# Rows


def of_all(**figures: dict[str, list[float]]) -> Measured:
    """Return what was measured of each peer: ``requests`` a second and so on."""
    measured = Measured()
    for peer in PEERS["throughput"]:
        rates = figures["rates"].get(peer, [100.0, 100.0])
        measured.figures[peer] = [{"requests/s": rate, "cpu": 1.0} for rate in rates]
    return measured


def row_of(rows: list[dict[str, Any]], what: str, peer: str) -> dict[str, Any]:
    (row,) = [row for row in rows if (row["what"], row["peer"]) == (what, peer)]
    return row


def test_ratios_are_taken_within_a_round_and_decide_the_outcome() -> None:
    pings = of_all(rates={FRONT: [40.0, 100.0], HAPROXY: [100.0, 200.0]})
    gets = of_all(rates={FRONT: [69.0, 69.0]})
    rows = throughput_rows({PING: pings, GET: gets})
    ping, get = (row_of(rows, what, FRONT) for what in (PING, GET))
    assert ping["ratio"] == {"median": 0.45, "low": 0.4, "high": 0.5}
    assert (ping["target"], ping["outcome"]) == ("≥ 0.45", "reached")
    assert (get["ratio"]["median"], get["outcome"]) == (0.69, "missed")


def test_two_hops_are_compared_with_two_hops() -> None:
    measured = of_all(rates={RELAY: [40.0], TWO_HAPROXIES: [50.0], HAPROXY: [100.0]})
    for peer in set(PEERS["throughput"]) - {RELAY, TWO_HAPROXIES, HAPROXY}:
        measured.figures[peer] = measured.figures[peer][:1]
    rows = throughput_rows({PING: measured})
    assert row_of(rows, PING, RELAY)["ratio"]["median"] == 0.8
    assert row_of(rows, PING, TWO_HAPROXIES)["ratio"]["median"] == 1


def test_a_peer_that_stalled_is_skipped_and_nothing_is_compared_with_it() -> None:
    measured = of_all(rates={})
    measured.missing[HAPROXY] = "it stalled"
    rows = throughput_rows({PING: measured})
    assert row_of(rows, PING, HAPROXY)["skipped"] == "it stalled"
    ours = row_of(rows, PING, FRONT)
    assert ours["requests/s"]["median"] == 100
    assert "ratio" not in ours and "outcome" not in ours
    assert "skipped: it stalled" in tables(rows)


def test_memory_and_lag_have_the_most_that_they_may_be() -> None:
    memory = Measured({peer: [{"resident": 41.0}] for peer in PEERS["memory"]})
    assert [row.get("outcome") for row in memory_rows(memory)] == ["missed", None, None]
    lags = {what: Measured({FRONT: [{"p99": 9.0}]}) for what in ("alone", "beside others")}
    assert [row.get("outcome") for row in lag_rows(lags)] == [None, "reached"]


# What it's measured with


def test_a_front_without_words_passes_everything_on_but_its_slot_line(closing: Closing) -> None:
    behind = address()
    with python("proxying.backend", behind) as backend:
        backend.receive()
        host, port = behind
        server = WordlessFront(("127.0.0.1", 0), {"host": host, "port": port})
        server.start()
        try:
            ahead = ("127.0.0.1", int(server.server_port or 0))
            client = closing(socket.create_connection(ahead))
            assert answer(client, b"x" * 1000) == b"x" * 1000
            assert server.slots.take() == 1  # It has the lowest one all the same.
        finally:
            server.stop(0)


def test_a_front_that_is_watched_says_how_late_its_hub_was() -> None:
    behind, ahead = address(), address()
    with python("proxying.backend", behind) as backend:
        backend.receive()
        with python("proxying.front", ahead, behind, True) as child:
            assert isinstance(child.receive(), int)
            with open_pair(ahead, says_slots=True) as client:
                assert child.ask({"watch": True}) == {}
                for _ in range(100):
                    client.sendall(b"x")
                    assert client.recv(1) == b"x"
                lag = child.ask({"watch": False})
                assert 0 <= lag["p99"] <= lag["most"]


def test_the_backend_says_nothing_by_itself_and_counts_its_connections(closing: Closing) -> None:
    behind = address()
    with python("proxying.backend", behind) as backend:
        backend.receive()
        first, second = (closing(socket.create_connection(behind)) for _ in "12")
        wait_until(lambda: backend.ask({}) == 2)
        assert answer(first, b"x") == b"x"
        second.close()
        wait_until(lambda: backend.ask({}) == 1)
        first.settimeout(0.05)
        with pytest.raises(TimeoutError):
            first.recv(1)


def test_a_server_that_is_made_slow_answers_late_but_wholly(closing: Closing) -> None:
    behind, ahead = address(), address()
    with python("proxying.backend", behind) as backend:
        backend.receive()
        with python("proxying.delaying", ahead, behind, 0.05) as delaying:
            delaying.receive()
            client = closing(socket.create_connection(ahead))
            began = monotonic()
            assert answer(client, b"x" * 100) == b"x" * 100
            assert monotonic() - began >= 0.05
            client.close()
            wait_until(lambda: backend.ask({}) == 0)


@pytest.mark.integration
@pytest.mark.parametrize("name", [FRONT, RELAY, HAPROXY, SOCAT])
def test_proxies_pass_bytes_on_from_their_core(name: str) -> None:
    behind, ahead, between = address(), address(), address()
    with python("proxying.backend", behind) as backend:
        backend.receive()
        if name == FRONT:
            proxy = front(ahead, behind, core())
        elif name == RELAY:
            proxy = relay(ahead, [between], 4, core())
        elif name == HAPROXY:
            program("haproxy")
            proxy = haproxy(ahead, [behind], core())
        else:
            program("socat")
            proxy = socat(ahead, behind, core())
        with front(between, behind, core()), proxy as process:
            assert os.sched_getaffinity(process.id) == {core()}
            with open_pair(ahead, says_slots=name == FRONT) as client:
                client.sendall(b"x" * 1000)
                assert client.recv(1000)
                resident, private = process.memory()
                assert resident >= private > 0
            assert process.cpu() >= 0


def test_what_socat_forks_is_counted_and_ends_with_it() -> None:
    program("socat")
    behind, ahead = address(), address()
    with python("proxying.backend", behind) as backend:
        backend.receive()
        with socat(ahead, behind, core()) as process:
            process.wait_until_alone()
            alone, _ = process.memory()
            client = open_pair(ahead, says_slots=False)
            wait_until(lambda: process.memory()[0] > 1.5 * alone)
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass
        finally:
            client.close()
        wait_until(lambda: backend.ask({}) == 0)


def test_what_is_started_keeps_to_its_core_and_we_do_not() -> None:
    before = os.sched_getaffinity(0)
    behind, ahead = address(), address()
    with child_on(core(), "proxying.front", ahead, behind, True) as child:
        assert os.sched_getaffinity(child.receive()) == {core()}
    with on_core(core()):
        assert os.sched_getaffinity(0) == {core()}
    assert os.sched_getaffinity(0) == before
