"""Sends commands through the pool for redis-py to fronts, and sees that none is lost.

Usage: front_redis.py FRONT_PORT …
"""

# mypy: disable-error-code="no-untyped-call"
# Most of redis-py's methods have no annotations.

from __future__ import annotations

import sys
from typing import Any

import gevent
import redis
from checking import (
    GREENLETS,
    SLOTS,
    check_whole,
    no_descriptor_leaks,
    rover_of,
    side_by_side,
    wait_for_both,
)
from redis_pool import RedisPool

COMMANDS = 10_000


def main(*ports: int) -> None:
    rover = rover_of(ports)
    pool = RedisPool(rover, slots={"max_slots": SLOTS})
    client: Any = redis.Redis(connection_pool=pool)
    asked = 0

    def echo() -> None:
        nonlocal asked
        asked += 1
        word = b"%d" % asked
        assert client.echo(word) == word

    with rover, pool:
        pool.slots.wait_ready(SLOTS)
        wait_for_both(pool.slots)
        side_by_side(echo, COMMANDS // GREENLETS)
        check_whole(pool.slots)
        stats = pool.slots.stats()
        # All that leave are replaced by lower slots, and none is lost.
        assert sum(stats.closed.values()) == stats.closed["replaced"], stats
        assert stats.failures == 0, stats
    assert asked == COMMANDS
    print(f"{asked} commands: all is well")


if __name__ == "__main__":
    with gevent.Timeout(45), no_descriptor_leaks():
        main(*map(int, sys.argv[1:]))
