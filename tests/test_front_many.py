"""Thousands of connections through one front, nearly all of them idle."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import ROOT
from gevent.subprocess import PIPE, Popen

SCRIPT = Path(__file__).with_name("front_many_script.py")

PAIRS = 5000
MEMORY = 40_000  # bytes for each idle pair, in the front's process

_, _MOST_DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        _MOST_DESCRIPTORS < 16_000,
        reason=f"a process may have no more than {_MOST_DESCRIPTORS} descriptors here",
    ),
]


class Told:
    """A process that is told what to do, line by line, and says how it went."""

    def __init__(self, *arguments: object) -> None:
        paths = [str(ROOT), str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")]
        self.process: Any = Popen(
            [sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=PIPE,
            stdout=PIPE,
        )

    def hear(self) -> Any:
        """Return what it says next."""
        with gevent.Timeout(40, AssertionError("it says nothing")):
            line = self.process.stdout.readline()
        assert line, f"it ended, with {self.process.wait()}"
        return json.loads(line)

    def tell(self, command: object) -> Any:
        """Have it do something, and return what it says to that."""
        self.process.stdin.write(b"%s\n" % str(command).encode())
        self.process.stdin.flush()
        return self.hear()

    def memory(self) -> int:
        """Return how much it has in memory, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024


@contextmanager
def telling(*arguments: object) -> Iterator[Told]:
    told = Told(*arguments)
    try:
        yield told
        assert told.process.wait(timeout=20) == 0
    finally:
        told.process.kill()
        told.process.wait()
        told.process.stdin.close()
        told.process.stdout.close()


@pytest.mark.timeout(110)
def test_thousands_of_idle_pairs_and_a_busy_one_work_and_take_little_memory() -> None:
    with ExitStack() as stack:
        peers = stack.enter_context(telling("peers", PAIRS))
        front = stack.enter_context(telling("front", peers.hear()["port"]))
        assert peers.tell(front.hear()["port"]) == {"tried": True}
        assert front.tell("remember") == {"remembered": True}
        before = front.memory()

        assert peers.tell("connect") == {"connected": PAIRS, "highest": PAIRS - 1}

        assert front.tell("count") == {"slots": PAIRS, "pumps": PAIRS}
        pair = (front.memory() - before) / PAIRS
        print(f"{pair:.0f} bytes for each idle pair")
        assert pair <= MEMORY
        assert peers.tell("use")["busy"] > 0
        assert peers.hear() == {"echoed": PAIRS}
        assert peers.tell("end") == {"ended": True}
        assert front.tell("end") == {"ended": True}
