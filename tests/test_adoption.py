"""docs/adoption.md: its commands run, its units are valid, and programs say what it quotes."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import proxying
import pytest
import trustme
from backends import free_port, program, running
from conftest import ROOT, wait_until
from gevent import socket
from gevent.server import StreamServer
from gevent.subprocess import PIPE, STDOUT, run
from namespaces import SERVER, joined

PAGE = (ROOT / "docs" / "adoption.md").read_text(encoding="utf-8")
UNITS = sorted((ROOT / "examples" / "systemd").glob("*.service"))
ENV_FILES = sorted((ROOT / "examples" / "systemd").glob("*.env"))

#: What the units run.
PROGRAM = "/opt/gevent-rover/bin/gevent-rover"

ADDRESS = re.compile(r"\b\d+\.\d+\.\d+\.\d+:\d+\b")


def section(heading: str) -> str:
    """Return what stands under a heading of the page."""
    (text,) = re.findall(rf"(?ms)^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE)
    assert isinstance(text, str)
    return text


def commands(heading: str) -> list[str]:
    """Return the lines of all blocks for a shell under a heading."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```$", section(heading))
    return [line for block in blocks for line in block.splitlines()]


class Stage:
    """Runs what the page says, with a free port of the loopback for each address in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stack = ExitStack()
        self._ports: dict[str, int] = {}

    def port_of(self, address: str) -> int:
        """Return the port that stands for an address, always the same."""
        return self._ports.setdefault(address, free_port())

    def place(self, address: str, port: int) -> None:
        """Let an address be that of a server that runs."""
        self._ports[address] = port

    def staged(self, text: str) -> str:
        """Return a text with addresses and files of this stage."""
        text = ADDRESS.sub(lambda found: f"127.0.0.1:{self.port_of(found[0])}", text)
        text = re.sub(
            r"-p (\d+)", lambda found: f"-p {self.port_of('127.0.0.1:' + found[1])}", text
        )
        text = re.sub(r"\bzk1:\d+", f"127.0.0.1:{self.port_of('zk1')}", text)
        text = re.sub(r"unix:/run/\S+/", f"unix:{self.directory}/", text)
        return re.sub(r"\b(\w+\.pem|\w+\.key)\b", rf"{self.directory}/\1", text)

    def start(self, *arguments: str) -> proxying.Proxy:
        """Start a front or a relay, which is ended with the stage."""
        proxy = proxying.Proxy(*arguments)
        self.stack.callback(proxy.end)
        return proxy

    def listening(self, *arguments: str) -> proxying.Proxy:
        """Start one, and wait until it listens."""
        proxy = self.start(*arguments)
        proxy.wait_until_it_listens()
        return proxy

    def front(self, backend: object, *options: str) -> proxying.Proxy:
        """Have a front at any port."""
        return self.listening("front", proxying.ANY, f"127.0.0.1:{backend}", *options)

    def relay(self, port: object, *options: str) -> proxying.Proxy:
        """Have a relay at any port, impatient and with as many slots as in the page's table."""
        options = ("--timeout", "1", "--connect-timeout", "0.5", "--max-slots", "40", *options)
        return self.listening("relay", proxying.ANY, f"127.0.0.1:{port}", *options)

    def relay_of(self, backend: int) -> proxying.Proxy:
        """Have a relay to a front of a server."""
        return self.relay(self.front(backend).port)

    def serve(self, say: bytes = b"") -> int:
        """Have a server that says this first, and then what it's told; return its port."""

        def handle(sock: Any, address: Any) -> None:
            sock.sendall(say)
            while told := sock.recv(100):
                sock.sendall(told)

        server = StreamServer(("127.0.0.1", 0), handle)
        server.start()
        self.stack.callback(server.stop)
        assert server.server_port is not None
        return server.server_port

    def run_line(self, line: str) -> str:
        """Do what a line for a shell says; return what it printed, unless it goes on."""
        line = self.staged(line)
        words = shlex.split(line)
        if words[:2] in (["gevent-rover", "front"], ["gevent-rover", "relay"]):
            self.listening(*words[1:])
            return ""
        return shell(line.replace("gevent-rover", f"{sys.executable} -m gevent_rover"))


def shell(line: str) -> str:
    """Run a line to its end, which must be a good one; return what it printed."""
    done = run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def said_by(*command: str) -> str:
    """Run a program to its end, a good or a bad one; return all that it printed."""
    done = run(command, stdout=PIPE, stderr=STDOUT, timeout=30)
    return bytes(done.stdout).decode(errors="replace")


def waited_for(proxy: proxying.Proxy, *words: str) -> str:
    """Return what a front or relay has logged, as soon as all of the words are among it."""
    wait_until(lambda: all(word in proxy.text for word in words), 30)
    return proxy.text


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    with stage.stack:
        yield stage


@contextmanager
def as_on_the_page(stage: Stage, heading: str, backend: str, port: int) -> Iterator[list[str]]:
    """Run the lines under a heading, each front also on the second machine; give what they print.

    :param backend: the server's address on the page.
    :param port: the one where it is.
    """
    stage.place(backend, port)
    printed = []
    for line in commands(heading):
        printed.append(stage.run_line(line))
        if line.startswith("gevent-rover front"):
            stage.run_line(line.replace("10.0.0.7", "10.0.0.8"))
    yield printed


# The commands


@pytest.mark.integration
def test_redis_answers_through_the_relay_as_the_page_has_it(stage: Stage) -> None:
    program("redis-cli")
    with (
        proxying.redis(stage.directory) as redis,
        as_on_the_page(stage, "redis", "127.0.0.1:6379", redis.port) as printed,
    ):
        _, roved, _, pong = printed
        assert roved.count("  connection  ") == 3
        assert pong == "PONG\n"


@pytest.mark.integration
def test_memcached_answers_through_the_relay_as_the_page_has_it(stage: Stage) -> None:
    program("socat")
    with (
        proxying.memcached() as memcached,
        as_on_the_page(stage, "memcached", "127.0.0.1:11211", memcached.port) as printed,
    ):
        _, roved, _, version = printed
        assert roved.count("  connection  ") == 3
        assert version.startswith("VERSION ")


@pytest.mark.integration
def test_nginx_answers_through_the_relay_as_the_page_has_it(stage: Stage) -> None:
    program("curl")
    (listen,) = re.findall(r"`listen 127\.0\.0\.1:8081 ([^`]*);`", section("An HTTP server"))
    (real_ip,) = re.findall(r"`(set_real_ip_from [^`]*);`", section("An HTTP server"))
    (stage.directory / "index.html").write_text("hello")
    with (
        proxying.nginx(stage.directory, f"{listen}; {real_ip}") as nginx,
        as_on_the_page(stage, "An HTTP server", "127.0.0.1:8081", nginx.port) as printed,
    ):
        _, roved, _, page = printed
        assert roved.count("  connection  ") == 3
        assert page == "hello"


@pytest.mark.integration
def test_tls_is_between_front_and_relay_as_the_page_has_it(stage: Stage) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(stage.directory / "ca.pem")
    for name in ("server", "client"):
        certificate = authority.issue_cert("127.0.0.1")
        certificate.cert_chain_pems[0].write_to_path(stage.directory / f"{name}.pem")
        certificate.private_key_pem.write_to_path(stage.directory / f"{name}.key")
    with (
        proxying.redis(stage.directory) as redis,
        as_on_the_page(stage, "Who may connect", "127.0.0.1:6379", redis.port),
    ):
        port = stage.port_of("127.0.0.1:8379")
        assert said_by(program("redis-cli"), "-p", str(port), "ping") == "PONG\n"


@pytest.mark.integration
def test_what_announces_and_follows_fronts_is_accepted(stage: Stage) -> None:
    pytest.importorskip("kazoo", reason="kazoo isn't installed: it's in the extra zookeeper")
    lines = re.findall(r"`(gevent-rover [^`]+)`", section("Find the fronts"))
    assert [line.split()[1] for line in lines] == ["front", "relay"]
    for line in lines:
        stage.run_line(line)


@pytest.mark.integration
def test_the_check_for_a_monitor_fails_where_there_is_no_slot(stage: Stage) -> None:
    (check,) = commands("Health")
    with pytest.raises(AssertionError):
        stage.run_line(check)
    front = stage.front(stage.serve())
    stage.place("10.0.0.7:7379", front.port)
    stage.run_line(check)


# systemd


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: str(path.name))
def test_systemd_takes_the_units_without_a_word(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze isn't installed")
    text = unit.read_text()
    assert text.count(PROGRAM) == 1
    copy = tmp_path / unit.name
    copy.write_text(text.replace(PROGRAM, sys.executable))
    # It ends well even if there are options that it doesn't know, and tells of them.
    done = run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        stdout=PIPE, stderr=STDOUT, text=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


def option_of(unit: str, name: str) -> str:
    """Return the only value of an option in the text of a unit."""
    (value,) = re.findall(rf"(?m)^{name}=(.*)$", unit)
    assert isinstance(value, str)
    return value


def settings_of(file: Path) -> dict[str, str]:
    """Return what a file for EnvironmentFile= sets."""
    lines = (line for line in file.read_text().splitlines() if not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def expanded(command: str, settings: dict[str, str]) -> list[str]:
    """Return the words of an ExecStart= as systemd has them: ``${X}`` is one, ``$X`` any number."""
    words: list[str] = []
    for word in command.split():
        if word.startswith("${"):
            words.append(settings[word[2:-1]])
        elif word.startswith("$"):
            words += settings[word[1:]].split()
        else:
            words.append(word)
    return words


@pytest.mark.parametrize("file", ENV_FILES, ids=lambda path: str(path.name))
def test_what_a_unit_starts_listens_and_ends_well(file: Path, stage: Stage) -> None:
    kind, _, name = file.stem.partition("-")
    unit = (ROOT / "examples" / "systemd" / f"gevent-rover-{kind}@.service").read_text()
    assert option_of(unit, "EnvironmentFile") == f"/etc/gevent-rover/{kind}-%i.env"
    assert file.read_text().startswith(f"# /etc/gevent-rover/{file.name},")
    path, *arguments = expanded(option_of(unit, "ExecStart"), settings_of(file))
    assert path == PROGRAM
    assert arguments[0] == kind
    if "unix:" in settings_of(file)["LISTEN"]:
        folder = option_of(unit, "RuntimeDirectory").replace("%i", name)
        assert settings_of(file)["LISTEN"].startswith(f"unix:/run/{folder}/")
    proxy = stage.listening(*map(stage.staged, arguments))
    proxy.terminate()
    assert proxy.process.wait(timeout=30) == 0
    wait_until(lambda: "closed; " in proxy.text)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: str(path.name))
def test_systemd_waits_longer_than_connections_may_take_to_end(unit: Path) -> None:
    text = unit.read_text()
    (drain,) = re.findall(r"--drain (\d+) ", option_of(text, "ExecStart"))
    timeout = option_of(text, "TimeoutStopSec")
    assert int(timeout) > int(drain)
    assert f"`TimeoutStopSec` ({timeout} s) must exceed `--drain` ({drain} s" in PAGE


def test_the_page_says_how_to_make_what_the_units_run() -> None:
    folder = str(Path(PROGRAM).parents[1])
    lines = commands("systemd")
    assert f"python3 -m venv {folder}" in lines
    for line in lines:
        for file in re.findall(r"examples/systemd/\S+", line):
            assert list(ROOT.glob(file)), file
        for extra in re.findall(r"'\.\[(.*)\]'", line):
            setup = (ROOT / "setup.py").read_text(encoding="utf-8")
            assert all(re.search(rf'(?m)^ +"{name}": ', setup) for name in extra.split(","))


# Symptoms: each does what leads to one, and returns what was said.


def backend_refuses(stage: Stage) -> str:
    front = stage.front(free_port())
    with proxying.connected(front.place) as client:
        assert client.recv(1) == b""
    return waited_for(front, "no slots")


def backend_is_silent(stage: Stage) -> str:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    port = listener.getsockname()[1]
    stage.stack.callback(listener.close)
    stage.stack.callback(socket.create_connection(("127.0.0.1", port)).close)
    front = stage.front(port, "--connect-timeout", "0.5")
    with proxying.connected(front.place) as client:
        assert client.recv(1) == b""
    return waited_for(front, "no slots")


def port_is_used(stage: Stage) -> str:
    used = stage.serve()
    front = stage.start("front", f"127.0.0.1:{used}", "127.0.0.1:1")
    assert front.process.wait(timeout=30) == 1
    relay = stage.start("relay", f"127.0.0.1:{used}", "127.0.0.1:1")
    assert relay.process.wait(timeout=30) == 1
    wait_until(lambda: "Address" in front.text and "Address" in relay.text)
    return front.text


def address_is_elsewhere(stage: Stage) -> str:
    front = stage.start("front", "203.0.113.7:7379", "127.0.0.1:1")
    assert front.process.wait(timeout=30) == 1
    return waited_for(front, "Cannot")


def front_has_no_backend(stage: Stage) -> str:
    return waited_for(stage.relay(stage.front(free_port()).port), "unreachable")


def front_is_down(stage: Stage) -> str:
    return waited_for(stage.relay(free_port()), "unreachable")


def server_instead_of_front(stage: Stage) -> str:
    return waited_for(stage.relay(stage.serve()), "unreachable")


def no_connection(stage: Stage) -> str:
    relay = stage.relay(free_port())
    with proxying.connected(relay.place) as client:
        assert client.recv(1) == b""
    return waited_for(relay, "no connection for")


def more_clients_than_slots(stage: Stage) -> str:
    relay = stage.relay(stage.front(stage.serve()).port, "--timeout", "10")
    for _ in range(40):
        client = stage.stack.enter_context(proxying.connected(relay.place))
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
    with proxying.connected(relay.place) as client:
        assert client.recv(1) == b""
    return waited_for(relay, "max_slots is", "no connection for")


def wrong_authority(stage: Stage) -> str:
    files = {name: str(stage.directory / name) for name in ("front.pem", "ca.pem")}
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(files["front.pem"])
    trustme.CA().cert_pem.write_to_path(files["ca.pem"])
    front = stage.front(stage.serve(), "--tls", "--cert", files["front.pem"])
    relay = stage.relay(front.port, "--tls", "--ca", files["ca.pem"])
    with proxying.connected(relay.place) as client:
        assert client.recv(1) == b""
    return waited_for(relay, "no connection for")


def another_protocol(stage: Stage) -> str:
    relay = stage.relay(stage.serve(b"220 hello\r\n"))
    with proxying.connected(relay.place) as client:
        assert client.recv(1) == b""
    return waited_for(relay, "no connection for")


def server_speaks_first(stage: Stage) -> str:
    front = stage.front(stage.serve(b"220 hello\r\n"))
    return waited_for(stage.relay(front.port), "speaks before it's asked")


def redis_cli_in_vain(stage: Stage) -> str:
    return said_by(program("redis-cli"), "-p", str(stage.relay(free_port()).port), "ping")


def redis_cli_at_a_front(stage: Stage) -> str:
    with proxying.redis(stage.directory) as redis:
        return said_by(program("redis-cli"), "-p", str(stage.front(redis.port).port), "ping")


def curl(relay: proxying.Proxy) -> str:
    return said_by(program("curl"), "--silent", "--show-error", f"http://{relay.place}/peer")


def curl_at_a_front(stage: Stage) -> str:
    with proxying.nginx(stage.directory) as nginx:
        return curl(stage.front(nginx.port))


def curl_in_vain(stage: Stage) -> str:
    return curl(stage.relay(free_port()))


def nginx_misses_the_header(stage: Stage) -> str:
    with proxying.nginx(stage.directory, "proxy_protocol") as nginx:
        said = curl(stage.relay(stage.front(nginx.port).port))
    assert re.search(pattern("Empty reply from server"), said)  # as the table says, too
    return (stage.directory / "error.log").read_text()


def nginx_expects_no_header(stage: Stage) -> str:
    log = stage.directory / "access.log"
    with proxying.nginx(stage.directory, f"; access_log {log}") as nginx:
        relay = stage.relay(stage.front(nginx.port, "--proxy-protocol").port)
        # As the table says, too.
        waited_for(relay, "speaks before it's asked")
    return log.read_text()


@contextmanager
def mariadb(stage: Stage, *options: str) -> Iterator[int]:
    """Run a MariaDB that blocks whoever fails three times; give its port."""
    port, data = free_port(), stage.directory / "data"
    install = [program("mariadb-install-db"), "--no-defaults", "--user=root", f"--datadir={data}"]
    done = run([*install, "--skip-test-db"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    # Whom no user's host fits is turned away before it's counted.
    users = stage.directory / "users.sql"
    users.write_text("CREATE USER 'app'@'%';\n")
    command = [
        program("mariadbd"), "--no-defaults", "--user=root", f"--datadir={data}",
        "--bind-address=127.0.0.1", "--skip-networking=0", f"--port={port}",
        f"--socket={stage.directory}/s", f"--pid-file={stage.directory}/pid",
        f"--log-error={stage.directory}/error.log", "--innodb-buffer-pool-size=16M",
        f"--init-file={users}", "--max-connect-errors=3", *options,
    ]  # fmt: skip
    with running(*command, port=port):
        yield port


def greeted(port: int, source: str) -> bytes:
    """Connect from an address without logging in; return what MariaDB said."""
    address = ("127.0.0.1", port)
    with socket.create_connection(address, timeout=30, source_address=(source, 0)) as sock:
        return bytes(sock.recv(200))


def mariadb_counts(stage: Stage) -> str:
    with mariadb(stage) as port:
        said = [greeted(port, "127.0.0.3") for _ in range(5)]
        assert b"blocked" not in said[0]
        return said[-1].decode(errors="replace")


SITUATIONS: dict[str, Callable[[Stage], str]] = {
    "no slots, since the backend can't be reached: [Errno 111] Connection refused": backend_refuses,
    "no slots, since the backend can't be reached: [Errno 110] no connection within 5 s":
        backend_is_silent,
    "can't listen on 10.0.0.7:7379: Address already in use": port_is_used,
    "can't listen on 10.0.0.7:7379: Cannot assign requested address": address_is_elsewhere,
    "server '10.0.0.7:7379' is unreachable: … closed before the slot line was whole":
        front_has_no_backend,
    "server '10.0.0.7:7379' is unreachable: … Connection refused": front_is_down,
    "server '10.0.0.7:6379' is unreachable: … no slot line within 3 s": server_instead_of_front,
    "no connection for … within 5 s; <SlotPool size=0/40 … latest attempt at server …":
        no_connection,
    "41 clients, but max_slots is 40: it must exceed them, or they wait for each other":
        more_clients_than_slots,
    "no connection for … <SlotPool size=40/40 idle=0 leased=40 …": more_clients_than_slots,
    "error: TLSError: TLS: … certificate verify failed": wrong_authority,
    "error: ProtocolError: not a slot line: …": another_protocol,
    "server '10.0.0.7:7379' speaks before it's asked: a relay can't keep its connections":
        server_speaks_first,
    "Error: Server closed the connection": redis_cli_in_vain,
    'Error: Protocol error, got "0" as reply type byte': redis_cli_at_a_front,
    "Received HTTP/0.9 when not allowed": curl_at_a_front,
    "Empty reply from server": curl_in_vain,
    "… while reading PROXY protocol": nginx_misses_the_header,
    '"\\x00" 400': nginx_expects_no_header,
    "Host '10.0.0.7' is blocked because of many connection errors": mariadb_counts,
}  # fmt: skip


def pattern(quoted: str) -> str:
    """Return a regular expression for what the page quotes: addresses and times may be others."""
    escaped = re.escape(quoted).replace("…", ".*")
    escaped = re.sub(r"10\\\.0\\\.0\\\.7(:\d+)?", r"[\\d.]+(:\\d+)?", escaped)
    return re.sub(r"within\\ \d\\ s", r"within [\\d.]+ s", escaped)


def test_each_symptom_of_the_page_is_tried_here() -> None:
    rows = [line for line in section("Symptoms").splitlines() if line.startswith("| ")]
    quoted = [re.findall("`([^`]+)`", row.split(" | ")[1])[0] for row in rows[1:]]
    assert quoted == list(SITUATIONS)


@pytest.mark.integration
@pytest.mark.parametrize("quoted", SITUATIONS)
def test_programs_say_what_the_page_quotes(quoted: str, stage: Stage) -> None:
    said = SITUATIONS[quoted](stage)
    assert re.search(pattern(quoted), said), said


# What the page says of servers


@pytest.mark.integration
def test_mariadb_counts_nothing_from_the_loopback_address_or_without_names(stage: Stage) -> None:
    with mariadb(stage) as port:
        assert not any(b"blocked" in greeted(port, "127.0.0.1") for _ in range(8))
    shutil.rmtree(stage.directory / "data")
    with mariadb(stage, "--skip-name-resolve") as port:
        assert not any(b"blocked" in greeted(port, "127.0.0.3") for _ in range(8))


@pytest.mark.integration
def test_mariadb_warns_of_each_attempt_unless_it_is_told_not_to(stage: Stage) -> None:
    log = stage.directory / "error.log"
    with mariadb(stage) as port:
        greeted(port, "127.0.0.1")
        wait_until(lambda: "without authentication" in log.read_text(), 30)
    shutil.rmtree(stage.directory / "data")
    log.unlink()
    with mariadb(stage, "--log-warnings=1") as port:
        greeted(port, "127.0.0.1")
    assert "without authentication" not in log.read_text()


@pytest.mark.integration
def test_roving_leaves_nothing_in_the_access_log_of_nginx(stage: Stage) -> None:
    log = stage.directory / "access.log"
    with proxying.nginx(stage.directory, f"proxy_protocol; access_log {log}") as nginx:
        front = stage.front(nginx.port, "--proxy-protocol")
        rove = [sys.executable, "-m", "gevent_rover", "rove", "--count", "3", "--interval", "0.05"]
        assert said_by(*rove, front.place).count("  connection  ") == 3
        assert "proxy_protocol_addr" not in curl(stage.relay(front.port))
        wait_until(lambda: "/peer" in log.read_text())
        assert log.read_text().count("\n") == 1


@pytest.mark.integration
def test_redis_lists_the_address_of_the_front(stage: Stage) -> None:
    with proxying.redis(stage.directory) as redis:
        for port, listed in ((redis.port, True), (stage.relay_of(redis.port).port, False)):
            with proxying.connected(f"127.0.0.1:{port}") as client:
                client.sendall(b"CLIENT LIST\r\n")
                said = client.recv(65536)
                assert b" addr=127.0.0.1:" in said
                assert (b" addr=127.0.0.1:%d " % client.getsockname()[1] in said) is listed


@pytest.mark.integration
def test_protected_redis_takes_a_client_of_a_front_for_one_from_here(tmp_path: Path) -> None:
    redis = [program("redis-server"), "--bind", "0.0.0.0", "--save", "", "--dir", str(tmp_path)]
    ping = f"timeout 5 {program('redis-cli')}"
    command = [sys.executable, "-m", "gevent_rover"]
    with joined() as (server, client), ExitStack() as stack:
        stack.enter_context(server.process(*redis))
        front = ["front", f"{SERVER}:7379", "127.0.0.1:6379"]
        relay = ["relay", "127.0.0.1:8379", f"{SERVER}:7379"]
        for side, arguments in ((server, front), (client, relay)):
            started = stack.enter_context(side.process(*command, *arguments))
            assert started.stdout.readline().startswith(b"listening on ")

        def says(arguments: str) -> str:
            return client.call("bash", "-c", f"{ping} {arguments} ping 2>&1 || true")

        wait_until(lambda: "PONG" in says("-p 8379"), 30)
        assert "DENIED Redis is running in protected mode" in says(f"-h {SERVER}")
