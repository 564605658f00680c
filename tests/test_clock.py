"""Clocks that jump, in a process of its own: the rover's time is the monotonic clock's."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gevent.subprocess import PIPE
from namespaces import Told, lacking, need, process, roving

from gevent_rover import Server

pytestmark = pytest.mark.integration

INTERVAL = 0.2
#: An hour and half an interval: the schedule's phase isn't the same by chance.
JUMP = 3600 + INTERVAL / 2


class WallClock:
    """The wall clock of a process, as libfaketime makes it up."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not libraries:
            lacking("libfaketime")
        self.environment = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, ahead: float) -> None:
        """Make it so many seconds ahead of the real one, from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+}")
        new.replace(self._file)


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path / "clock")


@contextmanager
def rover_under(wall_clock: WallClock, **parameters: Any) -> Iterator[Told]:
    environment = wall_clock.environment
    with process(*roving(**parameters), stdin=PIPE, env=environment) as started:
        yield Told(started)


def hours_ahead(said: dict[str, Any]) -> int:
    """Return how far the process's wall clock is ahead of this one's."""
    return round(float(said["time"] - time.time()) / 3600)


def test_ticks_keep_their_schedule_when_the_wall_clock_jumps(
    wall_clock: WallClock, dead_server: Server
) -> None:
    with rover_under(wall_clock, servers={"a": dead_server}, roving_interval=INTERVAL) as rover:
        began = time.monotonic()
        rover.tell("start")
        ticks = [rover.hear() for _ in range(3)]
        assert hours_ahead(ticks[-1]) == 0
        wall_clock.set(JUMP)
        ticks += [rover.hear() for _ in range(4)]
        assert hours_ahead(ticks[-1]) == 1
        wall_clock.set(-JUMP)
        ticks += [rover.hear() for _ in range(4)]
        assert hours_ahead(ticks[-1]) == -1
        # They still come, and none before its time: the second comes at any moment within
        # an interval of the first.
        for number, tick in enumerate(ticks):
            assert tick["monotonic"] >= began + (number - 1) * INTERVAL


def test_deadlines_stay_where_they_are_when_the_wall_clock_jumps(
    wall_clock: WallClock, silent: Server
) -> None:
    with rover_under(wall_clock, servers={"a": silent}, timeout=2.0) as rover:
        began = []
        for jump in (JUMP, -JUMP):
            began.append(time.monotonic())
            rover.tell("connect")
            wall_clock.set(jump)
            rover.tell("what_time")
            assert hours_ahead(rover.hear()) == round(jump / 3600)
        for beginning in began:
            attempt = rover.hear()
            assert attempt["error"] == "TimeoutError"
            assert beginning + 2.0 <= attempt["monotonic"] < beginning + 20
            assert 2.0 <= attempt["elapsed"] < 20


def test_a_process_whose_monotonic_clock_is_another_one_keeps_its_times(silent: Server) -> None:
    need("unshare")
    if os.geteuid():
        lacking("root")
    days = 10 * 86400
    unshare = ["unshare", "--time", "--monotonic", str(days), "--boottime", str(days)]
    command = roving(servers={"a": silent}, roving_interval=0.1, timeout=0.2)
    with process(*unshare, *command, stdin=PIPE) as started:
        rover = Told(started)
        began = time.monotonic() + days
        rover.tell("start")
        for number in range(5):
            attempt = rover.hear()
            assert attempt["error"] == "TimeoutError"
            assert attempt["elapsed"] >= 0.2
            # Ahead by more than the machine has been up could make it.
            assert began + 0.2 + (number - 1) * 0.1 <= attempt["monotonic"] < began + 60
