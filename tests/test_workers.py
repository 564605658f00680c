"""Who publishes: work that blocks holds up no other, however it came into the queue."""

from __future__ import annotations

import gevent
import pytest
from conftest import wait_until
from gevent.event import Event

from gevent_rover.roving.workers import Workers


@pytest.mark.parametrize("count", [2, 3, 10])
def test_work_that_blocks_holds_up_nothing_that_came_together_with_it(count: int) -> None:
    go, begun = Event(), []

    def work(number: int) -> None:
        begun.append(number)
        go.wait()

    workers = Workers(work, lambda: None)
    for number in range(count):  # before any of them is begun
        workers.submit(number)
    wait_until(lambda: len(begun) == count)
    assert begun == list(range(count))
    workers.submit(count)
    wait_until(lambda: len(begun) == count + 1)
    go.set()
    wait_until(lambda: len(workers.greenlets) == 1)
    workers.stop()
    wait_until(lambda: not workers.greenlets)


def test_work_that_does_not_block_is_done_by_one_in_order() -> None:
    done: list[int] = []
    workers = Workers(done.append, lambda: None)
    for number in range(100):
        workers.submit(number)
    gevent.sleep(0.01)
    assert done == list(range(100))
    assert len(workers.greenlets) == 1
    workers.stop()


def test_long_work_lets_others_have_their_turn_and_stays_with_one() -> None:
    done: list[int] = []
    seen: list[int] = []

    def work(number: int) -> None:
        end = gevent.get_hub().loop.now() + 0.001
        while True:
            gevent.get_hub().loop.update_now()
            if gevent.get_hub().loop.now() >= end:
                break
        done.append(number)
        seen.append(len(workers.greenlets))

    workers = Workers(work, lambda: None)
    for number in range(20):
        workers.submit(number)
    wait_until(lambda: len(done) == 20)
    assert done == list(range(20))
    assert max(seen) == 1
    workers.stop()


def test_one_that_is_killed_while_it_rests_or_blocks_leaves_the_rest_to_others() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number < 3:
            gevent.sleep(60)
        done.append(number)

    workers = Workers(work, lambda: None)
    for number in range(6):
        workers.submit(number)
    wait_until(lambda: len(done) == 3)
    for worker in workers.greenlets:
        worker.kill()
    workers.submit(6)
    wait_until(lambda: done == [3, 4, 5, 6])
    workers.stop()
