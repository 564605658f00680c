"""The benchmark of gunicorn's workers runs, and leaves nothing behind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import entry, run_benchmark
from gevent import socket

from gevent_rover import SlotServer

sys.path.append(str(Path(__file__).parents[1]))  # behind an installed package

from benchmarks.child import Child, python
from benchmarks.workers.by_hand import TwoChoices
from benchmarks.workers.parameters import BY_HAND, LOWEST, OURS, PARTS, PEERS, Part
from benchmarks.workers.rows import rows_of

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux")


def processes_with(text: str) -> list[str]:
    """Return the ids of processes that have ``text`` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:
            pass  # ended meanwhile, or somebody else's
    return found


@on_linux
@pytest.mark.integration
@pytest.mark.timeout(120)
def test_quick_run_has_a_row_for_every_part_and_peer_and_leaves_no_process(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn", reason="gunicorn isn't installed")
    output = tmp_path / "workers.json"
    printed = run_benchmark(
        "benchmarks.workers", "--quick", "--output", output, WORKERS_OF=str(tmp_path)
    )
    assert processes_with(f"WORKERS_OF={tmp_path}") == []
    rows = json.loads(output.read_text())["rows"]
    found = [(row["section"], row["clients"], row["what"], row["peer"]) for row in rows]
    assert found == [
        (part.section, part.clients, part.what, peer) for part in PARTS for peer in PEERS
    ]
    lines = [line for line in printed.splitlines() if line.startswith("|")][2:]
    for row, line in zip(rows, lines, strict=True):
        assert row["section"] in line and row["peer"] in line
        assert row["requests"]["median"] > 10
        assert 25 <= row["busiest server"]["median"] <= 100
        assert 25 <= row["busiest worker"]["median"] <= 100
        assert 0 <= row["first server"]["median"] <= row["busiest server"]["median"]
        assert 0 < row["p50"]["median"] <= row["p99"]["median"]
        if row["what"] != "app raises":
            assert row["failures"]["median"] == 0
        judged = row["section"] in ("share", "slow") and row["peer"] == OURS
        assert row["outcome"] in (("reached", "missed") if judged else ("",))


def test_a_share_is_judged_by_its_median_and_its_highest_start() -> None:
    part = Part("share", 4, 5.0, 1.0)
    for shares, outcome in (
        ([26.0, 28.0, 34.0], "reached"),
        ([26.0, 28.1, 34.0], "missed"),
        ([26.0, 26.0, 34.1], "missed"),
    ):
        starts = [{"busiest server": share, "p99": 1.0} for share in shares]
        rows = rows_of({part: dict.fromkeys(PEERS, starts)})
        assert {row["peer"]: row["outcome"] for row in rows} == {
            OURS: outcome,
            LOWEST: "",
            BY_HAND: "",
        }


def test_a_slow_server_is_judged_by_the_ratio_within_each_start() -> None:
    part = Part("slow", 4, 5.0, 1.0)

    def starts(*p99s: float) -> list[dict[str, float]]:
        return [{"busiest server": 25.0, "p99": p99} for p99 in p99s]

    figures = {OURS: starts(1, 30, 5), LOWEST: starts(1, 1, 1), BY_HAND: starts(10, 50, 5)}
    ours, _, by_hand = rows_of({part: figures})
    assert (ours["p99 ratio"], ours["outcome"]) == (
        {"median": 0.6, "low": 0.1, "high": 1},
        "reached",
    )
    assert by_hand["p99 ratio"]["median"] == 1


@pytest.fixture
def servers() -> Iterator[tuple[Child, list[int]]]:
    with python("workers.servers", 2, 1) as child:
        yield child, child.receive()


@on_linux
def test_servers_work_fail_and_count_as_they_are_told(servers: tuple[Child, list[int]]) -> None:
    child, ports = servers
    with socket.create_connection(("127.0.0.1", ports[1])) as sock:
        assert sock.recv(64) == b"0\r\n"
        sock.sendall(b"/1.5\r\n")
        assert sock.recv(64) == b"done\r\n"
        assert child.ask({"failing": [False, True]})[1:] == [[0, 1], [0, 1]]
        sock.sendall(b"/1.5\r\n")
        assert sock.recv(64) == b"ERROR\r\n"
        assert child.ask({"failing": [False, False]})[1:] == [[0, 2], [0, 1]]
        sock.sendall(b"/1.5\r\n")
        assert sock.recv(64) == b"done\r\n"
        assert child.ask({"reset": True})[1:] == [[0, 0], [0, 1]]


def test_two_choices_by_hand_take_the_server_with_fewer_requests(
    slot_server: Callable[..., SlotServer], closing: Callable[[Any], Any]
) -> None:
    both = [slot_server(), slot_server()]
    pool = closing(TwoChoices({str(number): entry(each) for number, each in enumerate(both)}))

    def open_sockets() -> list[int]:
        return [len(server.slots) for server in both]

    pool.start()
    assert open_sockets() == [1, 1]
    with pool.lease() as one:
        with pool.lease() as other:
            ports = {sock.getpeername()[1] for sock in (one, other)}
            assert ports == {server.server_port for server in both}
        with pool.lease() as again:
            assert again is other  # where there is no request, and the socket used last
        with pytest.raises(OSError, match="no more"), pool.lease() as third:
            assert third is other
            raise OSError("no more")
        assert third.fileno() == -1
        with pool.lease() as fourth:
            assert fourth.getpeername() != one.getpeername()
