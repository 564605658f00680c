"""Which entries a registry may have, and how one is picked while others change it."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import gevent
import pytest

from gevent_rover import InvalidServerError, NoServersError, Rover, Server
from gevent_rover.policy.picking import Picker
from gevent_rover.registry import check_server

MAX_PATH = 107 if sys.platform == "linux" else 103


def fleet(size: int, first: int = 0) -> dict[str, Server]:
    return {
        f"s{number}": {"host": "192.0.2.1", "port": 1 + number}
        for number in range(first, first + size)
    }


@pytest.mark.parametrize(
    "server",
    [
        {"host": "192.0.2.1", "port": 1},
        {"host": "localhost", "port": 65535},
        {"host": "::1", "port": 80},
        {"host": "fe80::1%eth0", "port": 80},
        {"host": "a.example.", "port": 80},
        {"host": "a_b.example", "port": 80},
        {"host": "bücher.example", "port": 80},
        {"host": "xn--bcher-kva.example", "port": 80},
        {"host": "x" * 63 + ".example", "port": 80},
        {"host": "a.example", "port": 443, "server_hostname": "b.example"},
        {"path": "/run/slots"},
        {"path": "slots"},
        {"path": "/run/schlüssel"},
        {"path": "x" * MAX_PATH},
        {"path": "\0abstract"},
        {"path": "\0" + "x" * MAX_PATH},
        {"path": "/run/slots", "server_hostname": "b.example"},
    ],
    ids=str,
)
def test_a_good_entry_passes(server: Server) -> None:
    check_server(server, "a")
    rover = Rover()
    rover.add_server("a", server)
    assert rover.servers["a"] is server


@pytest.mark.parametrize(
    ("server", "culprit"),
    [
        (None, "expected a dict, got None"),
        ("localhost:80", "expected a dict, got 'localhost:80'"),
        (("localhost", 80), "expected a dict, got ('localhost', 80)"),
        ({}, "missing key 'host'"),
        ({"port": 80}, "missing key 'host'"),
        ({"host": "a"}, "missing key 'port'"),
        ({"server_hostname": "a"}, "missing key 'host'"),
        ({"host": "a", "port": 80, "prot": 1}, "unknown key 'prot'"),
        ({"host": "a", "port": 80, None: 1}, "unknown key None"),
        ({"Path": "/run/a"}, "unknown key 'Path'"),
        ({"host": "a", "port": 80, "path": "/run/a"}, "'path' excludes"),
        ({"host": "a", "path": "/run/a"}, "'path' excludes"),
        ({"port": 80, "path": "/run/a"}, "'path' excludes"),
        ({"host": "a", "port": 0}, "got 0"),
        ({"host": "a", "port": -1}, "got -1"),
        ({"host": "a", "port": 65536}, "got 65536"),
        ({"host": "a", "port": 65536 + 80}, "got 65616"),
        ({"host": "a", "port": "80"}, "got '80'"),
        ({"host": "a", "port": 80.0}, "got 80.0"),
        ({"host": "a", "port": True}, "got True"),
        ({"host": "a", "port": None}, "got None"),
        ({"host": "", "port": 80}, "host must be a non-empty str, got ''"),
        ({"host": None, "port": 80}, "host must be a non-empty str, got None"),
        ({"host": b"a", "port": 80}, "host must be a non-empty str, got b'a'"),
        ({"host": "a\0b", "port": 80}, r"host has characters that no name has: 'a\x00b'"),
        ({"host": " a", "port": 80}, "host has characters that no name has: ' a'"),
        ({"host": "a\n", "port": 80}, r"host has characters that no name has: 'a\n'"),
        ({"host": ".a", "port": 80}, "host can't be encoded: '.a'"),
        ({"host": ".", "port": 80}, "host can't be encoded: '.'"),
        ({"host": "a..b", "port": 80}, "host can't be encoded: 'a..b'"),
        ({"host": "x" * 64, "port": 80}, "host can't be encoded: 'xxx"),
        ({"host": "\udc80", "port": 80}, r"host can't be encoded: '\udc80'"),
        ({"host": "a", "port": 80, "server_hostname": ""}, "server_hostname must be"),
        ({"host": "a", "port": 80, "server_hostname": None}, "server_hostname must be"),
        ({"host": "a", "port": 80, "server_hostname": "b\0"}, "server_hostname has"),
        ({"path": "/run/a", "server_hostname": "a..b"}, "server_hostname can't be encoded"),
        ({"path": ""}, "path must be a non-empty str, got ''"),
        ({"path": b"/run/a"}, "path must be a non-empty str, got b'/run/a'"),
        ({"path": None}, "path must be a non-empty str, got None"),
        ({"path": "/run/a\0"}, r"path has a NUL byte: '/run/a\x00'"),
        ({"path": "\0a\0b"}, r"path has a NUL byte: '\x00a\x00b'"),
        ({"path": "/run/\ud800"}, r"path can't be encoded: '/run/\ud800'"),
        ({"path": "x" * (MAX_PATH + 1)}, f"path is longer than {MAX_PATH} bytes: 'xxx"),
        ({"path": "ü" * 60}, f"path is longer than {MAX_PATH} bytes: 'üüü"),
        ({"path": "\0" + "x" * (MAX_PATH + 1)}, f"path is longer than {MAX_PATH} bytes"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_bad_entry_is_refused_by_name(server: Any, culprit: str) -> None:
    rover = Rover()
    with pytest.raises(InvalidServerError):
        rover.add_server("a", server)
    assert rover.servers == {}
    with pytest.raises(InvalidServerError) as caught:
        check_server(server, "a")
    error = caught.value
    assert isinstance(error, ValueError)
    assert str(error).startswith("invalid server 'a': ")
    assert culprit in str(error)
    assert error.id == "a"
    assert error.server is server


@pytest.mark.parametrize("size", [1, 2, 10])
def test_every_server_is_picked_about_as_often(size: int) -> None:
    servers = fleet(size)
    picker = Picker()
    counts = Counter(picker.pick(servers)[0] for _ in range(1000 * size))
    # Seven standard deviations: it fails once in some 10**11 runs.
    assert all(abs(counts[id] - 1000) < 7 * 1000**0.5 for id in servers)


def test_every_server_of_a_large_registry_is_picked() -> None:
    servers = fleet(1000)
    picker = Picker()
    counts = Counter(picker.pick(servers)[0] for _ in range(40_000))
    assert counts.keys() == servers.keys()
    assert max(counts.values()) < 100
    assert abs(sum(counts[f"s{number}"] for number in range(500)) - 20_000) < 700


def test_two_pickers_are_not_in_step() -> None:
    servers = fleet(100)
    first, second = Picker(), Picker()
    assert [first.pick(servers) for _ in range(50)] != [second.pick(servers) for _ in range(50)]


def test_a_pick_is_the_registrys_own_entry() -> None:
    servers = fleet(300)
    picker = Picker()
    for _ in range(10):
        id, server = picker.pick(servers)
        assert server is servers[id]


def test_an_empty_registry_is_an_error() -> None:
    picker = Picker()
    servers: dict[str, Server] = {}
    with pytest.raises(NoServersError):
        picker.pick(servers)
    servers["a"] = {"path": "/run/a"}
    assert picker.pick(servers) == ("a", {"path": "/run/a"})
    del servers["a"]
    with pytest.raises(NoServersError):
        picker.pick(servers)


class Listed(dict[str, Server]):
    """A registry that counts how often its ids are listed."""

    times = 0

    def __iter__(self) -> Iterator[str]:
        self.times += 1
        return super().__iter__()


@pytest.mark.parametrize(("size", "times"), [(1, 110), (255, 110), (256, 55), (2560, 10)])
def test_listing_the_ids_of_a_large_registry_is_spared(size: int, times: int) -> None:
    servers = Listed(fleet(size))
    picker = Picker()
    for _ in range(110):
        picker.pick(servers)
    assert servers.times == times


def test_a_server_added_to_a_large_registry_is_seen_at_once() -> None:
    servers = Listed(fleet(2560))
    picker = Picker()
    picker.pick(servers)
    servers["new"] = {"path": "/run/new"}
    picker.pick(servers)
    assert servers.times == 2


def test_a_server_dropped_from_a_large_registry_is_never_picked() -> None:
    servers = fleet(2560)
    picker = Picker()
    for number in range(2500):
        picker.pick(servers)
        del servers[f"s{number}"]
        assert picker.pick(servers)[0] in servers
    servers.clear()
    with pytest.raises(NoServersError):
        picker.pick(servers)


def test_servers_that_took_the_place_of_others_are_picked_at_once() -> None:
    servers = fleet(2560)
    picker = Picker()
    picker.pick(servers)
    servers.clear()
    servers.update(fleet(2560, first=5000))
    for _ in range(20):
        id, server = picker.pick(servers)
        assert server is servers[id]


def test_an_entry_replaced_under_its_id_is_picked_at_once() -> None:
    servers = fleet(512)
    picker = Picker()
    picker.pick(servers)
    for id in servers:
        servers[id] = {"path": f"/run/{id}"}
    id, server = picker.pick(servers)
    assert server == {"path": f"/run/{id}"}


@pytest.mark.parametrize("size", [2, 10, 1000])
def test_pick_other_leaves_out_what_it_is_told(size: int) -> None:
    servers = fleet(size)
    picker = Picker()
    left_out = {f"s{number}" for number in range(0, size, 2)}
    for _ in range(100):
        picked = picker.pick_other(servers, left_out.__contains__)
        assert picked is not None
        assert picked[0] not in left_out
        assert picked[1] is servers[picked[0]]


def test_pick_other_finds_the_only_one_left() -> None:
    servers = fleet(1000)
    left_out = servers.keys() - {"s500"}
    for _ in range(20):
        assert Picker().pick_other(servers, left_out.__contains__) == ("s500", servers["s500"])


def test_pick_other_picks_evenly_among_the_few_left() -> None:
    servers = fleet(100)
    picker = Picker()
    left_out = servers.keys() - {"s1", "s2"}
    counts: Counter[str] = Counter()
    for _ in range(2000):
        picked = picker.pick_other(servers, left_out.__contains__)
        assert picked is not None
        counts[picked[0]] += 1
    assert counts.keys() == {"s1", "s2"}
    assert abs(counts["s1"] - 1000) < 160


def test_pick_other_has_none_when_all_are_left_out() -> None:
    servers = fleet(5)
    assert (
        Picker().pick_other(servers, (servers.keys() | {"dropped long ago"}).__contains__) is None
    )


def test_pick_other_has_none_in_an_empty_registry() -> None:
    assert Picker().pick_other({}, set().__contains__) is None


def test_pick_other_has_no_entry_that_is_dropped_meanwhile() -> None:
    servers = fleet(3)

    class Dropping(Collection[str]):
        """Drops each server it is asked about, from the fifth question on."""

        asked = 0

        def __contains__(self, id: object) -> bool:
            self.asked += 1
            if self.asked <= 4:
                return True
            servers.pop(str(id), None)
            return False

        def __iter__(self) -> Iterator[str]:
            raise NotImplementedError

        def __len__(self) -> int:
            raise NotImplementedError

    assert Picker().pick_other(servers, Dropping().__contains__) is None


class Churning:
    """Garbage that changes a registry when it is collected."""

    def __init__(self, servers: dict[str, Server]) -> None:
        self.servers = servers
        self.cycle = self

    def __del__(self) -> None:
        self.servers[f"new{len(self.servers)}"] = {"path": "/run/new"}


def test_pick_other_is_not_disturbed_by_the_garbage_collector() -> None:
    """Up to Python 3.11 ``list(servers.items())`` collects garbage in the middle of its work.

    What runs then may change the registry, or let another thread do so.
    """
    servers = fleet(20_000)
    left_out = servers.keys() - {"s1"}
    thresholds = gc.get_threshold()
    gc.collect()
    gc.disable()
    for _ in range(5):
        Churning(servers)
    try:
        gc.set_threshold(1000)
        gc.enable()
        assert Picker().pick_other(servers, left_out.__contains__) is not None
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()


@pytest.mark.parametrize("size", [3, 600])
def test_a_native_thread_may_churn_the_registry(size: int) -> None:
    servers = fleet(size)
    done: list[bool] = []

    def churn() -> int:
        rounds = 0
        while not done or rounds < 200:
            for number in range(1, size):
                servers.pop(f"s{number}", None)
            servers.update(fleet(size))
            rounds += 1
            if rounds >= 1_000_000:
                break
        return rounds

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    churning = gevent.get_hub().threadpool.spawn(churn)
    try:
        picker = Picker()
        for _ in range(3000):
            id, server = picker.pick(servers)
            assert server["port"] == int(id[1:]) + 1
            picked = picker.pick_other(servers, {"s0"}.__contains__)
            if picked is not None:
                assert picked[0] != "s0"
                assert picked[1]["port"] == int(picked[0][1:]) + 1
    finally:
        done.append(True)
        sys.setswitchinterval(interval)
    rounds = churning.get()
    assert rounds is not None
    assert rounds >= 200
