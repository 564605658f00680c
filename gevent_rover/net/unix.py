"""Listening at a path: a Unix domain socket's file outlives who listened there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from gevent import socket

_BACKLOG = 1024


def listen_at(path: str, mode: int | None = None) -> Any:
    """Return a gevent socket that listens at a path, where nobody else does.

    A file that nobody listens at, of a process that was killed, is replaced.

    :param path: a leading NUL makes it an abstract name (Linux), which has no file.
    :param mode: the file's permissions; None: what the umask leaves.
    :raises OSError: somebody listens there, or it isn't possible there.
    """
    abstract = path.startswith("\0")
    if not abstract:
        remove_left_behind(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        if mode is not None and not abstract:
            # On Linux the file has them from the start then; elsewhere from the next line on.
            os.fchmod(listener.fileno(), mode)
        listener.bind(path)
        if mode is not None and not abstract:
            os.chmod(path, mode)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def remove_left_behind(path: str) -> None:
    """Remove a socket's file that nobody listens at: of a process that was killed, say."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except OSError:
            pass  # Somebody listens, but has no time; or it isn't ours to look at.
