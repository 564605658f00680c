"""Standard output for long texts, to readers that may stop reading: only who writes waits then."""

from __future__ import annotations

import os
import select
import stat
import sys
from typing import Final

from gevent.event import Event
from gevent.socket import wait_write

from gevent_rover.command.console import Output

# Seconds that a reader has, once the command is to end, to take what is left.
_PATIENCE: Final = 0.5


class Stream:
    """Writes texts of any length to standard output, and waits in the hub while that is full.

    A text file for rich, too. When it can't be written to, the command ends: quietly if nobody
    reads any more, else :attr:`Output.failure` says why.

    :param output: the command's, which writes nothing meanwhile.
    :param done: that the command is to end.
    """

    def __init__(self, output: Output, done: Event) -> None:
        self._output = output
        self._done = done
        self._parts: list[str] = []
        self._own: int | None = None
        self._fd, self._waits = -1, False
        try:
            self._fd = sys.stdout.fileno()
            mode = os.fstat(self._fd).st_mode
        except (AttributeError, OSError):  # closed, or no file at all
            self.encoding = "utf-8"
            return
        #: Which characters there are.
        self.encoding = sys.stdout.encoding
        self._waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(self._fd)
        if os.isatty(self._fd):
            # Opened once more, so that only its own writes become non-blocking: a terminal
            # that says it can be written to may take no more than a byte.
            try:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._fd = self._own = os.open(os.ttyname(self._fd), flags)
            except OSError:
                pass  # It has no name here: a container's, say.

    def close(self) -> None:
        """Close what it opened; nothing more is written."""
        self._fd = -1
        if self._own is not None:
            os.close(self._own)
            self._own = None

    def isatty(self) -> bool:
        """Tell whether it's a terminal."""
        return self._fd >= 0 and os.isatty(self._fd)

    def write(self, text: str) -> int:
        """Keep a text until :meth:`flush`."""
        self._parts.append(text)
        return len(text)

    def line(self, text: str) -> None:
        """Write a line, or several, and what is kept; block until it's taken."""
        self.write(f"{text}\n")
        self.flush()

    def flush(self) -> None:
        """Write what was kept; block until it's taken.

        Once the command is to end, its reader has half a second for each part of it: then the
        rest is dropped.
        """
        data = memoryview("".join(self._parts).encode(self.encoding, "backslashreplace"))
        self._parts.clear()
        try:
            while data and self._fd >= 0:
                if self._writable():
                    data = data[self._write(data) :]
        except OSError as exc:
            self._fd = -1
            if not isinstance(exc, BrokenPipeError):
                self._output.failure = exc
            self._done.set()

    def _writable(self) -> bool:
        if not self._waits:
            return True
        ended = self._done.is_set()
        try:
            wait_write(self._fd, timeout=_PATIENCE)
        except TimeoutError:
            if ended:
                self._fd = -1
            return False
        return True

    def _write(self, data: memoryview) -> int:
        # So much is taken by whoever says that it can be written to, without blocking.
        at_once = select.PIPE_BUF if self._waits and self._own is None else len(data)
        try:
            return os.write(self._fd, data[:at_once])
        except BlockingIOError:
            return 0
