"""Balance memcached commands over servers with pymemcache: each on a connection of a SlotPool.

::

    pool = memcache_pool(rover, {"key_prefix": b"app:"}, max_slots=10)
    cache = Memcached(pool, timeout=0.5)
    cache.set("greeting", "hello")
    with pool.lease() as client:  # several commands on one connection
        value, cas = client.gets("greeting")
        client.cas("greeting", "bye", cas)

The servers must have the same data, whoever is asked: proxies such as mcrouter, say. Many
memcacheds, each with a part of the data, aren't for a balancer: it's the key that says which
one to ask then, as in pymemcache's ``HashClient``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from inspect import signature
from typing import Any

import gevent
from gevent.socket import socket as Socket
from pymemcache import (
    Client,
    MemcacheServerError,
    MemcacheUnexpectedCloseError,
    MemcacheUnknownError,
    PooledClient,
)

from gevent_rover import PoolError, Rover, Slot, SlotPool

#: What speaks against a server. ``SERVER_ERROR`` is among it, which memcached says of an
#: object that is too large, too; three in a row cost a server a tenth of a second.
FAILURES = (OSError, EOFError, gevent.Timeout, MemcacheServerError, MemcacheUnknownError)

#: pymemcache's options that mean something on a connection of a pool's.
_OPTIONS = {
    "allow_unicode_keys", "deserializer", "encoding", "key_prefix", "serde", "serializer",
}  # fmt: skip


class _NoSockets:
    """Stands where a client looks for the ``socket`` module to connect; there's no such thing."""

    def __init__(self, refusal: Exception) -> None:
        self._refusal = refusal

    def __getattr__(self, name: str) -> Any:
        raise self._refusal


class SlotClient(Client):  # type: ignore[misc]
    """A ``Client`` that never connects by itself, and waits for each answer.

    Once it has closed its connection, after any error, its commands raise
    ``MemcacheUnexpectedCloseError``; leased, it's of no more use, and the pool discards it.

    ``noreply=True`` is a ``ValueError``: the next command may go over another connection and
    come first, and an error that comes late would be taken for another command's answer.
    ``raw_command`` must be told the real end of the answer (``end_tokens``): what is left of
    it would be, too.

    :param socket: a connection; None: none.
    :param refusal: what its commands raise if it has none.
    :param options: pymemcache's.
    """

    def __init__(
        self, socket: Socket | None, refusal: Exception | None = None, **options: Any
    ) -> None:
        if refusal is None:
            refusal = MemcacheUnexpectedCloseError("the connection is closed: lease another one")
        super().__init__(
            ("the pool's", 0),  # Nobody connects to it.
            socket_module=_NoSockets(refusal),
            default_noreply=False,
            **options,
        )
        self.sock = socket

    def __setitem__(self, key: Any, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: Any) -> None:
        self.delete(key)


def _whole(command: Callable[..., Any]) -> Callable[..., Any]:
    """Have a command close its connection unless it had its whole answer.

    pymemcache does that after an ``Exception``; but a kill and a ``gevent.Timeout`` are none,
    and who catches one within a lease would give back a connection whose answer is yet to come.
    """
    names = list(signature(command).parameters)
    place = names.index("noreply") if "noreply" in names else None

    @wraps(command)
    def call(self: SlotClient, *args: Any, **kwargs: Any) -> Any:
        # The place counts self, too.
        if kwargs.get("noreply") or (place is not None and any(args[place - 1 : place])):
            raise ValueError("noreply=True: on a pool, each command must wait for its answer")
        try:
            return command(self, *args, **kwargs)
        except BaseException:
            self.close()
            raise

    return call


_NO_COMMANDS = ("check_key", "close", "disconnect_all")
for _name, _command in vars(Client).items():
    if callable(_command) and not _name.startswith("_") and _name not in _NO_COMMANDS:
        setattr(SlotClient, _name, _whole(_command))


def memcache_pool(
    rover: Rover,
    client: Mapping[str, Any] | None = None,
    *,
    credentials: tuple[str, str] | None = None,
    check_after: float = 30.0,
    **options: Any,
) -> SlotPool[SlotClient]:
    """Make a pool whose leases give a :class:`SlotClient`.

    :param client: pymemcache's ``serde``, ``key_prefix``, ``allow_unicode_keys``, ``encoding``.
        Its others are about making connections, which is the rover's business (TLS, too), or
        don't work on a pool: for ``timeout`` and ``ignore_exc`` see :class:`Memcached`.
    :param credentials: user and password, for a memcached with an ``--auth-file``. (SASL
        needs the binary protocol, which pymemcache doesn't speak.)
    :param check_after: seconds of silence after which a connection is asked for the
        server's version before it's leased.
    :param options: the pool's.
    :raises TypeError: an option that means nothing here.
    """
    given = dict(client or {})
    if unknown := given.keys() - _OPTIONS:
        raise TypeError(f"not for a client on a pool's connection: {', '.join(sorted(unknown))}")

    def setup(socket: Socket, slot: Slot) -> SlotClient:
        made = SlotClient(socket, **given)
        if credentials is not None:
            words = " ".join(credentials).encode()
            made.raw_command(b"set auth 0 0 %d\r\n%b" % (len(words), words))
        return made

    return SlotPool(
        rover,
        **{
            "setup": setup,
            "check": SlotClient.version,
            "check_after": check_after,
            "failures": FAILURES,
            **options,
        },
    )


class Memcached(PooledClient):  # type: ignore[misc]
    """Has the commands of a pymemcache client, and leases a connection for each of them.

    They raise what pymemcache's do, ``TimeoutError``, and ``PoolError`` if there is no
    connection. After an error a write may have happened or not. Nothing is retried.

    :param timeout: seconds that a command may wait for a connection, and then take. None:
        no limit.
    :param ignore_exc: whether reads (``get``, ``gets``, ``get_many``, ``gets_many``,
        ``stats``) that fail, for want of a connection, too, are misses. The pool is told
        that the server failed all the same.

    ``close()`` closes the pool.
    """

    def __init__(
        self,
        pool: SlotPool[SlotClient],
        *,
        timeout: float | None = 1.0,
        ignore_exc: bool = False,
    ) -> None:
        super().__init__(("the pool's", 0), ignore_exc=ignore_exc)
        self.client_pool = _Leases(pool, timeout, ignore_exc)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: Any) -> None:
        self.delete(key)


class _Leases:
    """What a ``PooledClient`` calls to have a client, in place of a pool of pymemcache's."""

    def __init__(self, pool: SlotPool[SlotClient], timeout: float | None, ignore_exc: bool) -> None:
        self._pool = pool
        self._timeout = timeout
        self._ignore_exc = ignore_exc

    @contextmanager
    def get_and_release(self, destroy_on_fail: bool = False) -> Iterator[SlotClient]:
        lease = self._pool.lease(self._timeout)
        with ExitStack() as stack:
            try:
                client = stack.enter_context(lease)
            except PoolError as exc:
                if not self._ignore_exc:
                    raise
                client = SlotClient(None, exc)  # Reads raise that where it's ignored.
            if client.sock is None:
                yield client
                return
            with gevent.Timeout(self._timeout, TimeoutError("memcached didn't answer in time")):
                yield client
            if client.sock is None:  # An error that was ignored.
                lease.fail()

    def destroy(self, client: SlotClient) -> None:
        """Do nothing: a client that is closed isn't kept."""

    def clear(self) -> None:
        self._pool.close()
