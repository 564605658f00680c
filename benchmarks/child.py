"""Processes beside the measured one: they answer lines of JSON, and end when their stdin does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

_HERE = Path(__file__).parent


class Child:
    """A process that we started, and that we end by its id."""

    def __init__(self, *command: str) -> None:
        # The package is imported from where it lies, installed or not.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_HERE.parent
        )

    def receive(self) -> Any:
        """Return the next line that it prints; block until it has."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended: {self._process.wait()}")
        return json.loads(line)

    def ask(self, request: object) -> Any:
        """Send it a line and return the line that it answers with."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self.receive()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process.stdout.close()


@contextmanager
def python(module: str, *arguments: object) -> Iterator[Child]:
    """Run ``python -m benchmarks.MODULE`` for the time of a ``with`` block."""
    child = Child(sys.executable, "-m", f"benchmarks.{module}", *map(json.dumps, arguments))
    try:
        yield child
    finally:
        child.close()


@contextmanager
def node(script: str, *arguments: object) -> Iterator[Child | None]:
    """Run a Node script of ``benchmarks`` for the time of a ``with`` block; None without Node."""
    command = which("node")
    if command is None:
        yield None
        return
    child = Child(command, str(_HERE / script), *map(json.dumps, arguments))
    try:
        yield child
    finally:
        child.close()
