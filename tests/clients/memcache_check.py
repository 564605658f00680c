"""Check the recipe memcache_pool against a real memcached behind two slot servers.

Usage: memcache_check.py PID FRONT_PORT …

PID is that of memcached, which is killed once and must be started again by somebody else.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path

import gevent
from checking import (
    Load,
    Ticker,
    at_most,
    check_whole,
    interrupt,
    lost,
    no_descriptor_leaks,
    raises,
    rng,
    rover_of,
    side_by_side,
    wait_for_both,
    wait_until,
)
from memcache_pool import Memcached, SlotClient, memcache_pool
from pymemcache import MemcacheError, MemcacheUnexpectedCloseError

from gevent_rover import PoolError, SlotPool

#: What a command may raise while the server is away.
OUTAGE = (MemcacheError, OSError, PoolError)

numbers = count()


def request(cache: Memcached, pool: SlotPool[SlotClient]) -> None:
    """Have some commands answered, with data that nobody else has."""
    number = next(numbers)
    key, value = f"key-{number}", f"value-{number}".encode() * rng.choice([1, 1000])
    assert cache.set(key, value) is True
    assert cache.get(key) == value
    assert cache.get_many([key, f"no-{key}"]) == {key: value}
    assert cache.add(key, b"another") is False
    with pool.lease() as client:
        found, token = client.gets(key)
        assert found == value
        assert client.cas(key, str(number), token) is True
        assert client.cas(key, b"late", token) is False
    assert cache.incr(key, 1) == number + 1
    cache[key] = value
    assert cache[key] == value
    del cache[key]
    assert cache.get(key) is None


def many_requests(cache: Memcached, pool: SlotPool[SlotClient]) -> None:
    closed = lost(pool.stats())
    side_by_side(lambda: request(cache, pool), 15)
    assert lost(pool.stats()) == closed


def kills(cache: Memcached, pool: SlotPool[SlotClient]) -> int:
    """Interrupt requests at random moments; return how many."""

    def careless() -> None:
        with pool.lease() as client:
            done = False
            with at_most(rng.uniform(0, 0.001)):
                for _ in range(1000):
                    client.get("shared")
                done = True
            if not done:
                with raises(MemcacheUnexpectedCloseError):
                    client.get("shared")

    return interrupt(lambda: request(cache, pool), careless, 0.006)


def stop(pid: int) -> None:
    """Stop a process, all of its threads."""
    os.kill(pid, signal.SIGSTOP)
    states = [path / "stat" for path in Path(f"/proc/{pid}/task").iterdir()]
    wait_until(lambda: all(") T " in state.read_text() for state in states))


def stopped(pool: SlotPool[SlotClient], pid: int) -> int:
    """Have a server that doesn't answer for a while; return how often others ran meanwhile."""
    patient = Memcached(pool, timeout=None)
    hasty = Memcached(pool, timeout=0.05)
    lenient = Memcached(pool, timeout=0.05, ignore_exc=True)
    patient.set("here", b"yes")
    failures = pool.stats().failures
    stop(pid)
    try:
        waiting = gevent.spawn(patient.get, "here")
        with raises(TimeoutError):
            hasty.set("there", b"yes")
        assert lenient.get("here", "missed") == "missed"
        assert pool.stats().failures == failures + 2
        with Ticker() as ticker:
            waiting.join(0.3)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert waiting.get(timeout=10) == b"yes"
    return ticker.ticks


def outage(cache: Memcached, pool: SlotPool[SlotClient], pid: int) -> None:
    """See the server killed and come back."""
    back = False

    def work() -> None:
        began_when_back = back
        try:
            request(cache, pool)
        except (AssertionError, KeyError) as exc:
            # What was stored before is gone, and nothing else is ever wrong.
            if began_when_back:
                raise
            raise MemcacheError from exc

    with Load(work, OUTAGE) as load:
        load.wait_for_answers(20)
        assert not load.failed
        stop(pid)  # Or they might all be lucky, between two commands.
        wait_until(lambda: pool.leased == pool.max_slots)
        gevent.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        load.wait_for_failures(1)
        wait_until(lambda: is_up(cache))
        back = True
        load.wait_for_answers(100)


def is_up(cache: Memcached) -> bool:
    try:
        return bool(cache.version())
    except OUTAGE:
        return False


def main(pid: int, *ports: int) -> None:
    rover = rover_of(ports)
    with rover, memcache_pool(rover, max_slots=3) as pool:
        pool.wait_ready(3)
        wait_for_both(pool)
        cache = Memcached(pool, timeout=10)
        cache.set("shared", b"x" * 20_000)
        many_requests(cache, pool)

        print("kills:", kills(cache, pool))
        check_whole(pool)
        many_requests(cache, pool)

        print("ticks:", stopped(pool, pid))
        check_whole(pool)

        outage(Memcached(pool), pool, pid)
        check_whole(pool)
        many_requests(cache, pool)
        check_whole(pool)
    cache.close()
    with raises(PoolError):
        cache.get("here")
    assert Memcached(pool, ignore_exc=True).get("here") is None
    assert pool.stats().opened == sum(pool.stats().closed.values())


if __name__ == "__main__":
    with gevent.Timeout(40), no_descriptor_leaks():
        main(*map(int, sys.argv[1:]))
    print("all is well")
