"""The attempts that a started rover makes: one in each interval, and more while they're wanted."""

from __future__ import annotations

import logging
import sys
from random import random
from time import monotonic
from typing import Any, Final, Literal

from gevent import Greenlet, get_hub, getcurrent
from gevent.event import Event

from gevent_rover.net.forks import check_fork, kill_copy, same_process
from gevent_rover.policy.pacing import HANGS_AFTER
from gevent_rover.roving.attempts import Attempts, PendingAttempt
from gevent_rover.roving.quick import QuickRoving
from gevent_rover.roving.schedule import Schedule
from gevent_rover.roving.settings import Settings
from gevent_rover.roving.workers import Workers

_log: Final = logging.getLogger("gevent_rover.rover")


class Loop:
    """The greenlet that ticks, the attempts under way, and who wants their connections.

    :param rover: whose loop it is.
    :param attempts: where its attempts come from.
    """

    def __init__(self, rover: Settings, attempts: Attempts) -> None:
        self._rover = rover
        self._attempts = attempts
        self.quick = QuickRoving(rover, attempts.health)
        self._pending: dict[PendingAttempt, None] = {}
        self._workers: Workers[PendingAttempt] = Workers(self._publish, self.start_wanted)
        #: What ticks; None: it's stopped.
        self.greenlet: Greenlet[..., Any] | None = None
        self._hub: Any = None  # the hub of the thread that started it
        self._schedule = Schedule(0.0)
        self._wakeup = Event()
        #: Whether a fork stopped it in this process, and whether that was said in the log.
        self._fork: Literal["none", "stopped it", "said"] = "none"

    # Its life

    @property
    def state(self) -> str:
        """``started``, ``stopped`` or ``stopped by a fork``."""
        if self.started:
            return "started"
        return "stopped" if self._fork == "none" else "stopped by a fork"

    @property
    def started(self) -> bool:
        """Whether it ticks. The end of its thread ends it, too, and so does that of its hub."""
        return self.greenlet is not None and not self._is_orphan

    @property
    def _is_orphan(self) -> bool:
        """Whether its thread or its hub ended while it ticked."""
        greenlet = self.greenlet
        return greenlet is not None and (greenlet.dead or self._hub.loop is None)

    @property
    def pending(self) -> int:
        """How many of its attempts aren't published yet."""
        return len(self._pending)

    @property
    def publishers(self) -> list[Any]:
        """The greenlets that publish its attempts, or wait for some."""
        return self._workers.greenlets

    def start(self) -> None:
        """Tick at once and then in each interval, from a random moment of the first one on.

        If it's started, begin the schedule anew.
        """
        if self._is_orphan:
            # Nothing of what its thread left will ever run.
            self.stop()
            self._pending.clear()
        self._fork = "none"
        self._hub = get_hub()
        # Clients that are started together don't rove in step.
        self._schedule = Schedule(monotonic(), phase=random())
        self.quick.start()
        if self.greenlet is None:
            self._wakeup = Event()  # Not that of another thread's hub.
            self.greenlet = Greenlet.spawn(self._run)
        self._wakeup.set()

    def stop(self) -> list[Any]:
        """Tick no more, and give up the attempts that are dialling. Doesn't switch.

        :returns: the greenlets that still publish an attempt.
        """
        if self._is_orphan:
            for attempt in self._pending:
                attempt.outlive_loop()
        elif self.greenlet is not None and self.greenlet is not getcurrent():
            self.greenlet.kill(block=False)
        self.greenlet = None
        for attempt in list(self._pending):
            if attempt.publisher is None:
                del self._pending[attempt]
                attempt.abandon()
        self._workers.stop()
        return [attempt.publisher for attempt in self._pending]

    def abandon(self) -> None:
        """Stop, in a forked child, and let go of the parent's attempts.

        The greenlets are copies of the parent's; they are killed if the child ever
        runs its hub, but for the one that forked, which goes on.
        """
        if self.started:
            self._fork = "stopped it"
        greenlet, self.greenlet = self.greenlet, None
        for attempt in self._pending:
            attempt.abandon_copy()
        self._workers.abandon()
        kill_copy(greenlet)
        self._pending.clear()
        self._wakeup = Event()

    def wake(self) -> None:
        """Tick now; safe from any thread."""
        if self.started:
            self._hub.loop.run_callback_threadsafe(self._tick_now)

    # What a demand says

    def look(self) -> None:
        """Look at what is wanted now, instead of on the next tick."""
        self._wakeup.set()

    def more_wanted(self) -> None:
        """Look at what is wanted now; say so once where a fork stopped it."""
        if self._fork == "stopped it":
            self._fork = "said"
            _log.warning("a fork stopped %r, and nobody started it here: call start()", self._rover)
        self.look()

    # Ticks

    def _tick_now(self) -> None:
        self._schedule.bring_forward(monotonic())
        self._wakeup.set()

    def _run(self) -> None:
        greenlet = getcurrent()
        try:
            while self.greenlet is greenlet:
                self._wakeup.wait(self._tick())
                self._wakeup.clear()
        finally:
            if self.greenlet is greenlet:  # Killed, but not by stop().
                self.greenlet = None

    def _tick(self) -> float:
        """Start the attempts that are due, and return the seconds until the next look."""
        check_fork()
        if self.greenlet is None:
            return 0.0
        now = monotonic()
        if self._schedule.is_due(now, self._rover.roving_interval):
            self.quick.tick()
            if self.greenlet is None:  # Who was told stopped the rover.
                return 0.0
            if len(self._pending) < self._rover.max_pending:
                self._launch(wanted=False)
        wait = self._schedule.seconds_left(now)
        if self.quick.demand is not None:
            self.start_wanted()
            # Attempts that have come to hang since make room for others.
            wait = min(wait, HANGS_AFTER)
        return wait

    def start_wanted(self) -> None:
        """Begin the attempts that quick roving has places for."""
        free = self.quick.free_places()
        if self.greenlet is None:  # Who was asked stopped the rover.
            return
        for _ in range(min(free, self._rover.max_pending - len(self._pending))):
            if not self._launch(wanted=True):
                self.quick.end()
                return

    # Attempts

    def _launch(self, *, wanted: bool) -> bool:
        """Begin an attempt, without a switch; False: all servers are avoided.

        :param wanted: whether it's quick roving's, which avoids some servers.
        """
        attempt = self._attempts.pick(self.quick.avoid if wanted else None)
        if attempt is None:
            return False
        self._begin(attempt)
        return True

    def seek(self, id: str) -> None:
        """Begin an attempt at this server, if it may be."""
        if self.started and len(self._pending) < self._rover.max_pending:
            attempt = self._attempts.at(id)
            if attempt is not None:
                self._begin(attempt)

    def _begin(self, attempt: PendingAttempt) -> None:
        self._pending[attempt] = None
        self.quick.began(attempt)
        if attempt.failure is not None or not attempt.start(self.finished):
            self.finished(attempt)

    def finished(self, attempt: PendingAttempt) -> None:
        """Have an attempt published that is over; the hub calls it."""
        if attempt.abandoned:  # Its greenlet was killed by somebody else.
            self._forget(attempt)
            return
        attempt.elapsed = monotonic() - attempt.began
        self._workers.submit(attempt)

    def _publish(self, attempt: PendingAttempt) -> None:
        if not same_process[0]:
            check_fork()
        if attempt.abandoned:
            return
        # From here on nothing gives it up: no switch until it's marked.
        attempt.publisher = getcurrent()
        outcome = attempt.outcome(self._rover.servers)
        self.quick.pace(outcome, attempt)
        try:
            self._attempts.outcomes.publish(self._rover, attempt, outcome)
        except Exception:
            get_hub().handle_error(self._rover, *sys.exc_info())
        finally:
            self._forget(attempt)

    def _forget(self, attempt: PendingAttempt) -> None:
        self._pending.pop(attempt, None)
        self.quick.over(attempt)
