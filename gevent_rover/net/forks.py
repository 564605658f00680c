"""What a forked child does before anything else: it lets go of what is its parent's."""

from __future__ import annotations

import logging
import mmap
import os
import sys
from typing import Any, Final
from weakref import WeakSet

import gevent

_log: Final = logging.getLogger("gevent_rover.forks")
_log.addHandler(logging.NullHandler())

# The modules whose child processes run another program at once.
_RUNNERS: Final = frozenset({"subprocess", "gevent.subprocess"})

_forkables: Final[WeakSet[Forkable]] = WeakSet()


class Forkable:
    """What holds sockets, watchers or greenlets that no forked child may use."""

    def __init__(self) -> None:
        """Take part from now on.

        :raises RuntimeError: gevent's event loop here is libuv.
        """
        check_loop()
        _forkables.add(self)

    def _after_fork(self) -> None:
        """Let go of them, in the child: without a switch, without the hub, without an error."""
        raise NotImplementedError


def check_loop() -> None:
    """Refuse an event loop that doesn't survive a fork: libuv.

    :raises RuntimeError: it's gevent's here.

    The watchers of a child are in the same epoll set as its parent's: when the
    child closes its copies, the parent is no longer told when an idle connection ends.
    """
    loop = gevent.config.loop
    if "libuv" in loop.__module__:
        raise RuntimeError(
            f"gevent_rover needs gevent's libev loop, and this process has {loop.__module__}:"
            " unset GEVENT_LOOP, or set it to libev-cext"
        )


def kill_copy(greenlet: Any) -> None:
    """Kill, in a forked child, its copy of a greenlet, should its hub ever run.

    :param greenlet: a Greenlet or None. Nothing happens to the one that forked: there
        the child goes on. Nor to one whose loop is destroyed: that never runs again.
    """
    if greenlet is not None and greenlet is not gevent.getcurrent() and greenlet.loop is not None:
        greenlet.kill(block=False)


class _Pid:
    """The mark where the kernel can't clear a page: true in the process that it was set in."""

    def __init__(self) -> None:
        self[0] = 1

    def __getitem__(self, index: int) -> int:
        return self._pid == os.getpid()

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = os.getpid()


def _make_mark() -> Any:
    """Return what is true at 0 until a fork, and again once it is set there.

    A page that the kernel clears in each forked child (MADV_WIPEONFORK, Linux
    4.14): reading it takes 0.01 µs, ``os.getpid()``, a system call, 0.15 µs, and
    each attempt and each lease look twice.
    """
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(18)  # MADV_WIPEONFORK; Python has no name for it.
    except (AttributeError, OSError, ValueError):
        return _Pid()
    page[0] = 1
    return page


#: ``same_process[0]`` is true, but in a forked child that hasn't noticed yet. To look is
#: for those who can't afford the call of :func:`check_fork`: twice 0.03 of the 1.7 µs that
#: a lease takes.
same_process: Final = _make_mark()


def check_fork() -> None:
    """Notice a fork that ran none of Python's hooks: one made in C."""
    if not same_process[0]:
        _let_go()


def _after_fork_in_child() -> None:
    if not _runs_program():
        _let_go()


def _runs_program() -> bool:
    """Tell whether this child of ``subprocess`` is about to run a program.

    Then it may need what it was given: a connection's descriptor as its output, say.
    ``exec`` closes the others, as they aren't inheritable.
    """
    frame = sys._getframe(1).f_back  # who called os.fork
    for _ in range(3):  # gevent's Popen stands behind gevent's fork_and_watch
        if frame is None:
            break
        if frame.f_globals.get("__name__") in _RUNNERS:
            return True
        frame = frame.f_back
    return False


def _let_go() -> None:
    same_process[0] = 1
    for forkable in list(_forkables):
        try:
            forkable._after_fork()
        except Exception:
            # The others have sockets to let go of, too.
            _log.exception("after a fork: %r", forkable)


os.register_at_fork(after_in_child=_after_fork_in_child)
