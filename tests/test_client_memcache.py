# ruff: noqa: E402
# Imports of the client come after the call that skips the module where it isn't installed.

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import gevent
import pytest
from backends import EXAMPLES, client_library, free_port, fronts, program, run_check, running
from gevent import socket

client_library("pymemcache")
sys.path.append(str(EXAMPLES))

from memcache_pool import Memcached, SlotClient, memcache_pool
from pymemcache import (
    Client,
    MemcacheClientError,
    MemcacheUnexpectedCloseError,
    PooledClient,
)

from gevent_rover import PoolTimeout, Rover, SlotPool

pytestmark = pytest.mark.integration


@contextmanager
def memcached(*options: str) -> Iterator[tuple[int, int]]:
    """Run memcached, and once more if it's killed; give its port, and its first process id."""
    port = free_port()
    command = [program("memcached"), "-u", "root", "-l", "127.0.0.1", "-p", str(port), "-U", "0"]
    first: Any = gevent.event.AsyncResult()

    def run() -> None:
        for _ in range(2):
            with running(*command, *options, port=port) as process:
                first.set(process.pid)
                process.wait()

    keeper = gevent.spawn(run)
    keeper.link_exception(first)
    try:
        yield port, first.get(timeout=30)
    finally:
        keeper.kill()


@pytest.fixture
def pool() -> Iterator[SlotPool[SlotClient]]:
    """Give a pool of connections to a memcached."""
    with memcached() as (port, _), fronts(port) as servers, pool_of(servers) as pool:
        yield pool


@contextmanager
def pool_of(servers: Any, *args: Any, **options: Any) -> Iterator[SlotPool[SlotClient]]:
    entries: Any = {"front": {"host": "127.0.0.1", "port": servers[0].server_port}}
    rover = Rover(entries, roving_interval=0.1)
    with rover, memcache_pool(rover, *args, max_slots=2, **options) as pool:
        yield pool


@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
def test_everybody_gets_their_own_answers_whatever_happens(patched: bool) -> None:
    with memcached() as (port, pid), fronts(port, port) as servers:
        ports = [server.server_port for server in servers]
        said = run_check("memcache_check.py", pid, *ports, patched=patched)
    lines = dict(line.split(": ") for line in said.splitlines() if ": " in line)
    assert int(lines["kills"]) >= 200
    assert int(lines["ticks"]) >= 10
    assert said.endswith("all is well\n")


def test_what_the_recipe_relies_on_is_still_there() -> None:
    # Public names, but of parts that hardly anybody replaces.
    assert "socket_module" in signature(Client).parameters
    pooled = PooledClient(("127.0.0.1", 1))
    for name in ("get_and_release", "destroy", "clear"):
        assert callable(getattr(pooled.client_pool, name))
    assert "destroy_on_fail" in signature(pooled.client_pool.get_and_release).parameters
    assert Client(("127.0.0.1", 1)).sock is None


def test_a_client_never_connects_by_itself() -> None:
    with memcached() as (port, _):
        near = socket.create_connection(("127.0.0.1", port))
        client = SlotClient(near)
        client.server = ("127.0.0.1", port)  # Where it would be easy.
        assert client.version()
        client.close()
        for command in (client.version, lambda: client.get("a"), lambda: client.set("a", b"b")):
            with pytest.raises(MemcacheUnexpectedCloseError, match="lease another one"):
                command()
        assert client.sock is None


@pytest.mark.parametrize(
    "interruption", [gevent.GreenletExit, gevent.Timeout, KeyboardInterrupt, ValueError]
)
def test_a_command_that_is_interrupted_closes_its_connection(
    interruption: type[BaseException],
) -> None:
    near, far = socket.socketpair()
    client = SlotClient(near)
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            client.get("a")
        except BaseException as exc:
            caught.append(exc)

    asking = gevent.spawn(ask)
    assert far.recv(100) == b"get a\r\n"
    asking.kill(interruption)
    assert isinstance(caught[0], interruption)
    assert client.sock is None
    assert far.recv(1) == b""
    far.close()


def test_no_command_may_do_without_an_answer(pool: SlotPool[SlotClient]) -> None:
    cache = Memcached(pool)
    with pytest.raises(ValueError, match="noreply"):
        cache.set("a", b"b", noreply=True)
    silent: dict[str, Any] = {
        "set": ("a", b"b", 0, True),
        "delete": ("a", True),
        "incr": ("a", 1, True),
    }
    for name, args in silent.items():
        with pytest.raises(ValueError, match="noreply"), pool.lease() as client:
            getattr(client, name)(*args)
    with pool.lease() as client:
        client["a"] = b"c"
        assert client["a"] == b"c"
        del client["a"]
        assert client.set("a", b"d", 0, False) is True
    taking = {
        name
        for name, method in vars(Client).items()
        if not name.startswith("_") and "noreply" in signature(method).parameters
    }
    assert taking >= {"set", "set_many", "delete_many", "incr", "touch", "flush_all"}
    assert all(hasattr(getattr(SlotClient, name), "__wrapped__") for name in taking)


def test_options_that_mean_nothing_are_refused() -> None:
    for name in ("timeout", "ignore_exc", "connect_timeout", "tls_context", "no_delay", "servde"):
        with pytest.raises(TypeError, match=name):
            memcache_pool(Rover(), {name: 1})


def test_reads_are_misses_without_a_connection_if_errors_are_ignored() -> None:
    with memcache_pool(Rover()) as pool:
        cache = Memcached(pool, timeout=0, ignore_exc=True)
        assert cache.get("a", 1) == 1
        assert cache.get_many(["a"]) == {}
        assert cache.gets("a") == (None, None)
        with pytest.raises(PoolTimeout):
            cache.set("a", b"b")
        with pytest.raises(PoolTimeout):
            Memcached(pool, timeout=0).get("a")


def test_an_error_of_the_servers_closes_the_connection_and_counts(
    pool: SlotPool[SlotClient],
) -> None:
    cache = Memcached(pool)
    with pytest.raises(Exception, match="too large"):
        cache.set("a", b"x" * 2_000_000)
    with pytest.raises(MemcacheClientError):
        cache.incr("a" * 300, 1)
    assert pool.stats().failures == 1
    cache.set("a", b"b")
    assert cache.get("a") == b"b"


def test_the_options_of_the_client_are_the_client_s() -> None:
    with memcached() as (port, _), fronts(port) as servers:
        options = {"key_prefix": b"app:", "allow_unicode_keys": True}
        with pool_of(servers, options) as pool, pool_of(servers) as plain:
            Memcached(pool).set("ö", b"1")
            assert Memcached(pool).get("ö") == b"1"
            assert Memcached(plain).raw_command("get app:ö".encode(), b"END\r\n").endswith(b"1\r\n")


def test_credentials_are_said_first(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("user:password\n")
    with memcached("-Y", str(tmp_path / "users")) as (port, _), fronts(port) as servers:
        with pool_of(servers, credentials=("user", "password")) as pool:
            assert Memcached(pool).set("a", b"b") is True
        with (
            pool_of(servers, credentials=("user", "wrong")) as pool,
            pytest.raises(PoolTimeout, match="authentication failure"),
        ):
            Memcached(pool, timeout=0.5).get("a")


@pytest.mark.parametrize("check_after", [0.0, 100.0])
def test_a_connection_that_was_silent_is_checked(slot_server: Any, check_after: float) -> None:
    commands = []

    def handle(slot: int, sock: Any, address: Any) -> None:
        while command := sock.recv(100):
            commands.append(command)
            sock.sendall(b"VERSION 1\r\n" if command == b"version\r\n" else b"END\r\n")

    with pool_of([slot_server(handle)], check_after=check_after) as pool:
        assert Memcached(pool).get("a") is None
    assert commands == [b"version\r\n", b"get a\r\n"][check_after > 0 :]
