"""``SlotPool``: keeps the connections with the lowest slots, and leases the lowest idle one."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from gevent import socket as gevent_socket
from gevent.event import AsyncResult

from gevent_rover.errors import PoolClosed, PoolError, PoolTimeout
from gevent_rover.forks import Forkable, check_fork, unforked
from gevent_rover.lease import Lease
from gevent_rover.pooled import Pooled
from gevent_rover.ranking import Ranking
from gevent_rover.rover import Rover
from gevent_rover.signals import Slot, connection

_log: Final = logging.getLogger("gevent_rover.pool")
_log.addHandler(logging.NullHandler())


class SlotPool(Forkable):
    """Keeps up to ``max_slots`` connections, those with the lowest slots, and leases them.

    Below ``max_slots`` every connection that is offered is kept. A full pool
    takes one only for a strictly higher slot, which is closed, or, while it is
    leased, *retired*: closed when it comes back. Idle connections are watched:
    one on which anything arrives (the end, a reset, bytes that nobody asked
    for) is closed and forgotten at once.

    :param rover: where the connections come from. The pool receives its
        ``connection`` signals, sets its ``wanted``, and lets go of connections
        whose server leaves the rover's registry or changes in it. The rover
        keeps no pool alive. Default: none; feed the pool with :meth:`offer`.
    :param max_slots: how many connections to keep, leased ones included.
    :raises PoolError: the rover has a pool already, or a ``wanted`` of its own.
    :raises ValueError: ``max_slots`` isn't an int of at least 1.

    A pool belongs to one thread (hub). The counts are exact whenever another
    greenlet can look: no method switches between choosing and marking.

    A pool doesn't cross a fork: in the child it is empty, and holds no socket
    and no waiter. In the parent nothing changes.
    """

    def __init__(self, rover: Rover | None = None, *, max_slots: int = 100) -> None:
        if type(max_slots) is not int or max_slots < 1:
            raise ValueError(f"max_slots must be an int of at least 1, got {max_slots!r}")
        self.max_slots = max_slots
        self._rover = rover
        self._closed = False
        self._ranking: Ranking[Pooled] = Ranking(max_slots)
        self._by_socket: dict[gevent_socket.socket, Pooled] = {}  # retired ones, too
        self._waiters: deque[AsyncResult[Pooled]] = deque()
        self._wanted = _weak_caller(self, SlotPool._get_wanted, 0)
        self._readable = _weak_caller(self, SlotPool._on_readable, None)
        if rover is not None:
            if rover.wanted is not None:
                raise PoolError(f"{rover!r} has a pool (or a `wanted` of its own) already")
            rover.wanted = self._wanted
            rover._on_tick = _weak_caller(self, SlotPool._sweep, None)
            connection.connect(self._receive, sender=rover)  # weakly
            rover._nudge()
        super().__init__()
        weakref.finalize(self, _forget, self._by_socket, rover, self._wanted).atexit = False

    def __repr__(self) -> str:
        closed = "closed " if self._closed else ""
        return (
            f"<SlotPool {closed}size={self.size}/{self.max_slots} idle={self.idle}"
            f" leased={self.leased} retired={self.retired} waiting={self.waiting}>"
        )

    def __enter__(self) -> SlotPool:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    # The state

    @property
    def size(self) -> int:
        """How many connections the pool keeps: the idle and the leased ones."""
        return len(self._ranking)

    @property
    def idle(self) -> int:
        """How many connections can be leased right now."""
        return self._ranking.idle

    @property
    def leased(self) -> int:
        """How many connections are leased and come back into the pool."""
        return len(self._ranking) - self._ranking.idle

    @property
    def retired(self) -> int:
        """How many connections are leased and will be closed when they come back."""
        return len(self._by_socket) - len(self._ranking)

    @property
    def waiting(self) -> int:
        """How many greenlets wait for a connection."""
        return len(self._waiters)

    @property
    def deficit(self) -> int:
        """How many connections are missing: ``max_slots - size``."""
        return self.max_slots - len(self._ranking)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def slots(self) -> list[tuple[int, bool]]:
        """Return a snapshot: ``(slot, leased)`` of each connection, sorted by slot."""
        return [(pooled.slot, pooled.state == "leased") for pooled in self._ranking]

    # For those who use the connections

    def lease(self, timeout: float | None = 5.0) -> Lease:
        """Lease the idle connection with the lowest slot, for a ``with`` block.

        ::

            with pool.lease() as socket:
                socket.sendall(b"PING\\r\\n")

        After a normal exit the connection is idle again; after any exception
        (a kill and a :class:`gevent.Timeout`, too) it is closed, since nobody
        knows what is still under way on it.

        :param timeout: as for :meth:`acquire`, which raises what this raises.
        """
        return Lease(self, timeout)

    def acquire(self, timeout: float | None = 5.0) -> gevent_socket.socket:
        """Lease the idle connection with the lowest slot; give it back with :meth:`release`.

        Among equal slots it is the one idle longest. If none is idle, the
        greenlet waits, first come first served, and is woken by a connection
        that is released or offered, by :meth:`close`, or by the timeout.

        :param timeout: seconds to wait; None: for ever, 0: not at all.
        :raises PoolTimeout: none became idle in time; its message says what the
            pool, its rover and the latest attempt are up to.
        :raises PoolClosed: the pool is closed, or was while the greenlet waited.
        """
        if not unforked[0]:
            check_fork()
        while (pooled := self._ranking.lease()) is not None:
            pooled.watcher.stop()
            if self._rover is not None and self._left(pooled.slot):
                self._drop(pooled)
            elif not pooled.is_silent():
                self._doubt_if_young(pooled)
                self._drop(pooled)
            else:
                pooled.leases += 1
                return pooled.socket
        return self._wait(timeout)

    def release(self, socket: gevent_socket.socket) -> None:
        """Give a leased connection back. Doesn't switch.

        Closed instead of kept: one that was retired, that is closed already,
        that has unread bytes, or whose server left the registry. Its timeout
        is reset.

        :raises PoolError: ``socket`` isn't leased from this pool.
        """
        self._release(self._leased(socket))

    def discard(self, socket: gevent_socket.socket) -> None:
        """Close a leased connection instead of giving it back. Doesn't switch.

        :raises PoolError: ``socket`` isn't leased from this pool.
        """
        self._drop(self._leased(socket))

    # For those who bring connections

    def offer(self, slot: int, socket: gevent_socket.socket) -> bool:
        """Hand over a connection, to be kept or closed. Doesn't switch.

        :param slot: its slot; with a :class:`Slot` the pool knows its server.
        :param socket: a connected gevent socket, the pool's from now on.
        :returns: whether the pool keeps it.
        :raises ValueError: ``slot`` isn't an int of at least 0.
        :raises PoolError: the pool has this very socket already.
        """
        check_fork()
        if not isinstance(slot, int) or slot < 0:
            raise ValueError(f"slot must be an int of at least 0, got {slot!r}")
        if socket in self._by_socket:
            raise PoolError(f"offered twice: {socket!r}")
        ranking = self._ranking
        if (
            self._closed
            or socket.closed  # type: ignore[attr-defined]
            or self._left(slot)
            or not ranking.admits(slot)
        ):
            socket.close()
            return False
        pooled = Pooled(slot, socket)
        if not pooled.is_silent():
            # Else a server that says a low slot and hangs up would cost a good
            # connection on every tick.
            pooled.close()
            self._doubt_if_young(pooled)
            return False
        self._by_socket[socket] = pooled
        ranking.add(pooled)
        surplus = ranking.surplus()
        if surplus is not None:
            self._retire(surplus)
        self._hand_on(pooled)
        return True

    def close(self) -> None:
        """Close the idle connections now, and the leased ones when they come back.

        Greenlets that wait get :class:`PoolClosed`. Idempotent; doesn't switch.
        """
        if self._closed:
            return
        self._closed = True
        if self._rover is not None:
            connection.disconnect(self._receive, sender=self._rover)
            _unhook(self._rover, self._wanted)
        for pooled in self._ranking:
            self._retire(pooled)
        while self._waiters:
            self._waiters.popleft().set_exception(PoolClosed("the pool was closed"))

    # Decisions: each in one step without a switch

    def _wait(self, timeout: float | None) -> gevent_socket.socket:
        if self._closed:
            raise PoolClosed("the pool is closed")
        if self._rover is not None and self._rover._warn_of_fork:
            self._rover._warn_of_fork = False
            _log.warning("a fork stopped %r, and nobody started it here: call start()", self._rover)
        began = monotonic()
        if timeout is not None and timeout <= 0:
            raise PoolTimeout(self._explain(0.0))
        waiter: AsyncResult[Pooled] = AsyncResult()
        self._waiters.append(waiter)
        try:
            waiter.wait(timeout)
        except BaseException:
            # Killed, perhaps right after it was handed a connection.
            handed = waiter.get_nowait() if waiter.successful() else None
            if handed is not None:
                self._release(handed)
            raise
        finally:
            if not waiter.ready() and waiter in self._waiters:  # A fork drops them.
                self._waiters.remove(waiter)
        handed = waiter.get_nowait() if waiter.ready() else None  # or raises PoolClosed
        if handed is not None:
            return handed.socket
        raise PoolTimeout(self._explain(monotonic() - began))

    def _leased(self, socket: gevent_socket.socket) -> Pooled:
        if not unforked[0]:
            check_fork()
        pooled = self._by_socket.get(socket)
        if pooled is None or pooled.state == "idle":
            raise PoolError(f"not leased from this pool: {socket!r}")
        return pooled

    def _release(self, pooled: Pooled) -> None:
        socket = pooled.socket
        if (
            pooled.state == "retired"
            or (self._rover is not None and self._left(pooled.slot))
            or not pooled.is_silent()
        ):
            self._drop(pooled)
            return
        default = gevent_socket.getdefaulttimeout()
        if socket.timeout != default:
            socket.settimeout(default)
        self._hand_on(pooled)

    def _hand_on(self, pooled: Pooled) -> None:
        """Lease a connection to the greenlet that waits longest, or make it idle."""
        if self._waiters:
            pooled.leases += 1
            self._waiters.popleft().set(pooled)
            return
        self._ranking.rest(pooled)
        pooled.watcher.start(self._readable, pooled)

    def _retire(self, pooled: Pooled) -> None:
        """Take a connection out of the pool: close it now, or when it comes back."""
        if pooled.state == "idle":
            self._drop(pooled)
        else:
            self._ranking.retire(pooled)

    def _drop(self, pooled: Pooled) -> None:
        """Close a connection and forget it."""
        del self._by_socket[pooled.socket]
        self._ranking.remove(pooled)
        pooled.close()
        if self._rover is not None and not self._closed:
            self._rover._nudge()

    def _left(self, slot: int) -> bool:
        """Tell whether the slot's server left the registry, or changed in it."""
        if self._rover is None or not isinstance(slot, Slot):
            return False
        server = self._rover.servers.get(slot.server_id)
        return server is not slot.server and server != slot.server

    # Forks

    def _after_fork(self) -> None:
        """Close, in a forked child, its copies of all connections; forget the waiters."""
        for pooled in self._by_socket.values():
            pooled.abandon()
        self._by_socket.clear()
        self._ranking.clear()
        self._waiters.clear()

    # What the hub and the rover call

    def _receive(self, sender: Rover, slot: Slot, socket: gevent_socket.socket) -> None:
        self.offer(slot, socket)

    def _get_wanted(self) -> int:
        return 0 if self._closed else self.deficit

    def _on_readable(self, pooled: Pooled) -> None:
        if pooled.state != "idle" or pooled.is_silent():
            return
        self._doubt_if_young(pooled)
        self._drop(pooled)

    def _doubt_if_young(self, pooled: Pooled) -> None:
        """Have the rover doubt the server of a connection that died young and never leased.

        A server that says a slot and hangs up mustn't keep the rover racing.
        """
        rover, slot = self._rover, pooled.slot
        if rover is None or pooled.leases or self._is_old(pooled):
            return
        rover._doubt(slot.server_id if isinstance(slot, Slot) else None)

    def _is_old(self, pooled: Pooled) -> bool:
        assert self._rover is not None
        return monotonic() - pooled.arrived >= self._rover.roving_interval

    def _sweep(self) -> None:
        """Let go of servers that left; trust those again of which a connection lasts."""
        assert self._rover is not None
        doubted = self._rover._doubted
        for pooled in self._ranking:
            if self._left(pooled.slot):
                self._retire(pooled)
            elif doubted and isinstance(pooled.slot, Slot) and self._is_old(pooled):
                doubted.discard(pooled.slot.server_id)

    def _explain(self, waited: float) -> str:
        """Return what helps to find out why there was no connection."""
        parts = [f"no connection within {waited:.3g} s", repr(self)]
        if self._rover is not None:
            parts.append(repr(self._rover))
            parts.append(self._rover._publisher.describe_latest())
        return "; ".join(filter(None, parts))


def _forget(
    by_socket: dict[gevent_socket.socket, Pooled], rover: Rover | None, wanted: Callable[..., Any]
) -> None:
    """Close what a pool that was collected leaves behind; leased ones are their users'."""
    for pooled in by_socket.values():
        if pooled.state == "idle":
            pooled.close()
        else:
            pooled.watcher.close()
    by_socket.clear()
    if rover is not None:
        _unhook(rover, wanted)


def _unhook(rover: Rover, wanted: Callable[..., Any]) -> None:
    if rover.wanted is wanted:
        rover.wanted = None
        rover._on_tick = None


def _weak_caller(pool: SlotPool, method: Callable[..., Any], default: Any) -> Callable[..., Any]:
    """Return a callable for the hub or the rover to keep, that keeps no pool alive."""
    reference = weakref.ref(pool)

    def call(*args: Any) -> Any:
        pool = reference()
        return default if pool is None else method(pool, *args)

    return call
