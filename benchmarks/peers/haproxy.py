"""HAProxy in a process of its own, with a configuration made for the servers at hand."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from benchmarks.loopback import Address

#: One thread, as there is one core for it. The rest is what somebody who knows HAProxy
#: would write: it notices a death within half a second, tries again at another server,
#: and ends the connections to a dead one.
_CONFIGURATION = """\
global
    nbthread 1
    maxconn 1000
    stats socket {control}
defaults
    mode tcp
    timeout connect 1s
    timeout check 1s
    timeout client 1h
    timeout server 1h
    retries 3
    option redispatch 1
    default-server check inter 200ms fastinter 50ms rise 1 fall 2 on-marked-down shutdown-sessions
listen peers
    balance {balance}
"""


def command() -> str | None:
    """Return where HAProxy is; Debian has it where only root's PATH looks."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return shutil.which("haproxy", path=path)


class HAProxy:
    """A process that we started, and that we end by its id."""

    def __init__(
        self,
        command: str,
        balance: str,
        addresses: Sequence[Address],
        servers: Sequence[Address],
        folder: Path,
        core: int,
    ) -> None:
        self.addresses = addresses
        self._control = str(folder / "control")
        lines = [_CONFIGURATION.format(control=self._control, balance=balance)]
        lines += [f"    bind {host}:{port}\n" for host, port in addresses]
        lines += [
            f"    server server-{number} {host}:{port}\n"
            for number, (host, port) in enumerate(servers)
        ]
        configuration = folder / "haproxy.cfg"
        configuration.write_text("".join(lines))
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [command, "-q", "-db", "-f", configuration],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            os.sched_setaffinity(self._process.pid, {core})
            self._wait_until_it_accepts()
        except BaseException:
            self.close()
            raise

    def _wait_until_it_accepts(self) -> None:
        deadline = monotonic() + 10
        while True:
            try:
                socket.create_connection(self.addresses[-1], timeout=1).close()
                self.up()  # Its control socket comes a little later.
                return
            except OSError:
                if self._process.poll() is not None or monotonic() > deadline:
                    raise RuntimeError(f"HAProxy: {self._log.read_text()}") from None
                sleep(0.02)

    def cpu(self) -> float:
        """Return the CPU time so far, in seconds: of its only thread, to the nanosecond."""
        spent = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]
        return int(spent) / 1e9

    def up(self) -> int:
        """Return how many servers it takes for alive."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(self._control)
            control.sendall(b"show stat -1 4 -1\n")  # of all proxies, the servers
            text = b"".join(iter(lambda: control.recv(65536), b"")).decode()
        head, *lines = text.lstrip("# ").strip().splitlines()
        column = head.split(",").index("status")
        return sum(line.split(",")[column].startswith("UP") for line in lines)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def haproxy(
    command: str,
    balance: str,
    addresses: Sequence[Address],
    servers: Sequence[Address],
    core: int,
) -> Iterator[HAProxy]:
    """Run HAProxy for the time of a ``with`` block.

    :param command: where it is.
    :param balance: how it chooses a server for each connection.
    :param addresses: where it is to listen.
    :param servers: what is behind it.
    :param core: the core that it keeps to.
    """
    with tempfile.TemporaryDirectory() as folder:
        proxy = HAProxy(command, balance, addresses, servers, Path(folder), core)
        try:
            yield proxy
        finally:
            proxy.close()
