"""What a pool of Thrift clients must hold, whichever library they are of."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from checking import (
    GREENLETS,
    SLOTS,
    Load,
    Ticker,
    at_most,
    check_whole,
    lost,
    no_descriptor_leaks,
    raises,
    rng,
    side_by_side,
    wait_for_both,
    wait_until,
)

from gevent_rover import PoolTimeout, SlotPool

# Longer than any transport's buffer, and than what a socket takes at once.
LARGE = 1 << 20


class Handler:
    """What the servers do.

    :param zero: makes the exception that the IDL declares.
    """

    def __init__(self, zero: Callable[[str], Exception]) -> None:
        self._zero = zero
        self._notes: list[str] = []

    def divide(self, dividend: int, divisor: int) -> int:
        if divisor == 0:
            raise self._zero(f"{dividend} / 0")
        return dividend // divisor

    def echo(self, text: str, seconds: float) -> str:
        time.sleep(seconds)
        return text

    def note(self, text: str) -> None:
        self._notes.append(text)

    def noted(self, text: str) -> int:
        return self._notes.count(text)


class Checks:
    """The checks of one pool.

    :param service: what makes its service.
    :param zero: the exception that the IDL declares.
    :param no_answer: what says that there was none.
    """

    def __init__(
        self,
        pool: SlotPool[Any],
        service: Callable[..., Any],
        zero: type[Any],
        no_answer: tuple[type[BaseException], ...],
    ) -> None:
        self.pool = pool
        self.service = service
        self.calculator = service(pool)
        self.zero = zero
        self.no_answer = no_answer

    def request(self, seconds: float = 0.0) -> None:
        """Make a request of its own kind and data, and see that the answer is its own."""
        number = rng.randrange(1, 1 << 30)
        kind = rng.random()
        if kind < 0.2:
            assert self.calculator.divide(number, 1) == number
        elif kind < 0.4:
            with raises(self.zero) as caught:
                self.calculator.divide(number, 0)
            assert caught.value.message == f"{number} / 0", caught
        elif kind < 0.5:
            text = f"note {number} {rng.random()}"
            self.calculator.note(text)
        else:
            size = rng.choice((1, 100, 4090, 5000, 60000)) if kind < 0.99 else LARGE
            text = f"{number} " + rng.choice("aäж") * size
            assert self.calculator.echo(text, seconds) == text

    def answers(self, rounds: int = 25) -> None:
        """See everybody get their own answers, and no connection closed meanwhile."""
        wait_for_both(self.pool)
        closed = lost(self.pool.stats())
        side_by_side(self.request, rounds)
        check_whole(self.pool)
        stats = self.pool.stats()
        assert lost(self.pool.stats()) == closed, stats
        leases = [server.leases for server in stats.servers.values()]
        assert len(leases) == 2 and min(leases) > rounds, stats

    def kills(self, count: int = 600) -> None:
        """See kills and timeouts at any moment cost their own requests, and no others."""
        outcomes: Counter[str] = Counter()

        def ask() -> None:
            while sum(outcomes.values()) < count:
                outcome = "late"
                with at_most(rng.uniform(0.0001, 0.01)):
                    self.request(rng.choice((0.0, 0.003)))
                    outcome = "answered"
                outcomes[outcome] += 1

        def victim() -> None:
            while True:
                self.request(rng.choice((0.0, 0.003)))

        def kill() -> None:
            while outcomes["killed"] < count // 2:
                job = gevent.spawn(victim)
                gevent.sleep(rng.uniform(0.0, 0.02))
                job.kill()
                # Killed, and not ended by an error of its own.
                assert isinstance(job.value, gevent.GreenletExit), job.exception
                outcomes["killed"] += 1

        killers = [gevent.spawn(kill) for _ in range(GREENLETS // 4)]
        askers = [gevent.spawn(ask) for _ in range(GREENLETS)]
        gevent.joinall(killers + askers, raise_error=True)
        assert outcomes["late"] > 10 and outcomes["killed"] > 10, outcomes
        assert self.pool.stats().closed["discarded"] > 10, self.pool.stats()
        check_whole(self.pool)

    def hub(self) -> None:
        """See the hub run while requests wait, side by side."""
        with Ticker() as ticker:
            began = time.monotonic()
            jobs = [gevent.spawn(self.calculator.echo, f"{n}", 0.6) for n in range(SLOTS)]
            gevent.joinall(jobs, raise_error=True)
            elapsed = time.monotonic() - began
        assert [job.value for job in jobs] == ["0", "1", "2"]
        assert ticker.longest < 0.4 and elapsed < 1.2, (ticker.longest, elapsed)
        assert ticker.ticks > 10, ticker.ticks

    def deadline(self) -> None:
        """See a call's own deadline close its connection, and speak against the server."""
        failed = self.pool.stats().closed["failed"]
        with raises(self.no_answer) as caught:
            self.service(self.pool, timeout=0.2).echo("late", 0.5)
        assert caught.value.type == caught.value.TIMED_OUT, caught
        assert self.pool.stats().closed["failed"] == failed + 1
        check_whole(self.pool)

    def dirty(self) -> None:
        """See nobody get the answer to a request that its block gave up without telling."""
        for _ in range(10):
            with self.pool.lease() as client, at_most(0.01):
                client.echo("stale", 0.05)
            self.answers_now()
        for _ in range(10):
            with self.pool.lease() as client:
                # It fails in the midst of the request, before anything is sent.
                with raises(Exception) as caught:
                    client.divide("no", "numbers")
                assert not isinstance(caught.value, self.no_answer), caught
            self.answers_now()
        assert self.pool.stats().closed["check"] > 10, self.pool.stats()
        check_whole(self.pool)

    def reopened(self) -> None:
        """See that what was closed by its user, or failed, refuses to go on."""
        with self.pool.lease() as client:
            client._iprot.trans.close()
            for attempt in (partial(client.noted, "x"), client._iprot.trans.open):
                with raises(self.no_answer, "lease another one") as caught:
                    attempt()
                assert caught.value.type == caught.value.NOT_OPEN, caught
        check_whole(self.pool)

    def answers_now(self) -> None:
        """As many requests at once as there are slots are answered right."""
        texts = [f"{rng.random()}" for _ in range(SLOTS)]
        jobs = [gevent.spawn(self.calculator.echo, text, 0.0) for text in texts]
        gevent.joinall(jobs, raise_error=True)
        assert [job.value for job in jobs] == texts

    def oneway(self) -> None:
        """See that a oneway call needs no answer, and its connection serves the next one."""
        closed = lost(self.pool.stats())
        text = f"{rng.random()}"
        for _ in range(50):
            self.calculator.note(text)
        wait_until(lambda: self.calculator.noted(text) == 50)
        assert lost(self.pool.stats()) == closed
        with self.pool.lease() as client:
            client.note(text)
            assert client.noted(text) == 51

    def outage(self, pid_file: Path) -> None:
        """See requests fail while the server is down, each of them end, and all well again."""
        pid = int(pid_file.read_text())
        with Load(lambda: self.request(0.01), (PoolTimeout, *self.no_answer)) as load:
            load.wait_for_answers(2 * GREENLETS)
            wait_until(lambda: self.pool.leased)
            assert not load.failed
            os.kill(pid, signal.SIGKILL)
            load.wait_for_failures(1)
            load.wait_for_answers(5 * GREENLETS)
        assert int(pid_file.read_text()) != pid
        check_whole(self.pool)
        self.answers(5)

    def all(self, pid_file: Path) -> None:
        """Run them one after the other, and see that no descriptor leaks."""
        check_whole(self.pool)
        with no_descriptor_leaks():
            for name, check in (
                ("answers", self.answers),
                ("oneway", self.oneway),
                ("hub", self.hub),
                ("dirty", self.dirty),
                ("reopened", self.reopened),
                ("deadline", self.deadline),
                ("kills", self.kills),
                ("answers", self.answers),
                ("outage", partial(self.outage, pid_file)),
            ):
                began = time.monotonic()
                check()
                print(f"{name}: {time.monotonic() - began:.1f} s")
