"""``redis.Redis`` (redis-py, 5.0 or newer) over the connections of a slot pool.

::

    rover = Rover(dict(map(parse_server, ["a=10.0.0.1:7000", "b=10.0.0.2:7000"])))
    pool = RedisPool(rover, password="…", db=1, slots={"max_slots": 20})
    client = redis.Redis(connection_pool=pool)
    with rover, pool:
        client.set("colour", "blue")

Each command leases a connection for as long as it takes, so commands are balanced one by
one. A pipeline, a transaction and a ``with`` block that watches keys hold one connection all
through; so do a ``PubSub``, a ``Monitor`` and a blocking command, each for as long as it lasts,
which takes a slot away and makes the server look slow: give these a pool of their own. Use
``with`` for whatever holds one.

The servers must be equal to each other, as proxies or replicas are: any command may go to any.
"""

# mypy: disable-error-code="no-untyped-call"
# Most of redis-py's methods have no annotations.

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import gevent
import redis
from gevent import select
from gevent import socket as gevent_socket
from redis.utils import HIREDIS_AVAILABLE

from gevent_rover import PoolError, Rover, Slot, SlotPool

#: What speaks against a server. Add error answers that do so, too, as ``ReadOnlyError``.
FAILURES: Final = (
    redis.ConnectionError,
    redis.TimeoutError,
    OSError,
    EOFError,
    gevent.Timeout,
)

# Options of redis-py's connections that mean something here. Those that are missing would
# reconnect, retry, or connect elsewhere (TLS is the rover's), or cache what other servers hold.
_OPTIONS: Final = {
    *("username", "password", "credential_provider", "db", "client_name", "driver_info"),
    *("protocol", "legacy_responses", "parser_class", "socket_read_size", "socket_timeout"),
    *("encoding", "encoding_errors", "decode_responses"),
}

# After these a connection says what it likes, when it likes: it isn't used again.
_STREAMING: Final = frozenset({"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR"})

# These would change the connection for whoever leases it next, or end it.
_REFUSED: Final = frozenset(
    {
        *("AUTH", "HELLO", "SELECT", "RESET", "QUIT", "MULTI", "CLIENT REPLY", "CLIENT SETNAME"),
        *("CLIENT SETINFO", "CLIENT TRACKING", "CLIENT NO-EVICT", "CLIENT NO-TOUCH"),
    }
)


class SlotConnection(redis.Connection):
    """A connection of redis-py's on a socket of the pool's. It connects once, and never again."""

    def __init__(self, socket: gevent_socket.socket, slot: Slot, **options: Any) -> None:
        server: Any = slot.server
        self.socket = socket
        self._state = "new"  # then "ready", and at last "ended"
        self._owed = 0  # answers that are under way
        self._packed = 1  # commands in the next write
        self._streams = False
        self._sender: object = None  # the greenlet that sent the latest command
        # The pool that has leased it to somebody right now, and whether its server failed.
        self._leased_from: RedisPool | None = None
        self._failed = False
        # Where it leads is for error messages only.
        host, port = server.get("host") or server.get("path"), server.get("port", 0)
        super().__init__(host=host, port=port, **options)

    def _connect(self) -> gevent_socket.socket:
        # The one private name of redis-py's: how its own kinds of connections (TCP, TLS, Unix)
        # differ. All else (AUTH, SELECT …) follows in the public connect(), which redis-py also
        # calls wherever it would connect again.
        if self._state != "new":
            raise redis.ConnectionError(
                "the connection was lost, and a pooled one never connects again"
            )
        self._state = "ready"
        self.socket.settimeout(self.socket_timeout)
        return self.socket

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Close the connection; a lease of it ends with it."""
        self._state = "ended"
        self._note(sys.exc_info()[1])  # redis-py calls this while it handles what went wrong.
        self.end_lease(keep=False)
        super().disconnect(*args, **kwargs)

    # Leases

    def begin_lease(self, pool: RedisPool) -> None:
        self._leased_from, self._failed = pool, False

    def end_lease(self, *, keep: bool) -> None:
        """Give the connection back to its pool, or have it closed, unless that was done."""
        pool, self._leased_from, self._sender = self._leased_from, None, None
        if pool is not None:
            (pool.slots.release if keep else pool.slots.discard)(self, failed=self._failed)

    def is_clean(self) -> bool:
        """Tell whether every command was answered, and nothing more has arrived."""
        if self._state != "ready" or self._owed or self._streams:
            return False
        try:
            # What the parser has read too much isn't in the kernel, where the slot pool looks.
            return not self.can_read(0)
        except (redis.RedisError, OSError):
            return False

    def _note(self, failure: BaseException | None) -> None:
        if self._leased_from is not None and isinstance(failure, self._leased_from.failures):
            self._failed = True

    # What redis-py calls for each command

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self._admit(args, _REFUSED)
        super().send_command(*args, **kwargs)

    def pack_commands(self, commands: Iterable[Any]) -> Any:
        commands = list(commands)
        for command in commands:
            self._admit(command, _REFUSED - {"MULTI"})  # An EXEC is in the same write.
        packed = super().pack_commands(commands)
        self._packed = len(commands)
        return packed

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._owed and self._state == "ready" and not self._streams:
            # Two would get each other's answers. Redis(single_connection_client=True) and a
            # Pipeline keep their connection, and a lock of threads doesn't part greenlets.
            if self._sender is not gevent.getcurrent():
                raise redis.RedisError("another greenlet waits for an answer on this connection")
            # After this redis-py disconnects.
            raise redis.ConnectionError("the answers to earlier commands weren't read")
        self._sender = gevent.getcurrent()
        self._owed += self._packed
        self._packed = 1
        super().send_packed_command(command, check_health)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            response = super().read_response(*args, **kwargs)
        except redis.ResponseError as exc:  # An answer, too.
            self._owed -= 1
            self._note(exc)
            raise
        self._owed -= 1
        return response

    def can_read(self, timeout: float | None = 0) -> bool:
        # The parser of hiredis waits in a poll() that blocks the hub unless it's patched.
        if HIREDIS_AVAILABLE and timeout != 0 and not super().can_read(0):
            select.select([self.socket], [], [], timeout)
            timeout = 0
        return bool(super().can_read(timeout))  # type: ignore[arg-type]

    def _admit(self, command: tuple[Any, ...], refused: frozenset[str]) -> None:
        """Refuse a command that changes the connection for whoever leases it next."""
        if self._leased_from is None:  # Its own, as it's set up.
            return
        name = _word(command[0])
        if name == "CLIENT" and len(command) > 1:
            name += " " + _word(command[1])
        if name in refused:
            raise redis.RedisError(f"{name} would change a connection that others use next")
        self._streams = self._streams or name in _STREAMING


class RedisPool(redis.ConnectionPool):
    """What ``redis.Redis(connection_pool=…)`` takes; it has a :class:`SlotPool`, ``slots``.

    :param rover: where the connections come from.
    :param timeout: seconds that a command waits for a connection; None: for ever.
    :param failures: the exceptions that speak against a server. An error answer among them
        does so, though its connection is fine.
    :param check_after: seconds of idleness after which a connection is sent a PING first.
    :param socket_timeout: seconds to wait for each answer; None: for ever.
    :param slots: further options of the :class:`SlotPool`, as ``max_slots``.
    :param options: those of redis-py's connections (``password``, ``db``, ``protocol``,
        ``decode_responses`` …), but for those that would connect by themselves.
    :raises TypeError: an option that means nothing here.

    A command that has no connection in time raises ``redis.ConnectionError``, as
    redis-py's own blocking pool does; its message says why there was none, a wrong password
    among other things. Nothing is retried: a ``ConnectionError`` or ``TimeoutError`` of a
    command leaves open whether the server has run it. After any such error, a kill or a
    ``gevent.Timeout``, the connection is closed.

    A ``PubSub`` whose connection is lost raises ``ConnectionError`` instead of subscribing
    again: make a new one. Not supported: clusters, Sentinel, client-side caching, and a
    credential provider that renews tokens on connections in use (for tokens that expire
    ``slots={"max_lifetime": …}`` renews the connections). Not detected: a WATCH, or other
    state of a connection, that is left by ``execute_command`` or a Lua debugger.

    It belongs to one thread. In a process that isn't patched, what redis-py itself does with
    threads and ``time.sleep`` blocks the hub: ``PubSub.run_in_thread``, a ``Lock`` that waits,
    and the ``watch_delay`` of ``Redis.transaction``.
    """

    def __init__(
        self,
        rover: Rover,
        *,
        timeout: float | None = 5.0,
        failures: tuple[type[BaseException], ...] = FAILURES,
        check_after: float = 30.0,
        socket_timeout: float | None = 5.0,
        slots: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if unknown := sorted(options.keys() - _OPTIONS):
            raise TypeError(f"no options of a RedisPool: {', '.join(unknown)}")
        super().__init__(SlotConnection, socket_timeout=socket_timeout, **options)
        self.timeout = timeout
        self.failures = failures
        # The rest of what it has now is for maintenance notices, which move connections.
        kept = _OPTIONS | {"himport_registry"}
        own = {name: value for name, value in self.connection_kwargs.items() if name in kept}

        def set_up(socket: gevent_socket.socket, slot: Slot) -> SlotConnection:
            connection = SlotConnection(socket, slot, **own)
            connection.connect()
            return connection

        #: For ``stats()``, ``wait_ready()``, ``max_slots`` and so on.
        self.slots: SlotPool[SlotConnection] = SlotPool(
            rover,
            setup=set_up,
            check=ping,
            check_after=check_after,
            failures=failures,
            **(slots or {}),
        )

    def get_connection(self, *args: Any, **options: Any) -> SlotConnection:
        """Lease a connection, which is connected.

        :raises redis.ConnectionError: there was none in time, or the pool is closed.
        """
        try:
            connection = self.slots.acquire(self.timeout)
        except PoolError as exc:
            raise redis.ConnectionError(f"{type(exc).__name__}: {exc}") from exc
        connection.begin_lease(self)
        return connection

    def release(self, connection: Any) -> None:
        """Give a connection back. Nothing happens if it ended, and its lease with it."""
        keep = False
        try:
            keep = connection.is_clean()
        finally:  # Looking may switch, in a patched process with hiredis.
            connection.end_lease(keep=keep)

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the pool for good: idle connections now, leased ones when they come back."""
        self.slots.close()

    def close(self) -> None:
        self.disconnect()

    def __enter__(self) -> RedisPool:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def set_retry(self, retry: Any) -> None:
        raise redis.RedisError("a retry would connect again by itself: retry around the command")

    def re_auth_callback(self, token: Any) -> None:
        raise redis.RedisError(
            "connections can't be authenticated again: set slots={'max_lifetime': …}"
        )


def ping(connection: redis.Connection) -> bool:
    """Tell whether the server answers a PING."""
    connection.send_command("PING")
    return connection.read_response() in (b"PONG", "PONG")


def _word(word: Any) -> str:
    return (word.decode(errors="replace") if isinstance(word, bytes) else str(word)).upper()
