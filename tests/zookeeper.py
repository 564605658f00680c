"""A real ZooKeeper for tests: Debian's, on the JDK that's there, a process of its own."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

from backends import free_port, program
from conftest import wait_until
from gevent import socket
from gevent.subprocess import STDOUT, Popen
from namespaces import lacking

#: Debian's package ``zookeeper`` (``libzookeeper-java``); its manifest names all others it needs.
JAR = Path("/usr/share/java/zookeeper.jar")

#: Milliseconds. Sessions last from 2 to 20 of them.
TICK = 500

_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"


class ZooKeeper:
    """A server of its own with a directory of its own; :meth:`start` it, :meth:`stop` it."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.hosts = f"127.0.0.1:{self.port}"
        self._directory = directory
        self._process: Any = None

    def __enter__(self) -> ZooKeeper:
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, with the data that it had, and wait until it answers."""
        java = program("java")
        if not JAR.exists():
            lacking("zookeeper")
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        config = self._directory / "zoo.cfg"
        config.write_text(
            f"dataDir={data}\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
            f"tickTime={TICK}\nmaxClientCnxns=0\nadmin.enableServer=false\n"
            "4lw.commands.whitelist=*\n",
            encoding="utf-8",
        )
        # No compiler that takes its time, no sync: it starts in half the time.
        options = ["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]
        options += ["-Dzookeeper.forceSync=no", "-Dzookeeper.jmx.log4j.disable=true"]
        with open(self._directory / "log", "ab") as log:
            self._process = Popen(
                [java, *options, "-cp", str(JAR), _MAIN, str(config)], stdout=log, stderr=STDOUT
            )
        wait_until(lambda: self._process.poll() is not None or self._is_ok(), 30)
        assert self._process.poll() is None, (self._directory / "log").read_text()

    @property
    def pid(self) -> int:
        """Its process."""
        return int(self._process.pid)

    def _is_ok(self) -> bool:
        try:
            # It may say to "ruok" that it is, and yet lack what it answers clients with. Whom
            # it accepts even earlier it never answers.
            return self.command("srvr", timeout=0.3).startswith("Zookeeper version")
        except OSError:
            return False

    def command(self, word: str, timeout: float = 5.0) -> str:
        """Return what it answers to a command of four letters; it tells, and does, nothing more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as sock:
            sock.sendall(word.encode())
            return b"".join(iter(lambda: sock.recv(65536), b"")).decode()

    def received(self) -> dict[str, int]:
        """Return how many packets it had of each session that is connected, by its id."""
        found = {}
        for line in self.command("cons").splitlines():
            if "sid=" in line:
                fields = dict(f.partition("=")[::2] for f in line.partition("(")[2][:-1].split(","))
                found[fields["sid"]] = int(fields["recved"])
        return found

    def freeze(self) -> None:
        """Stop it where it is: the kernel takes connections, and nobody answers."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it."""
        self.kill()

    def forget(self) -> None:
        """Remove all of its data; it isn't running."""
        shutil.rmtree(self._directory / "data")
