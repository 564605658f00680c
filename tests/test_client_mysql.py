# ruff: noqa: E402
# Imports of the client come after the call that skips the module where it isn't installed.

from __future__ import annotations

import ssl
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import gevent
import pytest
import trustme
from backends import EXAMPLES, client_library, free_port, fronts, program, run_check, running
from gevent import socket
from gevent.event import AsyncResult
from gevent.subprocess import run

client_library("pymysql")
sys.path.append(str(EXAMPLES))

import pymysql
from mysql_pool import SlotConnection, leased, mysql_pool, transaction
from pymysql.connections import Connection
from pymysql.cursors import DictCursor, SSCursor

from gevent_rover import PoolTimeout, Rover, SlotPool

pytestmark = pytest.mark.integration

LOGIN = {"user": "app", "password": "secret", "database": "app"}

# A statement in each line.
PREPARATION = """\
CREATE DATABASE app;
CREATE DATABASE other;
CREATE TABLE app.work (id INT PRIMARY KEY, text MEDIUMTEXT) ENGINE=InnoDB;
CREATE USER app@'%' IDENTIFIED BY 'secret';
GRANT ALL ON *.* TO app@'%';
"""


class MariaDB:
    """A mariadbd that offers TLS, and is started again whenever it's killed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.pid = 0
        self.started: Any = AsyncResult()
        command = [program("mariadb-install-db"), "--no-defaults", "--user=root"]
        command += [f"--datadir={directory}/data", "--skip-test-db"]
        command += ["--auth-root-authentication-method=normal"]
        done = run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        (directory / "preparation.sql").write_text(PREPARATION)
        certificate = trustme.CA().issue_cert("localhost")
        certificate.private_key_pem.write_to_path(directory / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")

    def keep_running(self) -> None:
        path = self.directory
        command = [
            program("mariadbd"), "--no-defaults", "--user=root", f"--datadir={path}/data",
            "--bind-address=127.0.0.1", "--skip-networking=0", f"--port={self.port}",
            f"--socket={path}/s", f"--pid-file={path}/pid", "--skip-log-bin",
            "--innodb-buffer-pool-size=16M", f"--ssl-cert={path}/cert.pem",
            f"--ssl-key={path}/key.pem",
        ]  # fmt: skip
        first = [f"--init-file={path}/preparation.sql"]
        while True:
            with running(*command, *first, port=self.port) as process:
                self.pid = process.pid
                self.started.set()
                process.wait()
            first = []


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """Give a MariaDB with what :data:`PREPARATION` makes."""
    server = MariaDB(tmp_path_factory.mktemp("db"))
    keeper = gevent.spawn(server.keep_running)
    keeper.link_exception(server.started)
    try:
        server.started.get(timeout=60)
        yield server
    finally:
        keeper.kill()


@contextmanager
def pool_on(
    mariadb: MariaDB, login: Mapping[str, Any] | None = None, **options: Any
) -> Iterator[SlotPool[SlotConnection]]:
    """Give a pool of a single connection."""
    with fronts(mariadb.port) as (server,):
        entries: Any = {"front": {"host": "127.0.0.1", "port": server.server_port}}
        rover = Rover(entries, roving_interval=0.1)
        with rover, mysql_pool(rover, {**LOGIN, **(login or {})}, max_slots=1, **options) as pool:
            yield pool


def ask(connection: SlotConnection, statement: str, *args: object) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, args)
        return cursor.fetchall()


def closed(pool: SlotPool[SlotConnection]) -> dict[str, int]:
    return {reason: number for reason, number in pool.stats().closed.items() if number}


@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
def test_everybody_gets_their_own_answers_whatever_happens(mariadb: MariaDB, patched: bool) -> None:
    with fronts(mariadb.port, mariadb.port) as servers:
        ports = [server.server_port for server in servers]
        said = run_check("mysql_check.py", mariadb.pid, *ports, patched=patched)
    lines = dict(line.split(": ") for line in said.splitlines() if ": " in line)
    assert int(lines["kills"]) >= 200
    assert int(lines["ticks"]) >= 20
    assert said.endswith("all is well\n")


def test_the_private_names_that_the_recipe_uses_are_still_there() -> None:
    # test_the_session_is_new_in_each_lease sees what they do.
    assert list(signature(Connection._execute_command).parameters) == ["self", "command", "sql"]
    assert list(signature(Connection._read_ok_packet).parameters) == ["self"]


DIRT = [
    "SET @a = 1",
    "SET SESSION sort_buffer_size = 100000",
    "SET sql_mode = 'ANSI'",
    "SET autocommit = 1",
    "SET NAMES latin1 COLLATE latin1_bin",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET SESSION TRANSACTION READ ONLY",
    "CREATE TEMPORARY TABLE work (id INT)",
    "PREPARE a FROM 'SELECT 1'",
    "DO GET_LOCK('a', 1)",
    "LOCK TABLES work READ",
    "USE other",
]

STATE = """
SELECT @a, @@sort_buffer_size, @@sql_mode, @@autocommit, @@character_set_client,
@@character_set_results, @@collation_connection, @@tx_isolation, @@tx_read_only, database(),
IS_USED_LOCK('a'), (SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'work')
"""


@pytest.mark.parametrize("dirt", DIRT)
@pytest.mark.parametrize(
    "login",
    [{}, {"charset": "latin1", "collation": "latin1_german2_ci", "autocommit": True},
     {"sql_mode": "NO_BACKSLASH_ESCAPES", "init_command": "SET @a = 'first'", "autocommit": None}],
    ids=["plain", "with charset", "with commands"],
)  # fmt: skip
def test_the_session_is_new_in_each_lease(
    mariadb: MariaDB, login: dict[str, Any], dirt: str
) -> None:
    with pool_on(mariadb, login) as pool:
        with pool.lease() as connection:
            before = ask(connection, STATE)
            ask(connection, dirt)
        with pool.lease() as again:
            assert again is connection
            assert ask(again, STATE) == before
            assert ask(again, "SELECT 'ö'") == (("ö",),)
            with pytest.raises(pymysql.MySQLError, match="Unknown prepared"):
                ask(again, "EXECUTE a")
        assert closed(pool) == {}


def test_what_users_change_by_methods_is_as_it_was_too(mariadb: MariaDB) -> None:
    with pool_on(mariadb) as pool:
        with pool.lease() as connection:
            connection.autocommit(True)
            connection.set_character_set("latin1")
            connection.select_db("other")
        with pool.lease() as connection:
            assert ask(connection, "SELECT @@autocommit, database(), 'ö'") == ((0, "app", "ö"),)
            assert connection.encoding == "utf8"


@pytest.mark.parametrize("whole_reset", [True, False])
def test_what_is_not_committed_is_rolled_back(mariadb: MariaDB, whole_reset: bool) -> None:
    with pool_on(mariadb, whole_reset=whole_reset) as pool:
        with transaction(pool) as connection:
            ask(connection, "REPLACE INTO work VALUES (-1, 'committed')")
        with pool.lease() as connection:
            ask(connection, "INSERT INTO work VALUES (-2, 'not committed')")
            connection.autocommit_mode = None
        with pool.lease() as connection:
            assert ask(connection, "SELECT id, @@autocommit FROM work WHERE id < 0") == ((-1, 0),)
        assert closed(pool) == {}


def test_an_error_that_the_server_answers_costs_no_connection(mariadb: MariaDB) -> None:
    with pool_on(mariadb) as pool:
        duplicate = pytest.raises(pymysql.IntegrityError, match="Duplicate")
        with duplicate, transaction(pool) as connection:
            ask(connection, "INSERT INTO work VALUES (-3, '')")
            ask(connection, "INSERT INTO work VALUES (-3, '')")
        with transaction(pool) as again:
            assert again is connection
            assert ask(again, "SELECT * FROM work WHERE id = -3") == ()
        with pytest.raises(ZeroDivisionError), transaction(pool) as connection:
            ask(connection, "INSERT INTO work VALUES (-3, '')")
            raise ZeroDivisionError
        with pool.lease() as connection:
            assert ask(connection, "SELECT * FROM work WHERE id = -3") == ()
        assert closed(pool) == {"discarded": 1}


def test_a_connection_never_connects_by_itself(mariadb: MariaDB) -> None:
    with pool_on(mariadb) as pool, pool.lease() as connection:
        # Where it would be easy.
        connection.host, connection.port = "127.0.0.1", mariadb.port
        connection.close()
        with pytest.raises(pymysql.InterfaceError, match="lease another one"):
            connection.connect()
        with pytest.raises(pymysql.InterfaceError):
            ask(connection, "SELECT 1")
        with warnings.catch_warnings(), pytest.raises(pymysql.InterfaceError):
            warnings.simplefilter("ignore")  # Newer versions say that it's deprecated.
            connection.ping(reconnect=True)
        assert not connection.open


@pytest.mark.parametrize("write_timeout", [None, 0.2, 5.0])
def test_read_timeout_holds_in_each_lease(mariadb: MariaDB, write_timeout: float | None) -> None:
    login = {"read_timeout": 0.2, "write_timeout": write_timeout}
    with pool_on(mariadb, login) as pool:
        for number in range(3):
            with leased(pool) as connection:
                ask(connection, "SELECT 1")
            late = pytest.raises(pymysql.OperationalError, match="timed out")
            with late, leased(pool) as connection, gevent.Timeout(5):
                ask(connection, "SELECT SLEEP(10)")
            assert pool.stats().failures == number + 1
        assert closed(pool) == {"failed": 3}


@pytest.mark.parametrize("what", ["QUERY", "CONNECTION"])
def test_a_killed_query_is_an_error(mariadb: MariaDB, what: str) -> None:
    with pool_on(mariadb) as pool, pool_on(mariadb) as others:

        def sleeper() -> None:
            with leased(pool) as connection:
                started.set(connection.thread_id())
                ask(connection, "SELECT id, SLEEP(10) FROM work FOR UPDATE")

        started: Any = AsyncResult()
        with transaction(others) as connection:
            ask(connection, "REPLACE INTO work VALUES (-4, '')")
        sleeping = gevent.spawn(sleeper)
        with leased(others) as connection:
            id = started.get(timeout=5)
            state = "SELECT state FROM information_schema.processlist WHERE id = %s"
            with gevent.Timeout(5):
                while ask(connection, state, id) != (("User sleep",),):
                    gevent.sleep(0.01)
            ask(connection, f"KILL {what} {id}")
        with pytest.raises(pymysql.MySQLError):
            sleeping.get(timeout=5)
        with leased(pool) as connection:
            assert ask(connection, "SELECT 1") == ((1,),)
            assert (connection.thread_id() == id) == (what == "QUERY")


def test_a_write_that_is_interrupted_ends_the_connection(mariadb: MariaDB) -> None:
    with pool_on(mariadb, check_after=100) as pool, pool.lease() as connection:
        near, far = socket.socketpair()  # Whose other end reads nothing.
        connection._sock = connection._pool_socket = near
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
            ask(connection, "SELECT %s", "x" * 10_000_000)
        with pytest.raises(pymysql.OperationalError, match="gone away"):
            ask(connection, "SELECT 1")
        near.close()
        far.close()
        with pytest.raises(pymysql.InterfaceError):
            ask(connection, "SELECT 1")


def test_rows_that_were_not_read_never_reach_another(mariadb: MariaDB) -> None:
    with pool_on(mariadb) as pool:
        with pool.lease() as connection:
            cursor = connection.cursor(SSCursor)
            cursor.execute("SELECT seq FROM seq_1_to_100000")
            assert cursor.fetchone() == (1,)
        # Warnings are errors here, so the reset fails; else it would read the rows.
        with pool.lease() as another:
            assert another is not connection
            assert ask(another, "SELECT 'mine'") == (("mine",),)
        assert closed(pool) == {"reset": 1}
        cursor._result.unbuffered_active = False  # Else it's read at its end, from nowhere.


@pytest.mark.parametrize(("check_after", "pings"), [(0.0, "1"), (100.0, "0")])
def test_a_connection_that_was_silent_is_pinged(
    mariadb: MariaDB, check_after: float, pings: str
) -> None:
    with pool_on(mariadb, {"cursorclass": DictCursor}, check_after=check_after) as pool:
        for _ in range(2):
            with pool.lease() as connection:  # Whose session counts from 0.
                (status,) = ask(connection, "SHOW STATUS LIKE 'Com_admin_commands'")
                assert status["Value"] == pings


def test_a_wrong_password_is_said(mariadb: MariaDB) -> None:
    denied = pytest.raises(PoolTimeout, match="Access denied for user 'app'")
    with pool_on(mariadb, {"password": "wrong"}) as pool, denied:
        pool.acquire(timeout=1)


def test_options_that_mean_nothing_are_refused() -> None:
    for name in ("host", "port", "unix_socket", "connect_timeout", "read_default_file"):
        with pytest.raises(TypeError, match=name):
            mysql_pool(Rover(), {name: "1"})
    for name in ("ssl", "ssl_ca", "ssl_verify_identity", "ssl_disabled"):
        with pytest.raises(ValueError, match=f"{name}: PyMySQL can't begin TLS"):
            mysql_pool(Rover(), {name: True})


def test_tls_by_pymysql_takes_the_descriptor_away(mariadb: MariaDB) -> None:
    # This is why the recipe refuses it, and disables it: newer versions take it where it's
    # offered, even without a context.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sock = socket.create_connection(("127.0.0.1", mariadb.port))
    connection = pymysql.connect(**LOGIN, ssl=context, defer_connect=True)
    connection.connect(sock)
    assert connection._sock is not sock
    assert sock.fileno() == -1
    connection.close()


def test_a_server_that_offers_tls_is_talked_to_without(mariadb: MariaDB) -> None:
    with pool_on(mariadb) as pool, pool.lease() as connection:
        assert ask(connection, "SHOW VARIABLES LIKE 'have_ssl'") == (("have_ssl", "YES"),)
        assert ask(connection, "SHOW STATUS LIKE 'Ssl_cipher'") == (("Ssl_cipher", ""),)
