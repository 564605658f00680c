"""What the command says: lines, tables, and what becomes of them when nobody reads."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence

from gevent.event import Event
from gevent.lock import BoundedSemaphore
from gevent.socket import wait_write


class Output:
    """Standard output, a line at a time; the end of the command when it can't be written to."""

    def __init__(self, done: Event) -> None:
        #: Why the output ended early, if that wasn't its reader's will (``| head``).
        self.failure: OSError | None = None
        self._broken = False
        self._done = done
        self._turn = BoundedSemaphore()
        # A reader of a pipe may stop reading: then only who writes waits, and
        # a POSIX signal still ends the command.
        self._pipe = _fd_of_pipe()
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")

    def line(self, text: str) -> None:
        """Write a line and flush it; block while a pipe is full.

        Once the command is to end, its reader has a second: then what is left is dropped.
        """
        with self._turn:
            if self._broken:
                return
            try:
                if self._pipe is not None and not self._writable(self._pipe):
                    self._broken = True
                    return
                print(printable(text), flush=True)
            except OSError as exc:
                self._broken = True
                if not isinstance(exc, BrokenPipeError):
                    self.failure = exc
                # What couldn't be written would be tried again at exit.
                devnull = os.open(os.devnull, os.O_WRONLY)
                os.dup2(devnull, sys.stdout.fileno())
                os.close(devnull)
                self._done.set()

    def _writable(self, pipe: int) -> bool:
        while True:
            ended = self._done.is_set()
            try:
                wait_write(pipe, timeout=1.0)
            except TimeoutError:
                if ended:
                    return False
            else:
                return True


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table, its columns as wide as they have to be."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def printable(text: str) -> str:
    r"""Replace what could forge a line or steer a terminal: ``\n``, ``\x1b``, …"""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _fd_of_pipe() -> int | None:
    try:
        fd = sys.stdout.fileno()
        return fd if stat.S_ISFIFO(os.fstat(fd).st_mode) else None
    except (AttributeError, OSError):  # closed, or not a file at all
        return None
