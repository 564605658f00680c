"""What an app's request in a gunicorn worker pays for instruments, HTTP and all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import gevent
from gevent import socket

from benchmarks.child import python
from benchmarks.measure import Row, compare, in_turn
from benchmarks.metrics.requests import TARGET, TURNS

_ROOT = Path(__file__).parents[2]
_SERVERS = 4
_CLIENTS = 8

#: Seconds after which something is wrong.
_TIMEOUT = 20.0


def measure(rounds: int, *, quick: bool) -> list[Row]:
    count = 160 if quick else 4_000
    with python("speed.echo", _SERVERS) as echo, _served(echo.receive()) as port:
        measures = {
            f"{name}, a worker of gunicorn's": partial(_cpu_of_requests, port, path, count)
            for name, path in (("bare", "/off"), ("instrumented", "/on"))
        }
        figures = in_turn(TURNS * rounds, measures)
    bare, instrumented = measures
    return [compare("gunicorn", figures, instrumented, bare, TARGET)]


def _cpu_of_requests(port: int, path: str, count: int) -> float:
    """Return the CPU time of the worker for each request, in µs."""
    _requests(port, 1, "/off")
    _requests(port, 1, path)
    gevent.sleep(0.05)
    before = float(_requests(port, 1, "/cpu"))
    clients = [gevent.spawn(_requests, port, count // _CLIENTS, "/") for _ in range(_CLIENTS)]
    with gevent.Timeout(_TIMEOUT):
        gevent.joinall(clients, raise_error=True)
    return (float(_requests(port, 1, "/cpu")) - before) / count * 1e6


def _requests(port: int, count: int, path: str) -> bytes:
    """Make requests on one connection; return the body of the latest answer."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT) as sock:
        for _ in range(count):
            answer = _ask(sock, path)
    return answer


def _ask(sock: socket.socket, path: str) -> bytes:
    """Make a request on a connection that is kept, and return the body of the answer."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: site\r\n\r\n".encode())
    answer = b""
    while True:
        chunk = sock.recv(4096)
        if not chunk:
            raise ConnectionResetError(f"gunicorn hung up after {answer!r}")
        answer += chunk
        head, end, body = answer.partition(b"\r\n\r\n")
        if end:
            length = re.search(rb"Content-Length: (\d+)", head)
            if length is not None and len(body) >= int(length[1]):
                if not head.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(f"gunicorn says {answer!r}")
                return body


@contextmanager
def _served(ports: list[int]) -> Iterator[int]:
    """Run gunicorn for the time of a ``with`` block; give its port."""
    with TemporaryDirectory() as folder, open(Path(folder) / "log", "wb") as log:
        values = Path(folder) / "values"
        values.mkdir()
        command = [sys.executable, "-m", "gunicorn", "-c", "benchmarks/metrics/conf.py"]
        process = subprocess.Popen(
            [*command, "--bind", "127.0.0.1:0", "benchmarks.metrics.app:application"],
            cwd=_ROOT,
            env=os.environ
            | {
                "PROMETHEUS_MULTIPROC_DIR": str(values),
                # The package is imported from where this process has it from.
                "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)]),
                "SERVERS": ",".join(f"127.0.0.1:{port}" for port in ports),
                "XDG_RUNTIME_DIR": folder,  # newer gunicorns' control socket
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that the worker ends with its master
        )
        try:
            yield _port_of(process, Path(log.name))
        finally:
            with suppress(ProcessLookupError):  # ended, all of it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    """Return the port that gunicorn says it listens at, once its worker is up."""
    due = monotonic() + _TIMEOUT
    while True:
        text = log.read_text()
        found = re.search(r"Listening at: http://\S+:(\d+)", text)
        if found and "Booting worker" in text:
            return int(found[1])
        if process.poll() is not None or monotonic() > due:
            raise RuntimeError(f"gunicorn isn't up: {text}")
        gevent.sleep(0.01)
