"""Two network namespaces joined by a cable: to the kernel, two machines.

Each has addresses, routes, ports and a firewall of its own, and the test may
break any of them. Nothing outside is touched, and nothing outside is reached.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import gevent
import pytest
from gevent.monkey import is_module_patched
from gevent.subprocess import PIPE, STDOUT, Popen, run

ROOT = Path(__file__).parent.parent

#: The addresses of the two ends. Every pair has the same: they can't see each other.
SERVER, CLIENT = "10.77.0.1", "10.77.0.2"

#: What the cable's end is called in either namespace.
CABLE = "cable"

#: Where programs are: those of the administrator may not be on everybody's path.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_RESOLVERS = Path("/etc/netns")  # `ip netns exec` puts files of here over those in /etc
_numbers = count()


def lacking(what: str) -> NoReturn:
    """Skip the test, for this machine lacks something; in CI, which must have it, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")


def need(*programs: str) -> None:
    """See that these programs are there."""
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if missing:
        lacking(", ".join(missing))


def call(*command: str, input: str | None = None) -> str:
    """Run a program to its end, which must be a good one, and return what it printed."""
    done = run(
        command,
        env=os.environ | {"PATH": PATH},
        input=input,
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return str(done.stdout)


class Namespace:
    """One end of the cable."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *arguments: str) -> str:
        """Run ``ip`` in here."""
        return call("ip", "-n", self.name, *arguments)

    def call(self, *command: str, input: str | None = None) -> str:
        """Run a program in here to its end, and return what it printed."""
        return call("ip", "netns", "exec", self.name, *command, input=input)

    def firewall(self, *rules: str) -> None:
        """Replace the rules for packets that come in; none: all of them may.

        They come before the kernel looks at who the packets are for.
        """
        lines = [
            "add table inet rover",
            "delete table inet rover",
            "add table inet rover",
            "add chain inet rover come { type filter hook input priority 0; }",
            *(f"add rule inet rover come {rule}" for rule in rules),
        ]
        self.call("nft", "-f", "-", input="\n".join(lines) + "\n")

    def set(self, name: str, value: str) -> None:
        """Set a kernel parameter: a path below ``/proc/sys/net``."""
        self.call("tee", f"/proc/sys/net/{name}", input=value)

    def resolve_with(self, *lines: str) -> None:
        """Give the processes that start in here from now on a ``resolv.conf``."""
        folder = _RESOLVERS / self.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resolv.conf").write_text("\n".join(lines) + "\n")

    @contextmanager
    def process(self, *command: str, **options: Any) -> Iterator[Any]:
        """Run a program in here, and kill it at the end whatever state it is in."""
        with process("ip", "netns", "exec", self.name, *command, **options) as started:
            yield started


@contextmanager
def process(*command: str, **options: Any) -> Iterator[Any]:
    """Run a program with its output in a pipe, and kill it at the end."""
    environment = os.environ | {"PATH": PATH, "PYTHONPATH": str(ROOT)} | options.pop("env", {})
    started = Popen(command, stdout=PIPE, env=environment, **options)
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        for pipe in (started.stdin, started.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def joined() -> Iterator[tuple[Namespace, Namespace]]:
    """Make two namespaces, the server's and the client's, and remove them at the end."""
    need("ip", "nft")
    if os.geteuid():
        lacking("root")
    _remove_leftovers()
    # Processes that test at the same time don't meet.
    name = f"rover-{os.getpid()}-{next(_numbers)}"
    server, client = Namespace(f"{name}-server"), Namespace(f"{name}-client")
    with ExitStack() as stack:
        for end in (server, client):
            try:
                call("ip", "netns", "add", end.name)
            except AssertionError as exc:
                lacking(f"network namespaces: {exc}")
            stack.callback(_remove, end.name)
        cable = ["link", "add", CABLE, "type", "veth", "peer", CABLE, "netns", client.name]
        server.ip(*cable)
        for end, address in ((server, SERVER), (client, CLIENT)):
            end.ip("link", "set", "lo", "up")
            end.ip("address", "add", f"{address}/24", "dev", CABLE)
            end.ip("link", "set", CABLE, "up")
        yield server, client


def _remove(name: str) -> None:
    shutil.rmtree(_RESOLVERS / name, ignore_errors=True)
    try:
        _RESOLVERS.rmdir()
    except OSError:
        pass  # Others have theirs in it.
    call("ip", "netns", "delete", name)


def _remove_leftovers() -> None:
    """Remove what test processes left that were killed, and end what runs in there."""
    names = re.findall(r"^(rover-(\d+)-\d+-\w+)", call("ip", "netns", "list"), re.MULTILINE)
    for name, owner in names:
        if not Path(f"/proc/{owner}").exists():
            try:
                for pid in call("ip", "netns", "pids", name).split():
                    os.kill(int(pid), signal.SIGKILL)
                _remove(name)
            except (AssertionError, ProcessLookupError):
                pass  # Somebody else was faster.


class Told:
    """A process of ``roving.py``, from outside."""

    def __init__(self, started: Any) -> None:
        self.process = started

    def tell(self, command: str) -> None:
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, timeout: float = 30.0) -> dict[str, Any]:
        """Return the next thing that it says."""
        with gevent.Timeout(timeout, AssertionError("it says nothing")):
            line = self.process.stdout.readline()
        assert line, "it has ended"
        said: dict[str, Any] = json.loads(line)
        return said

    def hear_until(self, **expected: Any) -> list[dict[str, Any]]:
        """Return what it says, up to the first thing that is as expected."""
        heard = [self.hear()]
        while any(heard[-1].get(key) != value for key, value in expected.items()):
            heard.append(self.hear())
        return heard

    def connect(self) -> dict[str, Any]:
        """Have it make one attempt."""
        self.tell("connect")
        return self.hear()


def roving(**parameters: Any) -> list[str]:
    """Return the command of a process for :class:`Told`, patched if this one is."""
    patch = ["-m", "gevent.monkey"] if is_module_patched("socket") else []
    script = str(ROOT / "tests" / "roving.py")
    return [sys.executable, *patch, script, json.dumps(parameters)]
