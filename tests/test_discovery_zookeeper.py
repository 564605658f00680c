"""Servers in ZooKeeper: those that announce themselves, and the source that follows them."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest
from backends import free_port, run_check
from conftest import wait_until
from gevent.subprocess import PIPE, Popen
from test_fork import FORKS, in_child
from zookeeper import ZooKeeper

from gevent_rover import Rover, Server, SlotPool, SlotServer
from gevent_rover.discovery.announcing import Announcement, announce
from gevent_rover.discovery.feeder import feed
from gevent_rover.discovery.kazoo_handler import Handler
from gevent_rover.discovery.source import SourceError
from gevent_rover.discovery.zookeeper import ZooKeeperSource
from gevent_rover.discovery.zookeeper_session import check_hosts

# kazoo has no annotations.
KazooClient: Any = import_module("kazoo.client").KazooClient
SequentialGeventHandler: Any = import_module("kazoo.handlers.gevent").SequentialGeventHandler
IHandler: Any = import_module("kazoo.interfaces").IHandler

SCRIPTS = Path(__file__).parent / "discovery"

#: Seconds: the least that the tests' ZooKeeper agrees to.
SESSION = 1.0

integration = pytest.mark.integration

Closing = Callable[[Any], Any]


@pytest.fixture(scope="module")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeper]:
    """Give a server that no test breaks."""
    with ZooKeeper(tmp_path_factory.mktemp("zookeeper")) as zookeeper:
        yield zookeeper


@pytest.fixture
def breakable(tmp_path: Path) -> Iterator[ZooKeeper]:
    """Give a server that the test may break."""
    with ZooKeeper(tmp_path) as zookeeper:
        yield zookeeper


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    """Give a path that is the test's own, and isn't there yet."""
    return f"/services/{abs(hash(request.node.nodeid)):x}"


@contextmanager
def administrator(zookeeper: ZooKeeper, timeout: float = 10.0) -> Iterator[Any]:
    """Give a client of ZooKeeper, kazoo's own."""
    client = KazooClient(zookeeper.hosts, timeout, handler=SequentialGeventHandler())
    client.start()
    try:
        yield client
    finally:
        client.stop()
        client.close()


@pytest.fixture
def admin(zookeeper: ZooKeeper) -> Iterator[Any]:
    with administrator(zookeeper) as client:
        yield client


@pytest.fixture
def following(zookeeper: ZooKeeper, path: str) -> Iterator[list[dict[str, Server]]]:
    """Give the answers of a source that follows the test's path."""
    answers: list[dict[str, Server]] = []
    source = ZooKeeperSource(zookeeper.hosts, path)
    greenlet = gevent.spawn(source.run, lambda servers: answers.append(dict(servers)))
    yield answers
    greenlet.kill()
    assert greenlet.successful(), greenlet.exception


def entry_json(port: int, **more: Any) -> bytes:
    return json.dumps({"host": "10.0.0.1", "port": port, **more}).encode()


def started(announcements: list[Announcement]) -> bool:
    return all(one.node is not None for one in announcements)


# What is refused


@pytest.mark.parametrize(
    "hosts", ["", "zk1:x", "zk1:2181,", "zk1:70000", "zk1//x", "::1:2181", 3, None]
)
def test_hosts_that_can_not_be_are_refused(hosts: Any) -> None:
    with pytest.raises(ValueError, match=r"hosts|::1"):
        ZooKeeperSource(hosts, "/web")


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ("zk1", ([("zk1", 2181)], "")),
        ("zk1:3, 10.0.0.1/a/b", ([("zk1", 3), ("10.0.0.1", 2181)], "/a/b")),
        ("[::1],[::2]:5", ([("::1", 2181), ("::2", 5)], "")),
    ],
)
def test_hosts_may_have_ports_and_a_path(hosts: str, expected: Any) -> None:
    assert check_hosts(hosts) == expected


@pytest.mark.parametrize("path", ["", "web", "/web/", "//web", "/a/../b", "/a\0", 3])
def test_a_path_that_no_node_has_is_refused(path: Any, slot_server: Any) -> None:
    with pytest.raises(ValueError, match="path"):
        ZooKeeperSource("zk1", path)
    with pytest.raises(ValueError, match="path"):
        Announcement(slot_server(), "zk1", path)


@pytest.mark.parametrize("timeout", [0, -1, "10"])
def test_a_session_takes_a_positive_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(ValueError, match="session_timeout must be a positive number"):
        ZooKeeperSource("zk1", "/web", session_timeout=timeout)


@pytest.mark.parametrize("address", [("0.0.0.0", 0), ("::", 0), ("", 0), ":0"])
def test_a_server_on_all_addresses_needs_a_host(address: Any) -> None:
    server = SlotServer(address, print)
    with pytest.raises(ValueError, match="host is needed: the server listens on all addresses"):
        announce(server, "zk1", "/web")
    assert not Announcement(server, "zk1", "/web", host="10.0.0.1").started


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 80}, "port needs host"),
        ({"host": "a..b"}, "host can't be encoded"),
        ({"host": "web1", "port": 0}, "port must be an int from 1 to 65535"),
        ({"server_hostname": ""}, "server_hostname must be"),
    ],
)
def test_what_others_can_not_connect_to_is_not_announced(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        announce(SlotServer(("127.0.0.1", 0), print), "zk1", "/web", **options)


def test_without_kazoo_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kazoo.client", None)
    with pytest.raises(ImportError, match=r"pip install 'gevent_rover\[zookeeper\]'"):
        ZooKeeperSource("zk1", "/web")


def test_the_handler_has_all_that_kazoo_wants_of_one() -> None:
    wanted = {name for name in vars(IHandler) if not name.startswith("_")}
    assert wanted
    assert [name for name in sorted(wanted) if not hasattr(Handler(), name)] == []


# Nobody answers


def test_nobody_there_is_an_error_of_the_source() -> None:
    source = ZooKeeperSource(f"127.0.0.1:{free_port()}", "/web", session_timeout=0.3)
    with pytest.raises(SourceError, match=r"ZooKeeper at 127.0.0.1:.* doesn't answer"):
        source.run(print)


@pytest.mark.parametrize("text", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\4\0\0\0\1"])
@pytest.mark.usefixtures("no_leaks")
def test_something_else_that_answers_is_an_error_of_the_source(talker: Any, text: bytes) -> None:
    server = talker(lambda sock: (sock.recv(100), sock.sendall(text)))
    source = ZooKeeperSource(f"127.0.0.1:{server['port']}", "/web", session_timeout=0.3)
    with pytest.raises(SourceError, match="doesn't answer"):
        source.run(print)


def test_a_name_that_is_not_found_is_an_error_of_the_source() -> None:
    source = ZooKeeperSource("nobody.invalid:1", "/web", session_timeout=0.3)
    with pytest.raises(SourceError, match=r"no address of ZooKeeper at nobody.invalid"):
        source.run(print)


@pytest.mark.usefixtures("no_leaks")
def test_an_announcement_that_nobody_takes_says_so_once_and_stops(
    slot_server: Any, closing: Closing, caplog: pytest.LogCaptureFixture
) -> None:
    server = slot_server()
    hosts = f"127.0.0.1:{free_port()}"
    announcement = closing(announce(server, hosts, "/web", session_timeout=0.1))
    wait_until(lambda: announcement.failure)
    assert "started, failing: ZooKeeper at" in repr(announcement)
    announcement.stop()
    announcement.stop()
    assert "stopped" in repr(announcement)
    assert server.on_stop == []
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "can't announce <SlotServer" in warnings[0].getMessage()
    server.stop(timeout=0)


# Nodes


@integration
def test_a_node_that_does_not_exist_yet_is_seen_when_it_is_made(
    admin: Any, path: str, following: list[dict[str, Server]]
) -> None:
    wait_until(lambda: following == [{}])
    admin.ensure_path(path)
    admin.create(f"{path}/a", entry_json(1))
    wait_until(lambda: following[-1] == {"10.0.0.1:1": {"host": "10.0.0.1", "port": 1}})
    # All of it goes, and comes again.
    admin.delete(path, recursive=True)
    wait_until(lambda: following[-1] == {})
    admin.create(f"{path}/a", entry_json(2), makepath=True)
    wait_until(lambda: following[-1] == {"10.0.0.1:2": {"host": "10.0.0.1", "port": 2}})


@integration
def test_nodes_have_entries_or_finagles_members(
    admin: Any, path: str, following: list[dict[str, Server]], caplog: pytest.LogCaptureFixture
) -> None:
    def member(port: Any, **more: Any) -> bytes:
        endpoint = {"host": "10.0.0.2", "port": port}
        return json.dumps({"serviceEndpoint": endpoint, "additionalEndpoints": {}, **more}).encode()

    bad = {
        "bad1": b"10.0.0.1:80",
        "bad2": b"",
        "bad3": b"\xff\xfe\xfd",
        "bad4": b"[1]",
        "bad5": entry_json("80"),  # type: ignore[arg-type]
        "bad6": b'{"host": "a"}',
        "bad7": member(70000, status="ALIVE"),
        "bad8": b'{"path": 3}',
        "bad9": b"[" * 100_000,
    }
    good = {
        "a": entry_json(1),
        "b": entry_json(2, server_hostname="web.example.org", weight=3),
        "c": b'{"path": "/run/web.sock"}',
        "d": b'{"host": "fe80::1", "port": 4}',
        "e": member(5, status="ALIVE", shard=3),
        "f": member(6, status="STOPPING"),
        "g": member(7),
        "h": entry_json(1),  # Once more.
    }
    admin.ensure_path(path)
    for name, data in (good | bad).items():
        admin.create(f"{path}/{name}", data)
    admin.create(f"{path}/z", entry_json(26))
    expected: dict[str, Server] = {
        "10.0.0.1:1": {"host": "10.0.0.1", "port": 1},
        "10.0.0.1:2": {"host": "10.0.0.1", "port": 2, "server_hostname": "web.example.org"},
        "unix:/run/web.sock": {"path": "/run/web.sock"},
        "[fe80::1]:4": {"host": "fe80::1", "port": 4},
        "10.0.0.2:5": {"host": "10.0.0.2", "port": 5},
        "10.0.0.2:7": {"host": "10.0.0.2", "port": 7},
        "10.0.0.1:26": {"host": "10.0.0.1", "port": 26},
    }
    wait_until(lambda: following and following[-1] == expected)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == len(bad)
    for name in bad:
        assert sum(f"{path}/{name} is no server: " in text for text in told) == 1
    # Only what has changed is told again; what becomes good counts.
    admin.set(f"{path}/bad1", entry_json(81))
    admin.set(f"{path}/f", member(6, status="ALIVE"))
    admin.set(f"{path}/e", member(5, status="DEAD"))
    del expected["10.0.0.2:5"]
    expected["10.0.0.1:81"] = {"host": "10.0.0.1", "port": 81}
    expected["10.0.0.2:6"] = {"host": "10.0.0.2", "port": 6}
    wait_until(lambda: following[-1] == expected)
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == len(bad)


@integration
def test_hundreds_of_changes_are_read_and_applied_as_a_few(
    zookeeper: ZooKeeper, admin: Any, path: str, following: list[dict[str, Server]]
) -> None:
    admin.ensure_path(path)
    wait_until(lambda: following)
    with administrator(zookeeper) as other:
        del other  # Its id is the latest: not the source's.
    before = zookeeper.received()
    began = monotonic()
    for number in range(1, 401):
        if number % 4:
            admin.create(f"{path}/{number}", entry_json(number))
        else:
            admin.delete(f"{path}/{number - 1}")
        gevent.sleep(max(0.0, began + number * 0.005 - monotonic()))
    took = monotonic() - began
    wait_until(lambda: len(following[-1]) == 200)
    assert len(following) <= 5 + took / 0.1
    after = zookeeper.received()
    mine = max(sid for sid in before if sid != f"{admin.client_id[0]:#x}")
    # A node is asked for when it's new; the children, whenever there's a change; pings.
    assert after[mine] - before[mine] <= 300 + 10 + took / 0.1 * 1.2


@integration
def test_many_servers_at_once(admin: Any, path: str, following: list[dict[str, Server]]) -> None:
    admin.ensure_path(path)
    for first in range(0, 3000, 500):
        transaction = admin.transaction()
        for number in range(first + 1, first + 501):
            transaction.create(f"{path}/{number}", entry_json(number))
        transaction.commit()
    wait_until(lambda: following and len(following[-1]) == 3000, 20)


@integration
def test_a_source_that_is_stopped_ends_its_session(
    zookeeper: ZooKeeper, path: str, no_leaks: None
) -> None:
    before = zookeeper.received().keys()
    with feed(Rover(), ZooKeeperSource(zookeeper.hosts, path)):
        wait_until(lambda: len(zookeeper.received()) == len(before) + 1)
        sessions = zookeeper.command("dump").count("0x")
    assert zookeeper.received().keys() == before
    assert zookeeper.command("dump").count("0x") < sessions


@integration
def test_paths_may_be_below_a_chroot(zookeeper: ZooKeeper, admin: Any, path: str) -> None:
    admin.ensure_path("/below")
    server = SlotServer(("127.0.0.1", 0), print)
    rover = Rover()
    hosts = f"{zookeeper.hosts}/below"
    with announce(server, hosts, path, host="web1", port=7) as announcement:
        server.start()
        with feed(rover, ZooKeeperSource(hosts, path)):
            wait_until(lambda: rover.servers == {"web1:7": {"host": "web1", "port": 7}})
        assert len(admin.get_children(f"/below{path}")) == 1
        assert announcement.node == f"{path}/member_0000000000"
    server.stop()


# Announcements


@integration
def test_a_front_is_announced_by_its_command_as_it_is_told_to(
    zookeeper: ZooKeeper, path: str
) -> None:
    rover = Rover()
    where = ("front", "127.0.0.1:0", "127.0.0.1:1")
    announced = ("--announce", f"zk://{zookeeper.hosts}{path}", "--announce-as", "web1:7")
    process: Any = Popen([sys.executable, "-m", "gevent_rover", *where, *announced], stdout=PIPE)
    try:
        with feed(rover, ZooKeeperSource(zookeeper.hosts, path)):
            wait_until(lambda: rover.servers == {"web1:7": {"host": "web1", "port": 7}}, 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@integration
def test_servers_that_announce_themselves_fill_a_pool(
    zookeeper: ZooKeeper, path: str, slot_server: Any, closing: Closing
) -> None:
    servers = [slot_server() for _ in range(3)]
    rover = Rover()
    rover.on("error", lambda rover, error: None)  # No servers, at first.
    source = ZooKeeperSource(zookeeper.hosts, path)
    with rover, SlotPool(rover, max_slots=9) as pool, feed(rover, source) as feeder:
        gevent.sleep(0.2)
        began = monotonic()
        announcements = [closing(announce(server, zookeeper.hosts, path)) for server in servers]
        wait_until(lambda: pool.size == 9 and len(rover.servers) == 3)
        took = monotonic() - began
        assert took < 2  # 0.13 s, where there's nothing else to do.
        assert sorted(rover.servers) == sorted(f"127.0.0.1:{s.server_port}" for s in servers)
        # One that stops is gone at once.
        began = monotonic()
        servers[0].stop(timeout=0)
        wait_until(lambda: len(feeder.servers) == 2)
        assert monotonic() - began < 1
        assert announcements[0].started
        assert announcements[0].node is None
        # And there again, once it's started.
        servers[0].start()
        wait_until(lambda: len(feeder.servers) == 3)
        # close() isn't stop(), but it's seen.
        servers[1].close()
        wait_until(lambda: len(feeder.servers) == 2)
        announcements[2].stop()
        wait_until(lambda: announcements[2].node is None)
    for one in announcements:
        one.stop()
        assert not one.started


@integration
def test_a_server_is_announced_once_it_is_started(
    zookeeper: ZooKeeper, admin: Any, path: str, closing: Any
) -> None:
    server = closing(SlotServer(("127.0.0.1", 0), print))
    with announce(server, zookeeper.hosts, path, server_hostname="web.org") as announcement:
        gevent.sleep(0.2)
        assert announcement.started
        assert announcement.node is None
        server.start()
        wait_until(lambda: announcement.node)
        data, stat = admin.get(announcement.node)
        assert json.loads(data) == {
            "host": "127.0.0.1",
            "port": server.server_port,
            "server_hostname": "web.org",
        }
        assert stat.ephemeralOwner
        node = announcement.node
        assert f"announced as {node}" in repr(announcement)
    assert announcement.node is None
    assert admin.exists(node) is None
    assert server.started


@contextmanager
def server_process(zookeeper: ZooKeeper, path: str, timeout: float) -> Iterator[Any]:
    command = [sys.executable, "-W", "error", SCRIPTS / "zookeeper_server.py", zookeeper.hosts]
    process: Any = Popen([*map(str, command), path, str(timeout)], stdin=PIPE, stdout=PIPE)
    try:
        with gevent.Timeout(20):
            assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


@integration
@pytest.mark.parametrize("how", ["killed", "stopped", "ended"])
def test_the_node_of_a_process_goes_with_it(
    how: str, zookeeper: ZooKeeper, admin: Any, path: str
) -> None:
    timeout = SESSION if how == "killed" else 10.0
    admin.ensure_path(path)
    with server_process(zookeeper, path, timeout) as process:
        wait_until(lambda: admin.get_children(path))
        began = monotonic()
        if how == "killed":
            process.kill()
        elif how == "stopped":
            process.send_signal(signal.SIGTERM)
        else:
            process.stdin.write(b"\n")
            process.stdin.flush()
        wait_until(lambda: not admin.get_children(path))
        took = monotonic() - began
        # Its session's timeout, and ZooKeeper looks once in a tick; the others at once.
        assert took < 4
        assert how != "killed" or took > SESSION / 3
        if how == "ended":
            assert process.wait(timeout=10) == 0


# Outages


@integration
@pytest.mark.parametrize("how", ["frozen", "restarted", "restarted empty"])
def test_no_outage_costs_a_connection(
    how: str, breakable: ZooKeeper, slot_server: Any, closing: Closing
) -> None:
    servers = [slot_server() for _ in range(3)]
    rover = Rover()
    rover.on("error", lambda rover, error: None)  # No servers, at first.
    source = ZooKeeperSource(breakable.hosts, "/web", session_timeout=SESSION)
    announcements = [
        closing(announce(server, breakable.hosts, "/web", session_timeout=SESSION))
        for server in servers
    ]
    with rover, SlotPool(rover, max_slots=6) as pool, feed(rover, source) as feeder:
        wait_until(lambda: pool.size == 6 and len(rover.servers) == 3)
        if how == "frozen":
            breakable.freeze()
        else:
            breakable.kill()
        wait_until(lambda: feeder.failure and all(one.failure for one in announcements))
        assert "doesn't answer" in repr(feeder)
        gevent.sleep(SESSION)
        if how == "frozen":
            breakable.thaw()
        elif how == "restarted":
            breakable.start()
        else:
            breakable.forget()
            breakable.start()
        wait_until(lambda: feeder.failure is None and started(announcements), 20)
        with administrator(breakable) as admin:
            # The nodes of sessions before are gone, too.
            wait_until(lambda: len(admin.get_children("/web")) == 3)
        gevent.sleep(0.5)
        assert sorted(rover.servers) == sorted(f"127.0.0.1:{s.server_port}" for s in servers)
        assert pool.size == 6
        closed = {reason for reason, times in pool.stats().closed.items() if times}
        assert closed <= {"replaced"}  # By lower slots, when the servers came, one after another.


@integration
def test_a_server_whose_session_ended_in_an_outage_has_time_to_come_back(
    breakable: ZooKeeper,
) -> None:
    rover = Rover()
    with administrator(breakable, SESSION) as dead, administrator(breakable) as admin:
        for port in range(1, 5):
            admin.create(f"/web/{port}", entry_json(port), makepath=True)
        for port in (8, 9):
            dead.create(f"/web/{port}", entry_json(port), ephemeral=True)
        source = ZooKeeperSource(breakable.hosts, "/web", session_timeout=SESSION)
        with feed(rover, source) as feeder:
            wait_until(lambda: len(rover.servers) == 6)
            everybody = set(rover.servers)
            breakable.kill()
            dead.stop()  # Its nodes come back with ZooKeeper, and go when its session times out.
            wait_until(lambda: feeder.failure)
            breakable.start()
            wait_until(lambda: feeder.failure is None and admin.connected, 20)
            wait_until(lambda: len(admin.get_children("/web")) == 4, 20)
            gevent.sleep(2)
            assert set(rover.servers) == everybody
            admin.create("/web/8", entry_json(8), ephemeral=True)
            wait_until(lambda: len(rover.servers) < 6, 20)  # Who hasn't come back until then.
            assert everybody - set(rover.servers) == {"10.0.0.1:9"}


@integration
def test_a_frozen_ensemble_holds_up_no_stop(
    breakable: ZooKeeper, slot_server: Any, closing: Closing
) -> None:
    announcement = closing(announce(slot_server(), breakable.hosts, "/web"))
    feeder = closing(feed(Rover(), ZooKeeperSource(breakable.hosts, "/web")))
    wait_until(lambda: announcement.node and feeder.servers)
    breakable.freeze()
    for one in (announcement, feeder):
        began = monotonic()
        one.stop()
        assert monotonic() - began < 3
    breakable.thaw()
    wait_until(lambda: breakable.received() == {})


@integration
@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
def test_the_hub_is_never_blocked(patched: bool, breakable: ZooKeeper) -> None:
    name = "../discovery/zookeeper_check.py"
    output = run_check(name, breakable.port, breakable.pid, "/a/b", patched=patched)
    assert "all is well" in output


# Forks


@integration
@pytest.mark.parametrize("fork", FORKS)
def test_a_fork_leaves_the_parent_alone_and_the_child_is_silent(
    fork: str, breakable: ZooKeeper, slot_server: Any, closing: Closing
) -> None:
    # Its pings are 2 s apart, at most: within that time, a copy in the child would send one.
    server = slot_server()
    announcement = closing(announce(server, breakable.hosts, "/web", session_timeout=6.0))
    rover = Rover()
    source = ZooKeeperSource(breakable.hosts, "/web", session_timeout=6.0)
    feeder = closing(feed(rover, source))
    wait_until(lambda: announcement.node and feeder.servers)
    node = announcement.node
    before = breakable.received()
    assert len(before) == 2

    def tell() -> Any:
        gevent.sleep(2.5)
        states = [announcement.started, feeder.started, announcement.node]
        announcement.stop()
        feeder.stop()
        server.stop(timeout=0)
        gevent.sleep(0)
        return [states, breakable.received()]

    states, received = in_child(FORKS[fork], tell)
    assert states == [False, False, None]
    assert received == before
    # The parent goes on in the same sessions.
    wait_until(lambda: all(n > before[sid] for sid, n in breakable.received().items()))
    assert breakable.received().keys() == before.keys()
    assert announcement.node == node
    with administrator(breakable) as admin:
        assert hex(admin.exists(node).ephemeralOwner) in before
        admin.create("/web/other", entry_json(9))
        wait_until(lambda: "10.0.0.1:9" in rover.servers)


@integration
def test_a_child_may_start_both_anew(
    zookeeper: ZooKeeper, path: str, slot_server: Any, closing: Closing
) -> None:
    server = slot_server()
    announcement = closing(announce(server, zookeeper.hosts, path))
    rover = Rover()
    feeder = closing(feed(rover, ZooKeeperSource(zookeeper.hosts, path)))
    wait_until(lambda: feeder.servers)

    def tell() -> Any:
        assert not feeder.started
        again = SlotServer(("127.0.0.1", 0), print)
        again.start()
        rover.servers.clear()
        feeder.start()
        with announce(again, zookeeper.hosts, path):
            wait_until(lambda: f"127.0.0.1:{again.server_port}" in feeder.servers)
        feeder.stop()
        return "seen"

    assert in_child(os.fork, tell) == "seen"
    gevent.sleep(0.5)
    assert announcement.node
    assert sorted(feeder.servers) == [f"127.0.0.1:{server.server_port}"]
