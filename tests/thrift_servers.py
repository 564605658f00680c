"""A Thrift server of the tests, started again whenever it ended, and the check of its clients."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
from backends import CHECKS, EXAMPLES, free_port, fronts, program, run_check, running
from conftest import wait_until
from gevent import subprocess

IDL = EXAMPLES / "calculator.thrift"

#: What to run a check with: each kind of transport and protocol, and whether monkey-patched.
RUNS = [
    *((kind, False) for kind in ("buffered", "framed", "plain", "compact", "multiplexed")),
    ("buffered", True),
    ("framed", True),
]

#: A script of tests/clients, and what it makes its service of: generated modules, or the IDL.
Script = tuple[str, Path]


def generate(directory: Path) -> Path:
    """Have the compiler make Python modules of the IDL; return the directory they are in."""
    made = directory / "generated"
    made.mkdir()
    subprocess.check_call([program("thrift"), "--gen", "py", "-out", str(made), str(IDL)])
    return made


@contextmanager
def kept_up(script: str, source: Path, kind: str, pid_file: Path) -> Iterator[int]:
    """Run the server of a script of tests/clients, again and again; give its port.

    :param source: what the script makes its service of.
    :param pid_file: where to write the id of each process, once it can be connected to.
    """
    port = free_port()
    path = os.pathsep.join([str(CHECKS), str(EXAMPLES)])
    environ: Any = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, str(CHECKS / script), str(source), "serve", kind, str(port)]

    def keep() -> None:
        while True:
            with running(*command, port=port, env=environ) as process:
                whole = pid_file.with_suffix(".new")
                whole.write_text(str(process.pid))
                whole.replace(pid_file)
                process.wait()

    keeper = gevent.spawn(keep)
    try:
        wait_until(lambda: pid_file.exists() or keeper.dead, 30)
        assert not keeper.dead, keeper.exception
        yield port
    finally:
        keeper.kill()


def check_calls(server: Script, client: Script, kind: str, pid_file: Path, patched: bool) -> str:
    """Check a client with a server behind two fronts; return what it printed."""
    with kept_up(*server, kind, pid_file) as port, fronts(port, port) as servers:
        ports = [front.server_port for front in servers]
        name, source = client
        return run_check(name, source, "check", kind, pid_file, *ports, patched=patched)
