"""When the ticks are, without a clock."""

from __future__ import annotations

import pytest

from gevent_rover.roving.schedule import Schedule


def ticks(schedule: Schedule, until: float, interval: float = 1.0) -> list[float]:
    """Return when it ticks, looked at every 0.05 s."""
    return [
        now / 20 for now in range(round(until * 20)) if schedule.is_due(now / 20 + 1e-9, interval)
    ]


@pytest.mark.parametrize("phase", [0.05, 0.35, 0.95, 1.0])
def test_the_first_tick_is_at_once_and_the_second_after_a_part_of_an_interval(phase: float) -> None:
    schedule = Schedule(0.0, phase)
    expected = [0, *(phase + number for number in range(5))]
    assert ticks(schedule, 5.0) == pytest.approx([tick for tick in expected if tick < 5])


def test_a_late_tick_keeps_the_phase() -> None:
    schedule = Schedule(0.0, 0.5)
    assert schedule.is_due(0.0, 1.0)
    assert schedule.is_due(3.2, 1.0)  # At 0.5, and at three more that are skipped.
    assert schedule.seconds_left(3.2) == pytest.approx(0.3)


def test_a_first_tick_that_comes_late_does_not_move_the_second() -> None:
    schedule = Schedule(0.0, 0.5)
    assert schedule.is_due(0.3, 1.0)
    assert schedule.seconds_left(0.3) == pytest.approx(0.2)
