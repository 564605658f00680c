"""Bytes that pass between two connections, both ways, by callbacks of the hub."""

from __future__ import annotations

import _socket
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from gevent import get_hub
from gevent.event import Event

from gevent_rover.net.forks import check_fork, same_process
from gevent_rover.net.sockets import (
    INTERNET,
    close_now,
    peer_gone,
    raw_of,
    reader_of,
    reset,
    unread,
    writer_of,
)

#: Bytes that are read at a time, and the most that wait in one direction for a slow reader.
CHUNK: Final = 65536

#: Seconds between two looks whether a side that ended its half has gone altogether: of that
#: alone the hub can't tell.
LOOK_AFTER: Final = 5.0


class Flow:
    """One direction: what one side says, and the other one is to hear.

    Nothing is copied unless the other side can't take it at once. Then that rest waits, and
    nothing more is read until it's gone: the kernel holds back who speaks.
    """

    __slots__ = (
        "_buffer",
        "_chunk",
        "_reader",
        "_receive",
        "_send",
        "_writer",
        "back",
        "carried",
        "ended",
        "heard",
        "pump",
        "rest",
        "source",
        "target",
    )

    #: What a side raises that has to wait.
    waits: Any = BlockingIOError
    #: What it raises at its end, instead of saying nothing.
    ends: Any = ()

    def __init__(self, pump: Pump, source: Any, target: Any, buffer: bytearray) -> None:
        self.pump = pump
        self.source = source
        self.target = target
        self._buffer = buffer
        self._chunk = memoryview(buffer)
        self._reader = reader_of(source)
        self._writer = writer_of(target)
        self._receive = self.methods_of(source).recv_into
        self._send = self.methods_of(target).send
        #: Bytes that the source said so far.
        self.carried = 0
        #: What the target has yet to take.
        self.rest: Any = b""
        #: Whether the source says no more.
        self.ended = False
        #: Called for each piece that the source says; None: nobody wants to know.
        self.heard: Callable[[], object] | None = None
        #: The other direction.
        self.back: Flow = self

    def methods_of(self, sock: Any) -> Any:
        """Return what has a socket's methods that don't wait."""
        return raw_of(sock)

    def start(self) -> None:
        """Pass on what the source says from now on."""
        self._reader.start(self.on_readable)

    def stop(self) -> None:
        """Pass nothing on any more. What waits is lost."""
        self._reader.stop()
        self._writer.stop()
        self.rest = b""

    def on_readable(self) -> None:
        """Pass on what there is."""
        if not same_process[0]:
            check_fork()
        try:
            count = self._receive(self._buffer)
        except self.waits:
            return
        except self.ends:
            count = 0
        except OSError:
            self.pump.lost(self.source)
            return
        if count == 0:
            self.source_ended()
            return
        self.carried += count
        if self.heard is not None:
            self.heard()
        try:
            sent = self._send(self._buffer if count == CHUNK else self._chunk[:count])
        except self.waits:
            sent = 0
        except OSError:
            self._target_gone()
            return
        if sent != count and not self.pump.over:
            self.rest = memoryview(bytes(self._chunk[sent:count]))
            self._reader.stop()
            self._writer.start(self.on_writable)

    def on_writable(self) -> None:
        """Pass on what waits."""
        if not same_process[0]:
            check_fork()
        try:
            self.rest = self.rest[self._send(self.rest) :]
        except self.waits:
            return
        except OSError:
            self._target_gone()
            return
        if not self.rest and not self.pump.over:
            self._writer.stop()
            self._reader.start(self.on_readable)

    def source_ended(self) -> None:
        """Tell the target that the source says no more."""
        if self.ended or self.pump.over or self.pump.losing:
            return
        self.ended = True
        self._reader.stop()
        try:
            self.end_target()
        except OSError:
            self._target_gone()
        else:
            self.pump.half_ended(self.source)

    def _target_gone(self) -> None:
        """Pass on what the target said before it went: why it did, perhaps.

        But no end: after a failure that was told once, the kernel says that a reset is one.
        """
        pump, back, before = self.pump, self.back, -1
        losing, pump.losing = pump.losing, True
        while not (losing or pump.over or back.ended or back.rest or back.carried == before):
            before = back.carried
            back.on_readable()
        pump.lost(self.target)

    def end_target(self) -> None:
        """End the half of the target's connection in which it hears.

        :raises OSError: it can't be told.
        """
        raw_of(self.target).shutdown(_socket.SHUT_WR)

    @property
    def has_more(self) -> bool:
        """Whether the target lacks what is here, or learns that the source was reset."""
        try:
            return bool(self.rest or unread(self.source))
        except OSError:
            return not self.ended

    def finish(self) -> None:
        """Do what's left to do when both sides have ended."""


class AnswerClock:
    """Measures how long the far side takes to answer: until the first byte after a question.

    What it says without a question isn't measured, and of several questions at a time
    only the first is.

    :param tell: called with the seconds of each answer, in the hub.
    """

    __slots__ = ("_asked_at", "_tell")

    def __init__(self, tell: Callable[[float], object]) -> None:
        self._tell = tell
        self._asked_at: float | None = None

    def asked(self) -> None:
        """Take note that the near side said something."""
        if self._asked_at is None:
            self._asked_at = monotonic()

    def answered(self) -> None:
        """Take note that the far side said something."""
        asked_at, self._asked_at = self._asked_at, None
        if asked_at is not None:
            self._tell(monotonic() - asked_at)


class Pump:
    """Two connections, and the two flows between them.

    It uses the sockets' own watchers, so nobody else may wait for them meanwhile. It closes
    neither socket, but where one side was reset: then the other one is, too.

    :param near: a connected gevent socket, with or without TLS.
    :param far: another one.
    :param buffer: what is read into, :data:`CHUNK` bytes, shared by the pumps of one hub.
    :param kind: what passes the bytes on, for each direction.
    """

    __slots__ = (
        "_ended",
        "_timer",
        "far",
        "first_ended",
        "flows",
        "losing",
        "lost_side",
        "near",
        "over",
    )

    def __init__(self, near: Any, far: Any, buffer: bytearray, kind: type[Flow] = Flow) -> None:
        self.near = near
        self.far = far
        there, back = kind(self, near, far, buffer), kind(self, far, near, buffer)
        there.back, back.back = back, there
        #: From near to far, and back.
        self.flows = there, back
        #: Whether nothing passes any more.
        self.over = False
        #: Whether a side is found to be gone, and about to be lost.
        self.losing = False
        #: The side that was reset, or couldn't be told anything any more; None: neither.
        self.lost_side: Any = None
        #: The side that said first that it says no more; None: neither did.
        self.first_ended: Any = None
        self._ended = Event()
        self._timer: Any = None

    def measure(self, clock: AnswerClock) -> None:
        """Have a clock told of what both sides say."""
        self.flows[0].heard, self.flows[1].heard = clock.asked, clock.answered

    @property
    def carried(self) -> int:
        """How many bytes came so far, both ways."""
        return self.flows[0].carried + self.flows[1].carried

    def run(self) -> None:
        """Pass on what both sides say until both have ended, or one is lost, or it's stopped.

        What wakes it is the hub, and :meth:`stop` from any greenlet. A kill cuts it off.
        """
        try:
            for flow in self.flows:
                if not self.over:
                    flow.start()
            if not self.over:
                self._ended.wait()
        except BaseException:
            self.cut()
            raise

    def cut(self) -> None:
        """Stop it, wherever it is: who lacks bytes that are here is reset. Doesn't switch.

        Else what's cut off would end as if it were whole.
        """
        if self.over:
            return
        lacking = [flow.target for flow in self.flows if flow.has_more]
        self.stop()
        for side in lacking:
            reset(side)

    def stop(self) -> None:
        """Pass nothing on any more. Doesn't switch."""
        self.over = True
        for flow in self.flows:
            flow.stop()
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._ended.set()

    def abandon(self) -> None:
        """Let go of both, in a forked child: of copies of them, by ``close()`` alone."""
        self.stop()
        close_now(self.near)
        close_now(self.far)

    # What the flows tell

    def half_ended(self, side: Any) -> None:
        """Take note that one side says no more."""
        if all(flow.ended for flow in self.flows):
            for flow in self.flows:
                flow.finish()
            self.stop()
            return
        self.first_ended = side
        if raw_of(side).family in INTERNET:
            self._timer = get_hub().loop.timer(LOOK_AFTER, LOOK_AFTER)
            self._timer.start(self._look_after, side, update=True)

    def lost(self, side: Any) -> None:
        """End, since one side was reset: reset the other one, too."""
        if self.over:
            return
        self.lost_side = side
        self.stop()
        reset(self.far if side is self.near else self.near)

    def _look_after(self, side: Any) -> None:
        if self._timer is not None and peer_gone(side):
            self.lost(side)
