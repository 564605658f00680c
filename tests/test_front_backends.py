"""``gevent-rover front`` before real servers, redis and nginx as they are: killed, frozen, back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import gevent
import pytest
import trustme
from backends import accepts, free_port, program
from certificates import client_context
from conftest import RESET, Event, attempt_of, wait_until
from gevent import socket
from gevent.subprocess import PIPE, STDOUT, run
from proxying import Backend, Proxy, RedisClient, at_front, connected, front, nginx, redis, relay

from gevent_rover import Rover, Server

pytestmark = pytest.mark.integration

Rovers = Callable[..., tuple[Rover, list[Event]]]

NODE_CLIENT = Path(__file__).parent / "front_node_client.js"

#: Longer than a test waits for anything.
LONG = "300"


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    with redis(tmp_path) as backend:
        yield backend


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a directory whose path is short enough for a socket's."""
    path = tempfile.mkdtemp(prefix="front")
    yield Path(path)
    shutil.rmtree(path)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Give what closes clients, after the front has ended."""
    with ExitStack() as stack:
        yield stack


def clients_of(proxy: Proxy | str, count: int, stack: ExitStack) -> list[RedisClient]:
    """Connect so many clients to a front that has none yet, and see that it counts them."""
    clients = []
    for expected in range(count):
        client, slot = at_front(proxy)
        stack.enter_context(client)
        assert slot == expected
        assert client.ask("PING") == b"PONG"
        clients.append(client)
    return clients


def slots_drawn(proxy: Proxy | str, count: int) -> list[int | None]:
    """Return the slots that so many connections get, which then leave."""
    slots = []
    with ExitStack() as stack:
        for _ in range(count):
            client, slot = at_front(proxy)
            stack.enter_context(client)
            slots.append(slot)
    return slots


def wait_for_all_slots(proxy: Proxy | str, count: int) -> None:
    """Wait until a front gives the lowest slots again: each came back, and none did twice."""
    wait_until(lambda: slots_drawn(proxy, count) == [*range(count)], 20)


# Slots


def test_connections_to_a_front_get_slots_from_0_on_and_all_come_back(backend: Backend) -> None:
    with front(backend) as proxy, ExitStack() as stack:
        clients = clients_of(proxy, 30, stack)
        for client in clients[3:20:4]:
            client.close()
        wait_until(lambda: backend_clients(backend) == 25)
        # The gaps are filled from below.
        drawn = [at_front(proxy) for _ in range(6)]
        for client, _ in drawn:
            stack.enter_context(client)
        assert [slot for _, slot in drawn] == [3, 7, 11, 15, 19, 30]
        stack.close()
        wait_for_all_slots(proxy, 31)


def backend_clients(backend: Backend) -> int:
    """Return how many connections redis has, but for the one that asks."""
    with RedisClient(connected(f"127.0.0.1:{backend.port}")) as client:
        info = client.ask("INFO", "clients")
    assert info is not None
    (line,) = (line for line in info.splitlines() if line.startswith(b"connected_clients:"))
    return int(line.partition(b":")[2]) - 1


def test_slots_come_back_when_clients_reset_their_connections(backend: Backend) -> None:
    with front(backend) as proxy, ExitStack() as stack:
        for client in clients_of(proxy, 30, stack):
            client.send("ECHO", b"x" * 10_000)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        wait_for_all_slots(proxy, 30)
        wait_until(lambda: backend_clients(backend) == 0)


def test_slots_come_back_when_a_client_is_killed(backend: Backend) -> None:
    with front(backend) as proxy:
        with relay(proxy, options=("--max-slots", "20")) as client:
            wait_until(lambda: backend_clients(backend) == 20, 20)
            client.kill()
        wait_for_all_slots(proxy, 20)


def test_slots_come_back_when_the_backend_is_killed(backend: Backend) -> None:
    with front(backend) as proxy, ExitStack() as stack:
        clients = clients_of(proxy, 30, stack)
        backend.kill()
        assert all(client.ended() for client in clients)
        # A client may still speak while only the other half has ended: so it keeps its slot.
        stack.close()
        backend.start()
        wait_for_all_slots(proxy, 30)


# Backends that fail


def test_a_killed_backend_ends_its_connections_and_is_unreachable_until_it_is_back(
    backend: Backend, rover_of: Rovers
) -> None:
    with (
        front(backend, "--connect-timeout", LONG, "-v") as proxy,
        ExitStack() as stack,
    ):
        server: Server = {"host": "127.0.0.1", "port": proxy.port}
        rover, events = rover_of({"redis": server}, timeout=float(LONG))
        assert attempt_of(rover, events).outcome == "connection"
        idle, busy = clients_of_any(proxy, 2, stack)
        busy.send("BLPOP", "nothing", "0")
        backend.kill()
        assert idle.ended()
        assert busy.ended()

        # Nobody waits for a deadline.
        with gevent.Timeout(20):
            for _ in range(5):
                client, slot = at_front(proxy)
                client.close()
                assert slot is None
            assert attempt_of(rover, events).outcome == "unreachable"
        assert proxy.text.count("the backend can't be reached") == 1
        assert "the backend is reached again" not in proxy.text

        backend.start()
        again, _ = clients_of_any(proxy, 2, stack)
        assert again.ask("SET", "key", "value") == b"OK"
        assert attempt_of(rover, events).outcome == "connection"
        wait_until(lambda: proxy.text.count("the backend is reached again") == 1)
    assert "without backend: 6" in proxy.output[-1]


def clients_of_any(proxy: Proxy, count: int, stack: ExitStack) -> list[RedisClient]:
    """Connect so many clients to a front, which may have others."""
    clients = []
    for _ in range(count):
        client, slot = at_front(proxy)
        stack.enter_context(client)
        assert slot is not None
        assert client.ask("PING") == b"PONG"
        clients.append(client)
    return clients


def test_the_log_warns_of_a_backend_that_is_not_there_without_being_asked_to() -> None:
    with front(free_port()) as proxy:
        client, slot = at_front(proxy)
        client.close()
        assert slot is None
        wait_until(lambda: "WARNING" in proxy.text)
        assert "the backend can't be reached: [Errno 111] Connection refused" in proxy.text


def test_with_a_frozen_backend_connections_hang_and_then_go_on_with_nothing_lost(
    backend: Backend,
) -> None:
    answered = 0
    stopping = False

    def talk(client: RedisClient) -> None:
        nonlocal answered
        while not stopping:
            word = uuid4().hex.encode() * 200
            assert client.ask("ECHO", word) == word
            answered += 1

    with front(backend) as proxy, ExitStack() as stack:
        clients = clients_of(proxy, 20, stack)
        tasks = [gevent.spawn(talk, client) for client in clients]
        stack.callback(gevent.killall, tasks)
        wait_until(lambda: answered > 500, 20)
        backend.freeze()
        gevent.sleep(0.2)
        before = answered
        # The kernel accepts for it: one more has its slot, but no answer.
        late, slot = at_front(proxy)
        stack.enter_context(late)
        assert slot == 20
        late.send("PING")
        gevent.sleep(0.5)
        assert answered == before
        assert not any(task.ready() for task in tasks)
        backend.thaw()
        assert late.answer() == b"PONG"
        wait_until(lambda: answered > before + 500, 20)
        stopping = True
        gevent.joinall(tasks, timeout=20, raise_error=True)
        assert all(task.successful() for task in tasks)


def test_a_side_that_reads_nothing_holds_the_other_one_back(backend: Backend) -> None:
    value = uuid4().bytes * (2 << 20)
    assert len(value) == 32 << 20
    with front(backend) as proxy, ExitStack() as stack:
        (client,) = clients_of(proxy, 1, stack)
        before = resident(proxy)
        # The backend reads nothing.
        backend.freeze()
        writer = gevent.spawn(client.send, "SET", "large", value)
        gevent.sleep(0.3)
        assert not writer.ready()
        backend.thaw()
        assert client.answer() == b"OK"
        writer.get(timeout=20)
        # The client reads nothing.
        client.send("GET", "large")
        gevent.sleep(0.3)
        assert resident(proxy) < before + (8 << 20)
        assert client.answer() == value


def resident(proxy: Proxy) -> int:
    """Return how much memory a command has taken so far at most, in bytes."""
    status = Path(f"/proc/{proxy.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def test_a_backend_that_accepts_no_more_costs_a_connection_its_slot_line(tmp_path: Path) -> None:
    with (
        redis(tmp_path, "--tcp-backlog", "1") as backend,
        front(backend, "--connect-timeout", "0.5", "-v") as proxy,
        ExitStack() as stack,
    ):
        (before,) = clients_of(proxy, 1, stack)
        backend.freeze()
        waiting: list[RedisClient] = []
        while True:
            client, slot = at_front(proxy)
            stack.enter_context(client)
            if slot is None:
                break
            waiting.append(client)
            assert len(waiting) < 10  # Its backlog has no room for so many.
        assert waiting
        wait_until(lambda: "no connection within 0.5 s" in proxy.text)
        for client in (before, *waiting):
            client.send("PING")
        backend.thaw()
        assert [client.answer() for client in (before, *waiting)] == [b"PONG"] * (len(waiting) + 1)
        after, slot = at_front(proxy)
        stack.enter_context(after)
        assert slot == len(waiting) + 1
        assert after.ask("PING") == b"PONG"
        wait_until(lambda: "the backend is reached again" in proxy.text)


def test_a_backend_that_is_restarted_again_and_again_loses_nothing_it_answered(
    backend: Backend,
) -> None:
    answered: list[bytes] = []
    stopping = False

    def talk(proxy: Proxy) -> None:
        """Echo words; whoever's connection ends comes back."""
        while not stopping:
            client, slot = at_front(proxy)
            with client:
                if slot is None:
                    gevent.sleep(0.01)
                    continue
                try:
                    while not stopping:
                        word = uuid4().hex.encode()
                        assert client.ask("ECHO", word) == word
                        answered.append(word)
                except (EOFError, ConnectionError):
                    pass

    with front(backend) as proxy, ExitStack() as stack:
        tasks = [gevent.spawn(talk, proxy) for _ in range(20)]
        stack.callback(gevent.killall, tasks)
        for _ in range(5):
            wait_until(partial(has_at_least, answered, len(answered) + 300), 20)
            backend.kill()
            backend.start()
        stopping = True
        gevent.joinall(tasks, timeout=20, raise_error=True)
        wait_for_all_slots(proxy, 20)


def has_at_least(things: list[bytes], count: int) -> bool:
    return len(things) >= count


# The PROXY protocol


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_proxy_protocol_tells_nginx_the_address_of_the_client(
    host: str, tmp_path: Path
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError as exc:
        pytest.skip(f"no {host} here: {exc}")
    listen = f"[{host}]:0" if ":" in host else f"{host}:0"
    with (
        nginx(tmp_path, "proxy_protocol") as backend,
        front(backend, "--proxy-protocol", listen=listen) as proxy,
    ):
        for _ in range(3):
            sock = connected(proxy.place)
            own_host, own_port = sock.getsockname()[:2]
            assert own_host == host
            assert peer_told(sock) == f"{own_host} {own_port}"


def test_a_client_at_a_path_has_no_address_that_the_proxy_protocol_could_tell(
    directory: Path,
) -> None:
    with (
        nginx(directory, "proxy_protocol") as backend,
        front(backend, "--proxy-protocol", listen=f"unix:{directory}/front") as proxy,
    ):
        assert peer_told(connected(proxy.place)) == " "


def peer_told(sock: Any) -> str:
    """Ask nginx, through a front, who its client is; the connection is closed."""
    with sock, sock.makefile("rb") as answer:
        assert answer.readline() == b"0\r\n"
        sock.sendall(b"GET /peer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, body = answer.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert isinstance(body, bytes)
        return body.decode()


# Unix domain sockets


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_front_is_at_a_path_and_so_is_its_backend(kind: str, directory: Path) -> None:
    path = f"{directory}/redis"
    listen = f"unix:{directory}/front" if kind == "path" else f"unix:@front-{uuid4().hex}"
    with redis(directory, "--unixsocket", path), ExitStack() as stack:
        with front(f"unix:{path}", listen=listen) as proxy:
            assert proxy.place == listen
            clients = clients_of(listen, 5, stack)
            value = uuid4().bytes * 65536
            assert clients[0].ask("SET", "large", value) == b"OK"
            assert clients[4].ask("GET", "large") == value
            stack.close()
            wait_for_all_slots(listen, 5)
        assert not (directory / "front").exists()


def test_a_front_takes_the_path_over_of_one_that_was_killed_but_not_of_one_that_lives(
    backend: Backend, directory: Path
) -> None:
    path = directory / "front"
    listen = f"unix:{path}"
    with front(backend, listen=listen) as first:
        first.kill()
    assert path.exists()
    with front(backend, listen=listen) as second, ExitStack() as stack:
        clients_of(second, 1, stack)
        third = Proxy("front", listen, f"127.0.0.1:{backend.port}")
        assert third.process.wait(timeout=30) == 1
        third.end()
        assert "Address already in use" in third.text
        client, slot = at_front(second)
        client.close()
        assert slot == 1


# TLS


def test_a_front_speaks_tls_with_its_clients_and_none_with_its_backend(
    backend: Backend, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "cert.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    context = client_context(authority)
    with front(backend, "--tls", "--cert", str(certificate)) as proxy, ExitStack() as stack:
        clients = []
        for expected in range(5):
            sock = context.wrap_socket(connected(proxy.place), server_hostname="127.0.0.1")
            client = stack.enter_context(RedisClient(sock))
            assert client.slot() == expected
            clients.append(client)
        value = uuid4().bytes * 65536
        assert clients[0].ask("SET", "large", value) == b"OK"
        for client in clients:
            assert client.ask("GET", "large") == value
        for client in clients:
            client.send("PING")
        assert [client.answer() for client in clients] == [b"PONG"] * 5
        backend.kill()
        assert all(client.ended() for client in clients)
        backend.start()
        sock = context.wrap_socket(connected(proxy.place), server_hostname="127.0.0.1")
        client = stack.enter_context(RedisClient(sock))
        assert client.slot() == 5
        assert client.ask("GET", "large") is None  # It's another one, which has nothing.


# The end of a front


def test_sigterm_lets_connections_in_use_finish_and_ends_the_others(
    backend: Backend, stack: ExitStack
) -> None:
    with front(backend, "--drain", LONG) as proxy:
        (used,) = clients_of(proxy, 1, stack)
        unused, slot = at_front(proxy)
        stack.enter_context(unused)
        assert slot == 1
        proxy.terminate()
        assert unused.ended()
        wait_until(lambda: not accepts(proxy.port))
        for _ in range(100):
            assert used.ask("ECHO", "word") == b"word"
        assert proxy.process.poll() is None
        used.close()
        assert proxy.process.wait(timeout=20) == 0
    assert proxy.output[-1] == "closed; connections served: 2, without backend: 0"


def test_sigterm_ends_connections_in_use_once_the_time_to_drain_is_over(
    backend: Backend, stack: ExitStack
) -> None:
    with front(backend, "--drain", "1") as proxy:
        (used,) = clients_of(proxy, 1, stack)
        proxy.terminate()
        wait_until(lambda: not accepts(proxy.port))
        assert used.ended()
        assert proxy.process.wait(timeout=20) == 0


def test_a_second_sigterm_ends_connections_in_use_at_once(
    backend: Backend, stack: ExitStack
) -> None:
    with front(backend, "--drain", LONG) as proxy:
        (used,) = clients_of(proxy, 1, stack)
        unused, _ = at_front(proxy)
        stack.enter_context(unused)
        proxy.terminate()
        assert unused.ended()
        assert used.ask("PING") == b"PONG"
        proxy.terminate()
        assert used.ended()
        assert proxy.process.wait(timeout=20) == 0


def test_sigterm_ends_a_client_that_still_waits_for_the_backend(
    tmp_path: Path, stack: ExitStack
) -> None:
    with (
        redis(tmp_path, "--tcp-backlog", "1") as backend,
        front(backend, "--drain", LONG, "--connect-timeout", LONG) as proxy,
    ):
        backend.freeze()
        waiting = []
        for _ in range(5):  # Some of them find no room in the backlog.
            client = stack.enter_context(RedisClient(connected(proxy.place)))
            waiting.append(client)
        gevent.sleep(0.5)
        proxy.terminate()
        slots = [client.slot() for client in waiting]
        assert None in slots
        assert all(client.ended() for client in waiting)
        assert proxy.process.wait(timeout=20) == 0


# Clients of other make


def test_a_client_in_node_sees_plain_slot_lines_and_then_the_protocol(backend: Backend) -> None:
    node = program("node")
    with front(backend) as proxy:
        command = [node, str(NODE_CLIENT), str(proxy.port)]
        done = run(command, stdout=PIPE, stderr=STDOUT, text=True, timeout=40)
        assert done.returncode == 0, done.stdout
        slots = [int(slot) for slot in done.stdout.split()]
        assert len(slots) == 50
        assert slots[:10] == [*range(10)]
        assert max(slots) == 9
        wait_for_all_slots(proxy, 10)
