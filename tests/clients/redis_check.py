"""Checks the pool for redis-py against a server behind slot servers, and kills that server.

Usage: redis_check.py PROTOCOL PID COMMAND FRONT_PORT …
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections import Counter
from typing import Any

import gevent
import gevent.monkey
import redis
from checking import (
    GREENLETS,
    SLOTS,
    Load,
    Ticker,
    at_most,
    check_whole,
    no_descriptor_leaks,
    raises,
    rng,
    rover_of,
    side_by_side,
    wait_for_both,
    wait_until,
)
from gevent.subprocess import DEVNULL, Popen
from redis_pool import FAILURES, RedisPool

# What an error of a request looks like when its server dies or its connection is lost.
LOST = redis.ConnectionError, redis.TimeoutError, redis.WatchError


class Checks:
    def __init__(self, protocol: int, ports: list[str]) -> None:
        self.rover = rover_of(map(int, ports))
        self.pool = RedisPool(
            self.rover,
            password="s3cret",
            db=2,
            client_name="pooled",
            protocol=protocol,
            slots={"max_slots": SLOTS},
            failures=(*FAILURES, redis.exceptions.NoScriptError),
            check_after=0.2,
            socket_timeout=1.5,
        )
        self.client: Any = redis.Redis(connection_pool=self.pool)
        self.kept: dict[str, bytes] = {}  # what the server said that it keeps
        self.number = 0
        self.server: Any = None  # the one that was started again

    def whole(self) -> None:
        """Wait until the pool is whole, and see that its counts agree and its state is clean."""
        check_whole(self.pool.slots)
        # The server sees these connections, and nobody left a state behind.
        wait_until(lambda: self.are_clean(self.client.client_list()))

    def are_clean(self, connections: list[dict[str, str]]) -> bool:
        """Tell whether these are ours, each as it was set up; but for the rover's latest try."""
        ours = [one for one in connections if one["name"] == "pooled"]
        return len(ours) == SLOTS and all(
            (one["db"], one["sub"], one["psub"], one["multi"]) == ("2", "0", "0", "-1")
            and one["flags"] == "N"
            for one in ours
        )

    def request(self, seconds: float = 0.0) -> None:
        """Make a request of some kind, with data of its own, and see that the answer is its own."""
        client = self.client
        self.number += 1
        mine = f"{self.number}-{rng.random()}"
        text = mine.encode() * rng.choice((1, 1, 10, 500, 20_000))
        kind = rng.randrange(8)
        if kind == 0:
            assert client.echo(text) == text
        elif kind == 1:
            assert client.set(mine, text) is True
            self.kept[mine] = text
            assert client.get(mine) == text
        elif kind == 2:
            with raises(redis.ResponseError, mine):
                client.execute_command("NO-SUCH", mine)
        elif kind == 3:
            parts = [f"{mine}-{n}" for n in range(rng.choice((1, 5, 200)))]
            with client.pipeline(transaction=rng.random() < 0.5) as pipe:
                for part in parts:
                    pipe.echo(part + "x" * 100)
                assert pipe.execute() == [part.encode() + b"x" * 100 for part in parts]
        elif kind == 4:
            with client.pipeline() as pipe:
                pipe.watch(mine)
                assert pipe.get(mine) is None
                gevent.sleep(seconds)
                pipe.multi()
                pipe.set(mine, text)
                pipe.echo(mine)
                assert pipe.execute() == [True, mine.encode()]
            self.kept[mine] = text
        elif kind == 5:
            with client.pipeline() as pipe:
                pipe.watch(mine)
                assert pipe.exists(mine) == 0  # and leave: UNWATCH
        elif kind == 6:
            with raises(redis.ResponseError, "WRONGTYPE"), client.pipeline(False) as pipe:
                pipe.echo(mine).lpush(mine, 1).get(mine).echo(mine).execute()
        elif seconds and rng.random() < 0.5:
            assert client.blpop([mine], timeout=0.02) is None
        else:
            with client.pubsub() as pubsub:
                pubsub.subscribe(mine)
                assert pubsub.get_message(timeout=5)["type"] == "subscribe"
                pubsub.unsubscribe()

    def answers(self) -> None:
        wait_for_both(self.pool.slots)
        side_by_side(self.request, 15)
        self.whole()
        stats = self.pool.slots.stats()
        assert all(server.leases for server in stats.servers.values()), stats
        # Only what subscribed was closed.
        assert {why for why, count in stats.closed.items() if count} <= {"discarded", "replaced"}

    def one_by_one(self) -> None:
        """See commands go to both servers, each with a lease of its own, and cost no connection."""
        slots = self.pool.slots
        # A server whose slots are higher gives way.
        wait_until(lambda: all(server.idle for server in slots.stats().servers.values()))
        before = slots.stats()

        def have_both_been_used() -> bool:
            already = slots.stats().leases
            for n in range(40):
                assert self.client.echo(str(n)) == str(n).encode()
            now = slots.stats()
            assert now.leases == already + 40, now
            pairs = [(server, before.servers[id]) for id, server in now.servers.items()]
            return all(server.leases >= then.leases + 10 for server, then in pairs)

        # One that seems slow after all that is tried again now and then.
        wait_until(have_both_been_used)
        after = slots.stats()
        assert after.closed["discarded"] == before.closed["discarded"], after
        assert after.closed["failed"] == before.closed["failed"], after

    def kills(self, count: int = 300) -> None:
        """Kills and timeouts at any moment cost their own requests, and no others."""
        outcomes: Counter[str] = Counter()

        def hurried() -> None:
            while outcomes["late"] < count:
                outcome = "late"
                with at_most(rng.uniform(0.0001, 0.01)):
                    self.request(0.003)
                    outcome = "answered"
                outcomes[outcome] += 1

        def victim() -> None:
            while True:
                self.request(0.003)
                outcomes["answered"] += 1

        def patient() -> None:
            while outcomes["killed"] < count:
                self.request()
                outcomes["answered"] += 1

        def kill() -> None:
            while outcomes["killed"] < count:
                gevent.sleep(rng.uniform(0, 0.004))
                one = victims.pop(rng.randrange(len(victims)))
                one.kill()
                assert one.successful(), one.exception
                victims.append(gevent.spawn(victim))
                outcomes["killed"] += 1

        victims = [gevent.spawn(victim) for _ in range(GREENLETS // 3)]
        others = [gevent.spawn(hurried) for _ in range(GREENLETS // 3)]
        others += [gevent.spawn(patient) for _ in range(GREENLETS // 3)]
        killers = [gevent.spawn(kill) for _ in range(2)]
        gevent.joinall([*killers, *others], raise_error=True)
        gevent.killall(victims)
        assert outcomes["answered"] > 100, outcomes
        self.whole()

    def special(self) -> None:
        """Pub/sub, monitors, and what is refused."""
        client, slots = self.client, self.pool.slots
        with client.pubsub() as pubsub:
            pubsub.subscribe("news")
            pubsub.psubscribe("new?")
            kinds = [pubsub.get_message(timeout=5)["type"] for _ in range(2)]
            assert kinds == ["subscribe", "psubscribe"]
            later = gevent.spawn_later(0.05, client.publish, "news", "text")
            messages = [pubsub.get_message(timeout=5), pubsub.get_message(timeout=None)]
            assert [each["data"] for each in messages] == [b"text", b"text"]
            assert later.get() == 2
            assert slots.leased == 1
            # Its connection is lost: that is an error, and its lease has ended.
            (one,) = [each for each in client.client_list() if each["sub"] == "1"]
            client.client_kill_filter(_id=one["id"])
            for _ in range(2):
                with raises(redis.ConnectionError):
                    pubsub.get_message(timeout=5)
            assert slots.leased == 0, slots
        with client.monitor() as monitor:
            client.echo("watched")
            commands = (each["command"] for each in monitor.listen())
            assert any("watched" in command for command in commands)
        for refused in (("SELECT", 3), ("CLIENT SETNAME", "x"), ("client", "tracking", "on")):
            for run in (client.execute_command, client.pipeline().execute_command):
                with raises(redis.RedisError, "others use next"):
                    run(*refused).execute()
        # Two greenlets on one connection get errors, and never each other's answers.
        alone: Any = redis.Redis(connection_pool=self.pool, single_connection_client=True)
        outcomes: Counter[str] = Counter()

        def share(n: int) -> None:
            try:
                assert alone.blpop([f"none{n}"], 0.05) is None
                outcomes["answered"] += 1
            except redis.RedisError as exc:
                assert "another greenlet" in str(exc)  # noqa: PT017
                outcomes["refused"] += 1

        gevent.joinall([gevent.spawn(share, n) for n in range(5)], raise_error=True)
        assert outcomes["answered"] + outcomes["refused"] == 5, outcomes
        # In a patched process the lock of newer versions has them take turns.
        patched = gevent.monkey.is_module_patched("threading")
        assert outcomes["answered"] in ((1, 5) if patched else (1,)), outcomes
        alone.close()
        # Answers that weren't read go with their connection.
        broken: Any = redis.Redis(connection_pool=self.pool)
        broken.set_response_callback("ECHO", lambda answer: 1 // 0)
        for _ in range(10):
            with raises(ZeroDivisionError):
                broken.pipeline(transaction=False).echo("1").echo("2").echo("3").execute()
            assert client.echo("mine") == b"mine"
            with raises(ZeroDivisionError), broken.pipeline(transaction=False) as pipe:
                pipe.watch("key")
                pipe.multi()
                pipe.echo("1").echo("2").execute()
            assert slots.leased == 0, slots
        # An error answer that speaks against the server costs no connection.
        before = slots.stats()
        with raises(redis.exceptions.NoScriptError):
            client.evalsha("0" * 40, 0)
        after = slots.stats()
        assert after.failures == before.failures + 1, after
        assert after.closed["failed"] == before.closed["failed"], after
        # A server that doesn't answer in time.
        before = slots.stats()
        with raises(redis.TimeoutError):
            client.blpop(["never"], timeout=60)
        assert slots.stats().closed["failed"] == before.closed["failed"] + 1
        self.whole()

    def hub(self) -> None:
        """While requests wait, the hub runs."""
        with Ticker() as ticker:
            began = time.monotonic()
            waiting = [gevent.spawn(self.client.blpop, [f"none{n}"], 0.6) for n in range(SLOTS)]
            assert [each.get() for each in waiting] == [None] * SLOTS
            assert time.monotonic() - began >= 0.6
        # One that blocks would leave a gap of all that time.
        assert ticker.ticks > 20 and ticker.longest < 0.4, (ticker.ticks, ticker.longest)
        self.whole()

    def restart(self, pid: int, command: list[str]) -> None:
        """See the server die and come back: errors meanwhile, and nothing that it kept is lost."""
        with Load(self.request, LOST) as load:
            load.wait_for_answers(100)
            assert not load.failed
            os.kill(pid, signal.SIGKILL)
            load.wait_for_failures(1)
            self.server = Popen(command, stdout=DEVNULL, stderr=DEVNULL)
            load.wait_for_answers(100)
        self.whole()
        with self.client.pipeline(transaction=False) as pipe:
            for key in self.kept:
                pipe.get(key)
            assert pipe.execute() == list(self.kept.values())
        self.kept.clear()
        side_by_side(self.request, 5)
        self.whole()

    def stop(self) -> None:
        """End the server, if it was started again here."""
        if self.server is not None:
            self.server.kill()
            self.server.wait()


def main() -> None:
    protocol, pid, command, *ports = sys.argv[1:]
    checks = Checks(int(protocol), ports)
    pool = checks.pool
    with checks.rover, pool:
        checks.whole()
        checks.answers()
        try:
            with no_descriptor_leaks():
                checks.one_by_one()
                checks.kills()
                pool.slots.wait_ready()
                checks.hub()
                checks.special()
                checks.restart(int(pid), json.loads(command))
                gc.collect()
        finally:
            checks.stop()
        wait_until(lambda: pool.slots.idle == 0)
    with raises(redis.ConnectionError, "PoolClosed"):
        checks.client.ping()
    stats = pool.slots.stats()
    assert stats.opened == sum(stats.closed.values()), stats
    print(f"redis-py {redis.__version__} RESP{protocol}: all is well")


if __name__ == "__main__":
    with gevent.Timeout(45):
        main()
