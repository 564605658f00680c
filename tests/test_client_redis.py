"""The pool for redis-py, examples/clients/redis_pool.py."""

# mypy: disable-error-code="no-untyped-call"
# Most of redis-py's methods have no annotations.

# ruff: noqa: E402
# Imports of the client come after the call that skips the module where it isn't installed.

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from backends import EXAMPLES, client_library, free_port, fronts, program, run_check, running

client_library("redis")
sys.path.append(str(EXAMPLES))

import redis
from redis_pool import RedisPool, SlotConnection

from gevent_rover import Rover, Slot

pytestmark = pytest.mark.integration


def command(port: int, directory: Path) -> list[str]:
    """Return how to start a server that has kept whatever it says it keeps, even if it's killed."""
    options = {
        "bind": "127.0.0.1",
        "dir": str(directory),
        "requirepass": "s3cret",
        "appendonly": "yes",
        "appendfsync": "no",
        "save": "",
    }
    pairs = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [program("redis-server"), "--port", str(port), *pairs]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
def test_commands_through_a_pool_of_slots(patched: bool, protocol: int, tmp_path: Path) -> None:
    port = free_port()
    start = command(port, tmp_path)
    with running(*start, port=port) as process, fronts(port, port) as servers:
        ports = [server.server_port for server in servers]
        name = "redis_check.py"
        output = run_check(name, protocol, process.pid, json.dumps(start), *ports, patched=patched)
    assert f"RESP{protocol}: all is well" in output


@pytest.fixture
def rover(tmp_path: Path) -> Iterator[Rover]:
    port = free_port()
    with running(*command(port, tmp_path), port=port), fronts(port) as servers:
        rover = Rover({"a": {"host": "127.0.0.1", "port": servers[0].server_port or 0}})
        with rover:
            yield rover


def client_of(rover: Rover, **options: Any) -> tuple[Any, RedisPool]:
    pool = RedisPool(rover, slots={"max_slots": 1}, **options)
    return redis.Redis(connection_pool=pool), pool


def test_a_wrong_password_is_in_the_message_of_the_error(rover: Rover) -> None:
    client, pool = client_of(rover, password="wrong", timeout=0.5)
    with pool, pytest.raises(redis.ConnectionError, match=r"Authentication|WRONGPASS"):
        client.ping()


def test_the_socket_timeout_holds_for_each_lease(rover: Rover) -> None:
    client, pool = client_of(rover, password="s3cret", socket_timeout=0.2)
    with pool, gevent.Timeout(5):
        for _ in range(3):
            assert client.ping()
            with pytest.raises(redis.TimeoutError):
                client.blpop(["none"], timeout=10)
        assert pool.slots.stats().closed["failed"] == 3


def test_answers_are_decoded_if_so_wanted(rover: Rover) -> None:
    client, pool = client_of(rover, password="s3cret", decode_responses=True)
    with pool:
        assert client.echo("ä") == "ä"


def test_a_transaction_that_has_to_be_tried_again(rover: Rover) -> None:
    client, pool = client_of(rover, password="s3cret")
    pool.slots.max_slots = 2
    tries = []

    def change(pipe: Any) -> None:
        tries.append(pipe.get("key"))
        if len(tries) == 1:
            client.set("key", "2")
        pipe.multi()
        pipe.incr("key")

    with pool:
        client.set("key", "1")
        assert client.transaction(change, "key") == [3]
        assert tries == [b"1", b"2"]
        assert sum(pool.slots.stats().closed.values()) == 0


def test_a_script_is_loaded_where_it_runs(rover: Rover) -> None:
    client, pool = client_of(rover, password="s3cret")
    with pool:
        script = client.register_script("return ARGV[1]")
        assert script(args=["1"]) == b"1"
        client.script_flush()
        with client.pipeline() as pipe:
            script(args=["2"], client=pipe)
            assert pipe.execute() == [b"2"]


@pytest.mark.parametrize("option", ["host", "retry", "ssl_ca_certs", "cache", "max_connections"])
def test_an_option_that_means_nothing_is_refused(option: str) -> None:
    options: dict[str, Any] = {option: None}
    with pytest.raises(TypeError, match=option):
        RedisPool(Rover(), **options)


def test_what_would_reconnect_is_refused() -> None:
    client, _ = client_of(Rover())
    with pytest.raises(redis.RedisError, match="retry"):
        client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 3))


# What the recipe relies on in redis-py


def test_how_redis_connects_is_as_the_recipe_expects() -> None:
    method: Any = redis.connection.AbstractConnection._connect
    assert method.__isabstractmethod__
    assert [*inspect.signature(method).parameters] == ["self"]
    left, right = gevent.socket.socketpair()
    slot = Slot(0, "a", {"host": "10.0.0.1", "port": 7000})
    connection = SlotConnection(left, slot, protocol=2, driver_info=None)
    try:
        # Its first connect() takes the socket, with the timeout that it shall have.
        connection.socket_timeout = 3
        connection.connect()
        assert connection._sock is left and left.gettimeout() == 3
        # Once it was disconnected, whatever would connect again raises, and does nothing else.
        connection.disconnect()
        assert left.fileno() == -1
        for again in (
            connection.connect,
            connection.can_read,
            lambda: connection.send_command("A"),
        ):
            with pytest.raises(redis.ConnectionError, match="never connects again"):
                again()
        assert connection._sock is None
    finally:
        right.close()


def test_all_commands_and_answers_go_through_what_the_recipe_overrides() -> None:
    left, right = gevent.socket.socketpair()
    slot = Slot(0, "a", {"host": "10.0.0.1", "port": 7000})
    connection = SlotConnection(left, slot, protocol=2, driver_info=None)
    try:
        connection.connect()
        assert connection.is_clean()
        connection.send_command("ECHO", "1")
        assert not connection.is_clean()  # An answer is under way.
        right.sendall(b"+1\r\n")
        assert connection.read_response() == b"1"
        assert connection.is_clean()
        connection.send_packed_command(connection.pack_commands([("ECHO", "1"), ("NONE",)]))
        right.sendall(b"+1\r\n-ERR none\r\n")
        assert connection.read_response() == b"1"
        assert not connection.is_clean()  # The other one is in the parser's buffer.
        with pytest.raises(redis.ResponseError):
            connection.read_response()
        assert connection.is_clean()
        connection.send_command("ECHO", "1")
        right.sendall(b"+1\r\n+2\r\n")
        connection.read_response()
        assert not connection.is_clean()  # It says more than it was asked for.
    finally:
        connection.disconnect()
        right.close()


def test_the_names_of_the_recipe_are_its_own() -> None:
    own = {"socket", "_state", "_owed", "_packed", "_streams", "_leased_from", "_failed"}
    own |= {"_sender"}
    own |= {"begin_lease", "end_lease", "is_clean", "_note", "_admit"}
    assert own.isdisjoint(dir(redis.Connection()))
    assert {"slots", "timeout", "failures"}.isdisjoint(dir(redis.ConnectionPool()))
