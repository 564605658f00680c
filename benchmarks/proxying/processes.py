"""Programs on a core of their own, and what they cost: CPU time and memory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

from benchmarks.child import Child, python
from benchmarks.loopback import Address

_TICK = os.sysconf("SC_CLK_TCK")


def where(program: str) -> str | None:
    """Return where a program is; Debian has some where only root's PATH looks."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return shutil.which(program, path=path)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Have what is started in a ``with`` block keep to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def child_on(core: int, module: str, *arguments: object) -> Iterator[Child]:
    """Run ``python -m benchmarks.MODULE`` on a core for the time of a ``with`` block."""
    with ExitStack() as stack:
        with on_core(core):
            child = stack.enter_context(python(module, *arguments))
        yield child


class Process:
    """A program that we started, and that we end by its id, with what it forked."""

    def __init__(self, command: tuple[str, ...], core: int, log: Path) -> None:
        self._command = command
        self._log = log
        with on_core(core), log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                start_new_session=True,  # It's the leader of a group: what it forks, ends with it.
            )
        self.id = self._process.pid

    def wait_until_it_accepts(self, address: Address) -> None:
        deadline = monotonic() + 30
        while True:
            try:
                socket.create_connection(address, timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or monotonic() > deadline:
                    message = f"{self._command!r}: {self._log.read_text()}"
                    raise RuntimeError(message) from None
                sleep(0.02)

    def cpu(self) -> float:
        """Return the CPU time so far, in seconds, with that of all it forked."""
        return cpu_of(self.id)

    def memory(self) -> tuple[int, int]:
        """Return the bytes that are in memory, and those of them that it shares with nobody.

        Those of the processes that it forked are added.
        """
        memories = [_memory_of(id) for id in _with_descendants(self.id)]
        return sum(resident for resident, _ in memories), sum(private for _, private in memories)

    def wait_until_alone(self) -> None:
        """Wait until all processes have ended that it forked."""
        deadline = monotonic() + 30
        while len(_with_descendants(self.id)) > 1:
            if monotonic() > deadline:
                raise RuntimeError(f"{self._command!r} has processes that don't end")
            sleep(0.02)

    def close(self) -> None:
        os.killpg(self.id, signal.SIGKILL)  # It isn't waited for yet, so the id is its own still.
        self._process.wait()


@contextmanager
def running(*command: str, core: int, address: Address) -> Iterator[Process]:
    """Run a program on a core for the time of a ``with`` block.

    :param address: where it listens, soon: the block begins then.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = Process(command, core, Path(folder) / "log")
        try:
            process.wait_until_it_accepts(address)
            yield process
        finally:
            process.close()


def cpu_of(id: int) -> float:
    """Return a process's CPU time so far, in seconds, with that of all it forked."""
    ticks = 0
    for each in _with_descendants(id):
        # User and system, its own and that of those that ended.
        ticks += sum(map(int, _stat(each)[11:15]))
    return ticks / _TICK


def cpu_of_all() -> float:
    """Return the CPU time that all processes of the machine had so far, in seconds."""
    times = [*map(int, Path("/proc/stat").read_text().split()[1:8])]
    # Those of interrupts are charged to the processes that they meet.
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts = times
    return (user + nice + system + interrupts + soft_interrupts) / _TICK


def _stat(id: int) -> list[str]:
    """Return what /proc/ID/stat has behind the name, from the state on; zeros if it's gone."""
    try:
        return Path(f"/proc/{id}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["0"] * 50


def _with_descendants(id: int) -> list[int]:
    """Return a process and all that it forked, and so on; parents come first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            parent = int(_stat(int(path.name))[1])
            children.setdefault(parent, []).append(int(path.name))
    found = [id]
    for each in found:
        found += children.get(each, [])
    return found


def _memory_of(id: int) -> tuple[int, int]:
    """Return what's in memory of a process, and what it shares with nobody; zeros if it ends."""
    resident = private = 0
    try:
        lines = Path(f"/proc/{id}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    for line in lines:
        name, _, size = line.partition(":")
        if name == "Rss":
            resident = int(size.split()[0]) * 1024
        elif name in ("Private_Clean", "Private_Dirty"):
            private += int(size.split()[0]) * 1024
    return resident, private
