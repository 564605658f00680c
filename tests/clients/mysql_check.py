"""Check the recipe mysql_pool against a real MariaDB behind two slot servers.

Usage: mysql_check.py PID FRONT_PORT …

PID is that of mariadbd, which is killed once and must be started again by somebody else.
There is a database "app" with a table "work", and a user "app" with the password "secret".
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from typing import Any

import gevent
import pymysql
from checking import (
    Load,
    Ticker,
    at_most,
    check_whole,
    interrupt,
    lost,
    no_descriptor_leaks,
    rng,
    rover_of,
    side_by_side,
    wait_for_both,
    wait_until,
)
from mysql_pool import SlotConnection, leased, mysql_pool, transaction
from pymysql.cursors import SSCursor

from gevent_rover import PoolError, SlotPool

LOGIN = {"user": "app", "password": "secret", "database": "app"}

#: What a transaction may raise while the server is away.
OUTAGE = (pymysql.MySQLError, OSError, PoolError)

numbers = count()

#: What was surely committed, and what surely wasn't.
committed: set[int] = set()
rolled_back: set[int] = set()


def ask(connection: SlotConnection, statement: str, *args: object) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, args)
        return cursor.fetchall()


def request(pool: SlotPool[SlotConnection]) -> None:
    """Have some statements answered, with data that nobody else has, in a session of one's own."""
    number = next(numbers)
    text = f"text of {number} " * rng.choice([1, 1000])
    with transaction(pool) as connection:
        clean = "SELECT @mine, @@in_transaction, @@autocommit, @@sort_buffer_size = @@global"
        clean += ".sort_buffer_size, database()"
        assert ask(connection, clean) == ((None, 0, 0, 1, "app"),)
        ask(connection, "SET @mine = %s, SESSION sort_buffer_size = 100000", number)
        ask(connection, "INSERT INTO work VALUES (%s, %s)", number, text)
        assert ask(connection, "SELECT text FROM work WHERE id = %s", number) == ((text,),)
        assert ask(connection, "SELECT @mine, %s", number) == ((number, number),)
    committed.add(number)

    another = next(numbers)
    rolled_back.add(another)
    with pool.lease() as connection:
        ask(connection, "INSERT INTO work VALUES (%s, 'not for long')", another)
        with connection.cursor(SSCursor) as cursor:
            cursor.execute("SELECT seq + %s FROM seq_1_to_50", (another,))
            assert [each for (each,) in cursor] == [another + each for each in range(1, 51)]


def check_rows(pool: SlotPool[SlotConnection]) -> None:
    with leased(pool) as connection:
        found = {id for (id,) in ask(connection, "SELECT id FROM work")}
    assert committed <= found
    assert not rolled_back & found


def many_requests(pool: SlotPool[SlotConnection]) -> None:
    closed = lost(pool.stats())
    side_by_side(lambda: request(pool), 4)
    assert lost(pool.stats()) == closed
    check_rows(pool)


def kills(pool: SlotPool[SlotConnection]) -> int:
    """Interrupt requests at random moments; return how many."""

    def careless() -> None:
        with pool.lease() as connection:
            with at_most(rng.uniform(0, 0.003)):
                for _ in range(1000):
                    ask(connection, "SELECT %s", "x" * 500_000)
            try:
                ask(connection, "SELECT 1")
            except pymysql.MySQLError:
                assert not connection.open

    return interrupt(lambda: request(pool), careless, 0.03)


def slow(pool: SlotPool[SlotConnection]) -> int:
    """Have statements answered that take a while; return how often others ran meanwhile."""

    def sleeper() -> None:
        with leased(pool) as connection:
            assert ask(connection, "SELECT SLEEP(0.3)") == ((0,),)

    with Ticker() as ticker:
        gevent.joinall([gevent.spawn(sleeper) for _ in range(3)], raise_error=True)
    return ticker.ticks


def outage(pool: SlotPool[SlotConnection], pid: int) -> None:
    """See the server killed and come back."""

    def doomed() -> None:
        with leased(pool) as connection:
            gevent.spawn_later(0.1, os.kill, pid, signal.SIGKILL)
            ask(connection, "SELECT SLEEP(20)")

    with Load(lambda: request(pool), OUTAGE) as load:
        # They may be lucky: one whose connection is being reset has another next time.
        statement = gevent.spawn(doomed)
        statement.join(timeout=10)
        assert isinstance(statement.exception, pymysql.OperationalError)
        wait_until(lambda: is_up(pool))
        load.wait_for_answers(40)


def is_up(pool: SlotPool[SlotConnection]) -> bool:
    try:
        with leased(pool, timeout=1) as connection:
            return bool(ask(connection, "SELECT 1"))
    except OUTAGE:
        return False


def main(pid: int, *ports: int) -> None:
    rover = rover_of(ports)
    with rover, mysql_pool(rover, LOGIN, max_slots=3) as pool:
        pool.wait_ready(3)
        wait_for_both(pool)
        with transaction(pool) as connection:
            ask(connection, "DELETE FROM work")
        many_requests(pool)

        print("kills:", kills(pool))
        check_whole(pool)
        many_requests(pool)

        print("ticks:", slow(pool))

        outage(pool, pid)
        check_whole(pool)
        many_requests(pool)
        check_whole(pool)
    assert pool.stats().opened == sum(pool.stats().closed.values())


if __name__ == "__main__":
    with gevent.Timeout(40), no_descriptor_leaks():
        main(*map(int, sys.argv[1:]))
    print("all is well")
