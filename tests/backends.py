"""Real servers for tests of clients: each a process of its own, behind fronts that say slots."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from random import randrange
from typing import Any

import gevent
import pytest
from conftest import wait_until
from gevent import socket
from gevent.subprocess import PIPE, STDOUT, Popen, run
from namespaces import PATH, lacking

from gevent_rover import Front

CHECKS = Path(__file__).parent / "clients"
EXAMPLES = Path(__file__).parent.parent / "examples" / "clients"

#: How a configuration of nginx begins, for one that stays in the foreground and in a folder.
NGINX = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    default_type text/plain;
    keepalive_requests 1000000;
"""

_KERNEL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def client_library(name: str) -> None:
    """See that a client is installed, or skip the module or test; where all must be, fail.

    :param name: of its package.
    """
    if os.environ.get("ROVER_CLIENTS") == "true":
        import_module(name)
    else:
        pytest.importorskip(name, reason=f"{name} isn't installed: it's in the extra clients")


def program(name: str) -> str:
    """Return where a program is; skip the test (in CI: fail it) if it's nowhere."""
    found = shutil.which(name, path=PATH)
    return lacking(name) if found is None else found


def free_port() -> int:
    """Return a port of the loopback that nobody uses right now.

    It's not one of those that the kernel gives: while a server is down, or begins, another
    one of those may get its port, or a client that connects; one that connects to the very
    port may even be connected to itself.
    """
    lowest, _ = map(int, _KERNEL_PORTS.read_text().split())
    while True:
        port = randrange(min(10_000, lowest // 2), lowest)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def accepts(port: int) -> bool:
    """Tell whether anybody listens there."""
    with socket.socket() as sock:
        return bool(sock.connect_ex(("127.0.0.1", port)) == 0)


@contextmanager
def running(*command: str, port: int, timeout: float = 30.0, **options: Any) -> Iterator[Any]:
    """Run a server until the end of the block; it begins when the port is accepted at.

    :param command: the program's path, and its arguments. It must not detach itself.
    """
    process: Any = Popen(command, stdout=PIPE, stderr=STDOUT, **options)
    output: list[bytes] = []
    reader = gevent.spawn(lambda: output.extend(iter(lambda: process.stdout.read1(65536), b"")))
    try:
        wait_until(lambda: accepts(port) or process.poll() is not None, timeout)
        assert process.poll() is None, b"".join(output).decode(errors="replace")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except gevent.subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(5)
        process.stdout.close()


@contextmanager
def fronts(*ports: int) -> Iterator[list[Front]]:
    """Put a front before each backend."""
    servers = [Front(("127.0.0.1", 0), {"host": "127.0.0.1", "port": port}) for port in ports]
    for server in servers:
        server.start()
    try:
        yield servers
    finally:
        for server in servers:
            server.stop(timeout=0)


def run_check(name: str, *arguments: object, patched: bool, timeout: float = 50.0) -> str:
    """Run a script of tests/clients to its good end; return what it printed.

    It can import the modules of examples/clients.

    :param patched: whether in a monkey-patched process.
    """
    command = [sys.executable, "-W", "error"]
    command += ["-m", "gevent.monkey"] if patched else []
    command += [str(CHECKS / name), *map(str, arguments)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), str(CHECKS)])}
    done = run(command, env=environ, stdout=PIPE, stderr=STDOUT, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout
    return str(done.stdout)
