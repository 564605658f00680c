"""Use MariaDB or MySQL through a SlotPool, with PyMySQL: a connection for each transaction.

::

    login = {"user": "app", "password": "secret", "database": "app", "read_timeout": 5}
    pool = mysql_pool(rover, login, max_slots=10)
    with transaction(pool) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO greetings (text) VALUES (%s)", ("hello",))

The servers must be interchangeable: the nodes of a cluster, replicas that are only read, proxies.

A greenlet that is killed or times out has its connection closed, and nobody else gets what was
still under way on it. The server notices only when it answers: a statement that was running
goes on until then, and what it locked stays locked. Limit that at the server: with
``init_command="SET max_statement_time = 5"`` (seconds; MariaDB), or
``"SET max_execution_time = 5000"`` (milliseconds, SELECT only; MySQL). If it's ``commit()``
that fails, the transaction may have been committed or not.

A rover connects to find out a slot, and hangs up if its pool needs none. To MariaDB and MySQL
that is a client that didn't log in, and after ``max_connect_errors`` of these in a row (100) they
block its host. Run them with ``skip_name_resolve``, which does without that count, or raise it.

TLS by PyMySQL isn't possible: it would begin within the protocol, on a socket that the pool
watches, and ``wrap_socket`` takes the descriptor away from that. Put the server behind a slot
server that speaks TLS, and an ``ssl`` context into its registry entry: the rover's TLS begins
before the slot line. PyMySQL doesn't know of it: ``caching_sha2_password`` needs the
``cryptography`` package, as it does without TLS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pymysql
from gevent.socket import SHUT_RDWR
from gevent.socket import socket as Socket
from pymysql.connections import Connection
from pymysql.cursors import Cursor

from gevent_rover import Rover, Slot, SlotPool

# Not among PyMySQL's own.
_COM_RESET_CONNECTION = 0x1F

#: PyMySQL's options that are about making a connection, which is the rover's business; a
#: file of options may have some of them.
_REFUSED = {
    "bind_address", "connect_timeout", "defer_connect", "host", "named_pipe", "port",
    "read_default_file", "read_default_group", "unix_socket",
}  # fmt: skip


class SlotConnection(Connection):  # type: ignore[misc]
    """A ``Connection`` on a socket of a pool's, which never connects by itself.

    ``ping(reconnect=True)`` and ``connect()`` raise ``InterfaceError`` instead.

    :param slot: for error messages, which name its server.
    :param login: PyMySQL's options.
    """

    autocommit_mode: bool | None

    def __init__(self, slot: Slot, login: Mapping[str, Any]) -> None:
        # Even without any option for TLS PyMySQL would use it if the server offered it.
        super().__init__(host=slot.server_id, defer_connect=True, ssl_disabled=True, **login)
        # Its own change with what its user calls.
        self._at_first = self.charset, self.collation, self.autocommit_mode
        self._pool_socket: Socket | None = None

    def connect(self, sock: Socket | None = None) -> None:
        """Greet the server, and log in, on a socket that is given.

        :raises pymysql.InterfaceError: none is.
        """
        if sock is None:
            raise pymysql.InterfaceError(0, "the connection is closed: lease another one")
        self._pool_socket = sock
        super().connect(sock)

    def query(self, sql: str | bytes, unbuffered: bool = False) -> int:
        """Execute a statement; cursors call it.

        PyMySQL closes the connection if anything ends the reading of an answer. But if a kill
        or a ``gevent.Timeout`` ends the writing, what is written next would be taken for the
        rest of the statement.
        """
        try:
            return super().query(sql, unbuffered)  # type: ignore[no-any-return]
        except pymysql.MySQLError:
            raise
        except BaseException:
            if self.open and self._pool_socket is not None:
                with suppress(OSError):
                    self._pool_socket.shutdown(SHUT_RDWR)
            raise

    def reset(self) -> None:
        """Make a new session of the connection, as :meth:`connect` made the first one.

        What the server forgets: the transaction, variables of the session and of the user,
        temporary tables, locks (``LOCK TABLES``, ``GET_LOCK()``), prepared statements. The
        current database is the one of the login again, if that has one.
        """
        # The two private names of PyMySQL's that this module uses: it has no method for this.
        self._execute_command(_COM_RESET_CONNECTION, b"")
        self._read_ok_packet()
        charset, collation, autocommit = self._at_first
        if self.db:
            self.select_db(self.db)
        self.set_character_set(charset, collation)
        with self.cursor(Cursor) as cursor:
            if self.sql_mode is not None:
                cursor.execute("SET sql_mode=%s", (self.sql_mode,))
            if self.init_command is not None:
                cursor.execute(self.init_command)
        self.autocommit_mode = autocommit
        if autocommit is not None:
            self.autocommit(autocommit)

    def roll_back(self) -> None:
        """Roll back the transaction, and commit each statement by itself or not, as at first."""
        self.rollback()
        autocommit = self._at_first[2]
        if autocommit is not None:
            self.autocommit(autocommit)

    def is_lost(self, error: pymysql.MySQLError) -> bool:
        """Tell whether an error was the connection's: not the server's answer to a statement."""
        # 2000 to 2999 are the client library's own, of which some leave it open.
        return not self.open or (error.args[:1] or (0,))[0] in range(2000, 3000)


def mysql_pool(
    rover: Rover,
    login: Mapping[str, Any],
    *,
    whole_reset: bool = True,
    check_after: float = 30.0,
    **options: Any,
) -> SlotPool[SlotConnection]:
    """Make a pool whose leases give a :class:`SlotConnection` that is logged in.

    :param login: PyMySQL's options: ``user``, ``password``, ``database``, ``charset``,
        ``autocommit`` (off by default), ``init_command``, ``read_timeout``, ``cursorclass``
        and so on. Logging in may take the rover's ``timeout``.
    :param whole_reset: whether each lease ends with a new session
        (:meth:`SlotConnection.reset`; MySQL 5.7.3, MariaDB 10.2.4), or just with a
        ``ROLLBACK``. That is one round trip instead of four to six, and whatever else a user
        changed in the session is there in the next lease.
    :param check_after: seconds of silence after which a connection is pinged before it's
        leased.
    :param options: the pool's.
    :raises TypeError: an option that means nothing here.
    :raises ValueError: an option for TLS, which is the rover's.
    """
    given = dict(login)
    if tls := [name for name in given if name.startswith("ssl")]:
        raise ValueError(
            f"{', '.join(tls)}: PyMySQL can't begin TLS on a pool's connection; put an ssl"
            " context into the rover's entries of the servers"
        )
    if unknown := given.keys() & _REFUSED:
        raise TypeError(f"not for a pool's connection: {', '.join(sorted(unknown))}")

    def setup(socket: Socket, slot: Slot) -> SlotConnection:
        connection = SlotConnection(slot, given)
        # The server speaks first. Afterwards the socket has the read_timeout, and again after
        # each lease, since the pool gives it back the timeout that a setup leaves: PyMySQL sets
        # one only if it isn't what it set last.
        connection.connect(socket)
        return connection

    return SlotPool(
        rover,
        **{
            "setup": setup,
            "check": lambda connection: connection.ping(reconnect=False),
            "check_after": check_after,
            "reset": SlotConnection.reset if whole_reset else SlotConnection.roll_back,
            "teardown": _quit,
            **options,
        },
    )


def _quit(connection: SlotConnection) -> None:
    if connection.open:
        connection.close()


@contextmanager
def leased(pool: SlotPool[SlotConnection], timeout: float | None = 5.0) -> Iterator[SlotConnection]:
    """Lease a connection, for a ``with`` block, and keep it if the server answered an error.

    ``pool.lease()`` does without the second part: a duplicate key that is caught outside of
    its block costs the connection. And it doesn't know a lost one by PyMySQL's exceptions:
    this tells the pool that the server failed.

    What isn't committed at the end is rolled back. Nothing of the connection's, a cursor
    least of all, may be used after the block. The rows of an ``SSCursor`` that weren't read
    then are read by the reset; if that takes too long, the connection is closed.

    :param timeout: seconds to wait for a connection, as ``pool.lease()`` does.
    """
    answer = None
    lease = pool.lease(timeout)
    with lease as connection:
        try:
            yield connection
        except pymysql.MySQLError as exc:
            if connection.is_lost(exc):
                lease.fail()
                raise
            answer = exc
    if answer is not None:
        raise answer


@contextmanager
def transaction(
    pool: SlotPool[SlotConnection], timeout: float | None = 5.0
) -> Iterator[SlotConnection]:
    """Lease a connection for a ``with`` block, and commit at its end.

    After any exception the transaction is rolled back, by a command or since the connection
    is closed.

    :param timeout: seconds to wait for a connection.
    """
    with leased(pool, timeout) as connection:
        yield connection
        connection.commit()
