"""The proxies that are compared, each a process on the core that is theirs."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.loopback import Address
from benchmarks.proxying.processes import Process, child_on, cpu_of, running, where

#: One thread, as there is one core for it. No health checks, since nothing dies here.
_HAPROXY = """\
global
    nbthread 1
    maxconn {maxconn}
{tuning}
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen proxied
    balance {balance}
    bind {host}:{port}
"""


class Missing(Exception):
    """A program isn't there; the message is why rows are skipped."""


def needed(program: str) -> str:
    """Return where a program is.

    :raises Missing: it's nowhere.
    """
    found = where(program)
    if found is None:
        raise Missing(f"there is no {program} command")
    return found


@contextmanager
def front(address: Address, backend: Address, core: int) -> Iterator[Process]:
    """Run ``gevent-rover front`` for the time of a ``with`` block."""
    command = _command("front", _text(address), _text(backend))
    with running(*command, core=core, address=address) as process:
        yield process


@contextmanager
def relay(
    address: Address, servers: Sequence[Address], max_slots: int, core: int
) -> Iterator[Process]:
    """Run ``gevent-rover relay`` for the time of a ``with`` block."""
    command = _command("relay", "--max-slots", str(max_slots), _text(address))
    command += tuple(map(_text, servers))
    with running(*command, core=core, address=address) as process:
        yield process


class Wordless(NamedTuple):
    """The process of a front that says no slot lines."""

    id: int

    def cpu(self) -> float:
        return cpu_of(self.id)

    def wait_until_alone(self) -> None:
        """Nothing is to be waited for: it forks nothing."""


@contextmanager
def wordless_front(address: Address, backend: Address, core: int) -> Iterator[Wordless]:
    """Run a front that says no slot lines; see :mod:`benchmarks.proxying.front`."""
    with child_on(core, "proxying.front", address, backend, False) as child:
        yield Wordless(child.receive())


@contextmanager
def haproxy(
    address: Address,
    servers: Sequence[Address],
    core: int,
    *,
    balance: str = "roundrobin",
    maxconn: int = 2000,
    tuning: str = "",
) -> Iterator[Process]:
    """Run HAProxy for the time of a ``with`` block.

    :param tuning: more lines of its section ``global``.
    :raises Missing: there is none.
    """
    host, port = address
    lines = [_HAPROXY.format(maxconn=maxconn, tuning=tuning, balance=balance, host=host, port=port)]
    lines += [f"    server server-{n} {_text(server)}\n" for n, server in enumerate(servers)]
    command = (needed("haproxy"), "-q", "-db", "-f")
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "haproxy.cfg"
        configuration.write_text("".join(lines))
        with running(*command, str(configuration), core=core, address=address) as process:
            yield process


@contextmanager
def socat(address: Address, backend: Address, core: int) -> Iterator[Process]:
    """Run socat for the time of a ``with`` block; it forks a process for each connection.

    Its backlog is 5 if it isn't told otherwise: then 50 clients that come at once wait for
    seconds, until the kernel tries again.

    :raises Missing: there is none.
    """
    host, port = address
    listening = f"TCP-LISTEN:{port},bind={host},fork,nodelay,reuseaddr,backlog=1024"
    command = (needed("socat"), listening, f"TCP:{_text(backend)},nodelay")
    with running(*command, core=core, address=address) as process:
        yield process


@contextmanager
def redis_server(address: Address, core: int) -> Iterator[Process]:
    """Run redis, which keeps nothing on disk, for the time of a ``with`` block.

    :raises Missing: there is none.
    """
    host, port = address
    command = (needed("redis-server"), "--bind", host, "--port", str(port))
    with running(
        *command, "--save", "", "--appendonly", "no", core=core, address=address
    ) as process:
        yield process


def _command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "gevent_rover", *arguments)


def _text(address: Address) -> str:
    host, port = address
    return f"{host}:{port}"
