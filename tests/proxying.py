"""The commands ``front`` and ``relay``, and unmodified servers behind them: processes all."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gevent
from backends import NGINX, free_port, program, running
from conftest import wait_until
from gevent import socket
from gevent.subprocess import PIPE, STDOUT, Popen, TimeoutExpired

from gevent_rover import parse_server

_LISTENING = "listening on "

#: Any free port of the loopback.
ANY = "127.0.0.1:0"


# The commands


class Proxy:
    """A front or a relay that runs, and the lines that it has printed so far.

    What it logs is among them.
    """

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-W", "error", "-m", "gevent_rover", *arguments]
        self.process: Any = Popen(command, stdout=PIPE, stderr=STDOUT)
        self.output: list[str] = []
        self.killed = False
        self._reader = gevent.spawn(self._read)

    def wait_until_it_listens(self) -> None:
        wait_until(lambda: self._listening or self.process.poll() is not None, 30)
        assert self._listening, self.text

    @property
    def place(self) -> str:
        """Where it listens, as the command's arguments have it."""
        return self._listening[0].removeprefix(_LISTENING)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.place.rpartition(":")[2])

    @property
    def text(self) -> str:
        """All that it has printed."""
        return "\n".join(self.output)

    def terminate(self) -> None:
        """Send it SIGTERM, and don't wait."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL, which it may be."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Have it end, whether it wants to or not."""
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(timeout=20)
            except TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(5)
        self.process.stdout.close()

    def check_end(self) -> None:
        """See that it ended well, and that nothing went wrong in it."""
        assert self.process.returncode == (-signal.SIGKILL if self.killed else 0), self.text
        assert "Traceback" not in self.text, self.text

    @property
    def _listening(self) -> list[str]:
        return [line for line in self.output if line.startswith(_LISTENING)]

    def _read(self) -> None:
        for line in self.process.stdout:
            self.output.append(line.decode().rstrip("\n"))


@contextmanager
def front(backend: Backend | str | int, *options: str, listen: str = ANY) -> Iterator[Proxy]:
    """Run a front until the end of the block; then SIGTERM must end it well.

    :param backend: one that runs, or as the command takes it, or a port of the loopback.
    """
    with _running("front", listen, _place_of(backend), *options) as proxy:
        yield proxy


@contextmanager
def relay(
    *servers: Proxy | str | int, options: tuple[str, ...] = (), listen: str = ANY
) -> Iterator[Proxy]:
    """Run a relay until the end of the block; then SIGTERM must end it well.

    :param servers: fronts that run, or as the command takes them, or ports of the loopback.
    """
    with _running("relay", listen, *map(_place_of, servers), *options) as proxy:
        yield proxy


@contextmanager
def _running(*arguments: str) -> Iterator[Proxy]:
    proxy = Proxy(*arguments)
    try:
        proxy.wait_until_it_listens()
        yield proxy
    finally:
        proxy.end()
    proxy.check_end()


def _place_of(server: Proxy | Backend | str | int) -> str:
    if isinstance(server, Proxy):
        return server.place
    port = server.port if isinstance(server, Backend) else server
    return f"127.0.0.1:{port}" if isinstance(port, int) else port


# The servers behind them


class Backend:
    """An unmodified server, which can be killed and frozen, and started again at its port."""

    def __init__(self, port: int, *command: str) -> None:
        self.port = port
        #: How it's started.
        self.command = command
        self._stack = ExitStack()
        self._process: Any = None

    def start(self) -> None:
        """Start it, and wait until it accepts."""
        self._process = self._stack.enter_context(running(*self.command, port=self.port))

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self._process.pid)

    def wait(self) -> None:
        """Wait until somebody has ended it."""
        self._process.wait()
        self._stack.close()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self.wait()

    def freeze(self) -> None:
        """Stop it by SIGSTOP: the kernel still accepts for it, until its backlog is full."""
        self._process.send_signal(signal.SIGSTOP)
        status = Path(f"/proc/{self.pid}/stat")
        wait_until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")

    def thaw(self) -> None:
        """Let it go on by SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, frozen or not."""
        if self._process.poll() is None:
            self.thaw()
        self._stack.close()


@contextmanager
def _started(backend: Backend) -> Iterator[Backend]:
    backend.start()
    try:
        yield backend
    finally:
        backend.close()


@contextmanager
def redis(directory: Path, *options: str) -> Iterator[Backend]:
    """Run a redis server that keeps nothing when it ends."""
    port = free_port()
    command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--dir", str(directory), "--save", "", "--appendonly", "no", *options]
    with _started(Backend(port, *command)) as backend:
        yield backend


@contextmanager
def memcached() -> Iterator[Backend]:
    """Run a memcached."""
    port = free_port()
    command = [program("memcached"), "-u", "root", "-l", "127.0.0.1", "-p", str(port), "-U", "0"]
    with _started(Backend(port, *command)) as backend:
        yield backend


_NGINX = (
    NGINX
    + """
    server {{
        listen 127.0.0.1:{port} {listen_options};
        root {directory};
        location = /peer {{ return 200 "$proxy_protocol_addr $proxy_protocol_port"; }}
    }}
}}
"""
)


@contextmanager
def nginx(directory: Path, listen_options: str = "") -> Iterator[Backend]:
    """Run an nginx that serves the files of a directory, and at ``/peer`` what PROXY told it."""
    port = free_port()
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _NGINX.format(directory=directory, port=port, listen_options=listen_options)
    )
    command = [program("nginx"), "-e", str(directory / "error.log"), "-c", str(configuration)]
    with _started(Backend(port, *command)) as backend:
        yield backend


# A client


def connected(place: str, timeout: float = 20.0) -> Any:
    """Return a connection to a place, as the command's arguments have it; reads time out."""
    _, server = parse_server(place)
    sock: Any
    if "path" in server:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(server["path"])
    else:
        sock = socket.create_connection((server["host"], server["port"]))
    sock.settimeout(timeout)
    return sock


class RedisClient:
    """A connection to redis: directly, through a relay, or to a front, which says a slot first.

    :param sock: the connection, which is this object's from now on.
    """

    def __init__(self, sock: Any) -> None:
        self.socket = sock
        self._answers = sock.makefile("rb")

    def __enter__(self) -> RedisClient:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    @property
    def own_address(self) -> Any:
        return self.socket.getsockname()

    def slot(self) -> int | None:
        """Read the slot line; None: the connection ended without any."""
        try:
            line: bytes = self._answers.readline()
        except ConnectionError:
            return None
        if not line:
            return None
        assert line.endswith(b"\r\n") and line[:-2].isdigit(), line
        return int(line)

    def send(self, *words: str | bytes) -> None:
        """Send a command."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        lines = [b"*%d\r\n" % len(parts)]
        lines += [b"$%d\r\n%s\r\n" % (len(part), part) for part in parts]
        self.socket.sendall(b"".join(lines))

    def answer(self) -> bytes | None:
        """Read an answer, which mustn't be an error.

        :raises EOFError: the connection ended instead.
        """
        line: bytes = self._answers.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError
        kind, rest = line[:1], line[1:-2]
        if kind in b"+:":
            return rest
        assert kind == b"$", line
        length = int(rest)
        if length < 0:
            return None
        data: bytes = self._answers.read(length + 2)
        if len(data) < length + 2:
            raise EOFError
        return data[:-2]

    def ask(self, *words: str | bytes) -> bytes | None:
        """Send a command, and return its answer."""
        self.send(*words)
        return self.answer()

    def ended(self) -> bool:
        """Wait for the next thing to happen, and tell whether it is the end or a reset."""
        try:
            return not self._answers.read(1)
        except ConnectionError:
            return True

    def close(self) -> None:
        self._answers.close()
        self.socket.close()


def at_front(place: Proxy | str) -> tuple[RedisClient, int | None]:
    """Connect to a front, and return the connection and its slot, if it got any."""
    client = RedisClient(connected(place.place if isinstance(place, Proxy) else place))
    try:
        return client, client.slot()
    except BaseException:
        client.close()
        raise
