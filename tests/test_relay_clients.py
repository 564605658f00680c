"""Unmodified clients and servers with ``relay`` and ``front`` between them: nothing is lost."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import gevent
import pytest
import trustme
from backends import accepts, client_library, program, run_check
from conftest import wait_until
from gevent.subprocess import PIPE, Popen, run
from proxying import Backend, Proxy, RedisClient, connected, front, memcached, nginx, redis, relay

pytestmark = pytest.mark.integration

#: More than any client here has connections at a time.
SLOTS = ("--max-slots", "64")

#: Longer than a test waits for anything.
LONG = "300"


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    with redis(tmp_path) as backend:
        yield backend


@pytest.fixture
def proxy(backend: Backend) -> Iterator[Proxy]:
    """Give a relay to two fronts of one redis."""
    with front(backend) as one, front(backend) as other, relay(one, other, options=SLOTS) as proxy:
        yield proxy
    for each in (one, other):  # Both took part.
        assert served(each) > 0


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a directory whose path is short enough for a socket's."""
    path = tempfile.mkdtemp(prefix="relay")
    yield Path(path)
    shutil.rmtree(path)


def served(proxy: Proxy) -> int:
    """Return how many connections a front, or clients a relay, says at its end to have had."""
    found = re.fullmatch(r"closed; (?:connections|clients) served: (\d+), .*", proxy.output[-1])
    assert found is not None, proxy.text
    return int(found[1])


def call(*command: str, input: bytes = b"") -> bytes:
    """Run a program to its end, which must be a good one, and return what it printed."""
    done: Any = run(
        [program(command[0]), *command[1:]], input=input, stdout=PIPE, stderr=PIPE, timeout=50
    )
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    assert isinstance(done.stdout, bytes)
    return done.stdout


def place_of(proxy: Proxy) -> tuple[str, ...]:
    """Return what tells redis-cli and redis-benchmark where to connect to."""
    kind, _, path = proxy.place.partition(":")
    return ("-s", path) if kind == "unix" else ("-p", str(proxy.port))


def cli(proxy: Proxy | Backend, *words: str, input: bytes = b"") -> bytes:
    """Run redis-cli, and return what it printed."""
    place = ("-p", str(proxy.port)) if isinstance(proxy, Backend) else place_of(proxy)
    return call("redis-cli", "-e", *place, *words, input=input)


def check_cli(proxy: Proxy) -> None:
    """See that redis-cli can do what it does."""
    assert cli(proxy, "PING") == b"PONG\n"
    assert cli(proxy, "SET", "short", "value") == b"OK\n"
    assert cli(proxy, "GET", "short") == b"value\n"
    large = uuid4().hex.encode() * 32768
    assert len(large) == 1 << 20
    assert cli(proxy, "-x", "SET", "large", input=large) == b"OK\n"
    assert cli(proxy, "GET", "large") == large + b"\n"


# redis


def test_redis_cli_works_through_a_relay(proxy: Proxy) -> None:
    check_cli(proxy)
    # Many commands over one connection, from its input.
    lines = b"".join(b"ECHO %d\n" % number for number in range(1000))
    assert cli(proxy, input=lines) == b"".join(b"%d\n" % number for number in range(1000))


def test_redis_cli_fills_a_server_by_a_pipe_through_a_relay(backend: Backend, proxy: Proxy) -> None:
    count = 20_000
    keys = [b"key:%d" % number for number in range(count)]
    data = b"".join(
        b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$100\r\n%s\r\n" % (len(key), key, key.ljust(100, b"."))
        for key in keys
    )
    assert b"errors: 0, replies: %d\n" % count in cli(proxy, "--pipe", input=data)
    assert cli(backend, "DBSIZE") == b"%d\n" % count
    assert cli(backend, "GET", "key:19999") == b"key:19999".ljust(100, b".") + b"\n"


def test_what_is_published_reaches_who_subscribed_through_a_relay(
    backend: Backend, proxy: Proxy
) -> None:
    command = [program("redis-cli"), *place_of(proxy), "SUBSCRIBE", "news"]
    subscriber: Any = Popen(command, stdout=PIPE)
    try:
        wait_until(lambda: cli(backend, "PUBSUB", "NUMSUB", "news") == b"news\n1\n", 20)
        sent = [f"message {number}" for number in range(20)]
        for message in sent:
            assert cli(proxy, "PUBLISH", "news", message) == b"1\n"
        with gevent.Timeout(20):
            lines = [subscriber.stdout.readline().decode().rstrip() for _ in range(3 + 3 * 20)]
    finally:
        subscriber.kill()
        subscriber.wait()
        subscriber.stdout.close()
    assert lines[:3] == ["subscribe", "news", "1"]
    assert lines[3::3] == ["message"] * 20
    assert lines[5::3] == sent
    wait_until(lambda: cli(backend, "PUBSUB", "NUMSUB", "news") == b"news\n0\n", 20)


def benchmark(proxy: Proxy, tests: str, requests: int, *options: str) -> None:
    """Run redis-benchmark, and see that it says that all went well."""
    command = ["redis-benchmark", *place_of(proxy), "--csv", "-t", tests, "-n", str(requests)]
    check_benchmark(call(*command, *options), tests)


def check_benchmark(output: bytes, tests: str) -> None:
    rows = list(csv.reader(line for line in output.decode().splitlines() if line[:1] == '"'))
    assert rows[0][:2] == ["test", "rps"]
    # What it calls "ping" is two tests.
    names = {"ping": ["PING_INLINE", "PING_MBULK"], "set": ["SET"], "get": ["GET"]}
    expected = [name for test in tests.split(",") for name in names[test]]
    assert [row[0] for row in rows[1:]] == expected
    assert all(float(row[1]) > 0 for row in rows[1:])


def calls(backend: Backend, command: str) -> int:
    """Return how often redis was asked to do something, by its own count."""
    found = re.search(rb"cmdstat_%s:calls=(\d+)" % command.encode(), info(backend, "commandstats"))
    return 0 if found is None else int(found[1])


def has_called(backend: Backend, command: str, times: int) -> bool:
    return calls(backend, command) >= times


def info(backend: Backend, section: str) -> bytes:
    with RedisClient(connected(f"127.0.0.1:{backend.port}")) as client:
        answer = client.ask("INFO", section)
    assert answer is not None
    return answer


def test_redis_benchmark_loses_none_of_100_000_requests_through_a_relay(
    backend: Backend, proxy: Proxy
) -> None:
    benchmark(proxy, "ping,set,get", 15_000)  # over 50 connections, the default
    benchmark(proxy, "set,get", 20_000, "-P", "16")
    benchmark(proxy, "set,get", 1_500, "-d", "65536")
    benchmark(proxy, "ping", 1_500, "-k", "0", "-c", "20")
    asked = {"ping": 2 * 15_000 + 2 * 1_500, "set": 36_500, "get": 36_500}
    assert sum(asked.values()) >= 100_000
    # All that were answered were asked, and no more of them than it had under way at the end.
    counted = {command: calls(backend, command) for command in asked}
    assert all(0 <= counted[each] - asked[each] <= 3 * 50 * 16 for each in asked), counted
    assert b"errorstat" not in info(backend, "errorstats")


def test_redis_benchmark_loses_nothing_when_the_server_is_frozen_meanwhile(
    backend: Backend, proxy: Proxy
) -> None:
    command = [program("redis-benchmark"), *place_of(proxy), "--csv", "-t", "get", "-n", "100000"]
    running: Any = Popen(command, stdout=PIPE, stderr=PIPE)
    try:
        wait_until(partial(has_called, backend, "get", 2_000), 20)
        for _ in range(2):
            backend.freeze()
            gevent.sleep(0.4)
            assert running.poll() is None
            backend.thaw()
            least = calls(backend, "get") + 2_000
            wait_until(partial(has_called, backend, "get", least), 20)
        assert running.poll() is None
        output, errors = running.communicate(timeout=50)
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
    assert running.returncode == 0, (output, errors)
    check_benchmark(output, "get")
    assert calls(backend, "get") >= 100_000


def test_clients_see_a_killed_server_end_and_are_served_once_it_is_back(backend: Backend) -> None:
    options = (*SLOTS, "--interval", "0.1")
    with front(backend) as first, relay(first, options=options) as proxy:
        client = RedisClient(connected(proxy.place))
        with client:
            assert client.ask("PING") == b"PONG"
            backend.kill()
            assert client.ended()
        backend.start()
        wait_until(lambda: answer_of(proxy, "PING") == b"PONG", 30)
        check_cli(proxy)
        benchmark(proxy, "ping", 2_000)


def test_clients_that_connect_again_are_served_by_the_server_that_lives(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    options = (*SLOTS, "--interval", "0.1")
    with (
        redis(tmp_path / "a") as a,
        redis(tmp_path / "b") as b,
        front(a) as front_a,
        front(b) as front_b,
        relay(front_a, front_b, options=options) as proxy,
    ):
        for name, server in (("a", a), ("b", b)):
            cli(server, "SET", "name", name)
        wait_for_names(proxy, b"a", b"b")

        answers: list[bytes | None] = []
        stopping = False

        def come_and_go() -> None:
            while not stopping:
                answers.append(answer_of(proxy, "GET", "name"))
                if answers[-1] is None:
                    gevent.sleep(0.01)

        tasks = [gevent.spawn(come_and_go) for _ in range(20)]
        try:
            for dead, its_name, living in ((a, "a", b"b"), (b, "b", b"a")):
                dead.kill()
                wait_until(partial(ends_with, answers, [living] * 500), 30)
                dead.start()
                cli(dead, "SET", "name", its_name)
                wait_for_names(proxy, b"a", b"b")
        finally:
            stopping = True
            gevent.joinall(tasks, timeout=20, raise_error=True)
        assert all(task.successful() for task in tasks)

        # The front itself dies.
        front_a.kill()
        for _ in range(1000):
            if [answer_of(proxy, "GET", "name") for _ in range(100)] == [b"b"] * 100:
                break
        else:
            pytest.fail("some go on to be sent to a front that is dead")


def ends_with(answers: list[bytes | None], expected: list[bytes]) -> bool:
    return answers[-len(expected) :] == expected


def answer_of(proxy: Proxy, *words: str) -> bytes | None:
    """Connect, ask once, and return the answer; None: there was none."""
    with RedisClient(connected(proxy.place)) as client:
        try:
            return client.ask(*words)
        except (EOFError, ConnectionError):
            return None


def wait_for_names(proxy: Proxy, *names: bytes) -> None:
    """Wait until all of these servers have answered."""
    missing = set(names)

    def seen() -> bool:
        missing.discard(answer_of(proxy, "GET", "name") or b"")
        return not missing

    wait_until(seen, 30)


def test_a_relay_is_at_a_path_and_so_is_all_behind_it(directory: Path) -> None:
    path = f"{directory}/redis"
    with (
        redis(directory, "--unixsocket", path),
        front(f"unix:{path}", listen=f"unix:{directory}/front") as first,
        relay(first, options=SLOTS, listen=f"unix:{directory}/relay") as proxy,
    ):
        assert proxy.place == f"unix:{directory}/relay"
        check_cli(proxy)
        benchmark(proxy, "ping,set", 5_000, "-d", "1000")
        benchmark(proxy, "ping", 500, "-k", "0", "-c", "20")
    assert not (directory / "relay").exists()


def test_unmodified_clients_go_by_tls_between_relay_and_front(
    backend: Backend, tmp_path: Path
) -> None:
    authority = trustme.CA()
    trusted, certificate = (str(tmp_path / name) for name in ("ca.pem", "cert.pem"))
    authority.cert_pem.write_to_path(trusted)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    # A busy machine may shake hands so slowly that the rover waits for its next interval.
    options = (*SLOTS, "--interval", "0.1", "--tls", "--ca", trusted)
    with (
        front(backend, "--tls", "--cert", certificate) as one,
        front(backend, "--tls", "--cert", certificate) as other,
        relay(one, other, options=options) as proxy,
    ):
        check_cli(proxy)
        benchmark(proxy, "ping,set,get", 3_000)
        benchmark(proxy, "set,get", 5_000, "-P", "16")
        benchmark(proxy, "set,get", 500, "-d", "65536")
        benchmark(proxy, "ping", 100, "-k", "0", "-c", "10")
    assert b"errorstat" not in info(backend, "errorstats")


# memcached


def test_a_session_with_memcached_through_a_relay() -> None:
    value = uuid4().bytes * 60_000
    session = [
        (b"set a 5 0 5\r\nhello\r\n", b"STORED\r\n"),
        (b"get a\r\n", b"VALUE a 5 5\r\nhello\r\nEND\r\n"),
        (b"add a 0 0 1\r\n1\r\n", b"NOT_STORED\r\n"),
        (b"append a 0 0 6\r\n world\r\n", b"STORED\r\n"),
        (b"get a b\r\n", b"VALUE a 5 11\r\nhello world\r\nEND\r\n"),
        (b"set n 0 0 2\r\n41\r\n", b"STORED\r\n"),
        (b"incr n 1\r\n", b"42\r\n"),
        (b"delete a\r\n", b"DELETED\r\n"),
        (b"get a\r\n", b"END\r\n"),
        (b"set large 0 0 %d\r\n%s\r\n" % (len(value), value), b"STORED\r\n"),
        (b"get large\r\n", b"VALUE large 0 %d\r\n%s\r\nEND\r\n" % (len(value), value)),
        (b"bogus\r\n", b"ERROR\r\n"),
        (b"mn\r\n", b"MN\r\n"),
        (b"flush_all\r\n", b"OK\r\n"),
    ]
    with (
        memcached() as backend,
        front(backend) as one,
        front(backend) as other,
        relay(one, other, options=SLOTS) as proxy,
        connected(proxy.place) as sock,
        sock.makefile("rb") as answers,
    ):
        for said, expected in session:
            sock.sendall(said)
            assert answers.read(len(expected)) == expected
        # All of it once more, before the first answer is read.
        writer = gevent.spawn(sock.sendall, b"".join(said for said, _ in session))
        expected = b"".join(expected for _, expected in session)
        assert answers.read(len(expected)) == expected
        writer.get()
        sock.sendall(b"quit\r\n")
        assert answers.read() == b""


# nginx

WRK_SCRIPT = """
local file = io.open("{path}", "rb")
local expected = file:read("*a")
file:close()
function response(status, headers, body)
    if status ~= 200 or body ~= expected then
        io.stderr:write("status ", status, " and ", #body, " bytes\\n")
        os.exit(3)
    end
end
"""


@pytest.mark.parametrize(
    ("connection", "size"), [("keep-alive", 100), ("keep-alive", 200_000), ("close", 20_000)]
)
def test_wrk_gets_each_answer_whole_from_nginx_through_a_relay(
    connection: str, size: int, tmp_path: Path
) -> None:
    body = tmp_path / "body.txt"
    body.write_bytes((uuid4().hex.encode() * (size // 32 + 1))[:size])
    script = tmp_path / "check.lua"
    script.write_text(WRK_SCRIPT.format(path=body))
    with (
        nginx(tmp_path) as backend,
        front(backend) as one,
        front(backend) as other,
        relay(one, other, options=SLOTS) as proxy,
    ):
        command = ["wrk", "-t", "1", "-c", "20", "-d", "1s", "--timeout", "30s"]
        command += ["-s", str(script), "-H", f"Connection: {connection}"]
        output = call(*command, f"http://127.0.0.1:{proxy.port}/body.txt").decode()
        # It names only what went wrong.
        assert "Socket errors" not in output, output
        assert "Non-2xx" not in output, output
        found = re.search(r"(\d+) requests in", output)
        assert found is not None, output
        assert int(found[1]) > 100, output
    # Each request of a connection that is closed had one of its own.
    assert served(proxy) >= (int(found[1]) if connection == "close" else 20)
    assert "turned away: 0" in proxy.output[-1]
    assert served(one) and served(other)


# Pools of clients at fronts, which need no relay


@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
def test_a_pool_of_redis_py_loses_none_of_10_000_commands(patched: bool, backend: Backend) -> None:
    client_library("redis")
    with front(backend) as one, front(backend) as other:
        output = run_check("front_redis.py", one.port, other.port, patched=patched)
    assert "10000 commands: all is well" in output
    assert calls(backend, "echo") == 10_000


def test_the_pool_of_redis_py_passes_its_own_check_at_fronts(tmp_path: Path) -> None:
    client_library("redis")
    options = ["--requirepass", "s3cret", "--appendonly", "yes", "--appendfsync", "no"]
    with redis(tmp_path, *options) as backend, front(backend) as one, front(backend) as other:
        start = json.dumps(backend.command)
        arguments = 3, backend.pid, start, one.port, other.port
        assert "all is well" in run_check("redis_check.py", *arguments, patched=False)


def test_the_pool_of_pymemcache_passes_its_own_check_at_fronts() -> None:
    client_library("pymemcache")

    def restart(backend: Backend) -> None:
        """Start it again, once it was killed."""
        backend.wait()
        backend.start()

    with memcached() as backend, front(backend) as one, front(backend) as other:
        keeper = gevent.spawn(restart, backend)
        try:
            arguments = backend.pid, one.port, other.port
            assert "all is well" in run_check("memcache_check.py", *arguments, patched=False)
            keeper.get(timeout=20)
        finally:
            keeper.kill()


# The end of a relay


def test_sigterm_lets_clients_in_use_finish_and_ends_the_others(proxy: Proxy) -> None:
    with (
        RedisClient(connected(proxy.place)) as used,
        RedisClient(connected(proxy.place)) as unused,
    ):
        assert used.ask("PING") == b"PONG"
        proxy.terminate()
        assert unused.ended()
        wait_until(lambda: not accepts(proxy.port))
        for _ in range(100):
            assert used.ask("ECHO", "word") == b"word"
        assert proxy.process.poll() is None
    assert proxy.process.wait(timeout=20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_clients_in_use_at_once(number: int, backend: Backend) -> None:
    options = (*SLOTS, "--drain", LONG)
    with (
        front(backend) as first,
        relay(first, options=options) as proxy,
        RedisClient(connected(proxy.place)) as used,
        RedisClient(connected(proxy.place)) as unused,
    ):
        assert used.ask("PING") == b"PONG"
        proxy.process.send_signal(number)
        assert unused.ended()
        assert used.ask("PING") == b"PONG"
        proxy.process.send_signal(number)
        assert used.ended()
        assert proxy.process.wait(timeout=20) == 0
