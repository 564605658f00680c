"""``SlotPool``: keeps the connections with the lowest slots, and leases an idle one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, overload

from gevent import Timeout
from gevent import socket as gevent_socket

from gevent_rover.checks import check_count, check_timeout
from gevent_rover.errors import PoolError
from gevent_rover.models import Slot
from gevent_rover.net.forks import check_fork
from gevent_rover.net.interrupts import calls_out, put_off
from gevent_rover.policy.choice import Choice
from gevent_rover.policy.least_loaded import LeastLoaded
from gevent_rover.pooling.client import Client
from gevent_rover.pooling.hooked import HookedStock
from gevent_rover.pooling.leasing import Leasing
from gevent_rover.pooling.options import Options, check_failures
from gevent_rover.pooling.state import check_sizes
from gevent_rover.pooling.stock import Stock
from gevent_rover.roving.rover import Rover
from gevent_rover.signals import connection


class SlotPool(Leasing[Client]):
    """Keeps up to ``max_slots`` connections, those with the lowest slots, and leases them.

    Below ``max_slots`` every connection that is offered is kept. A full pool
    takes one only for a strictly higher slot, which is closed, or, while it is
    leased, *retired*: closed when it comes back. Idle connections are watched:
    one on which anything arrives (the end, a reset, bytes that nobody asked
    for) is closed and forgotten at once.

    :param rover: where the connections come from. The pool receives its
        ``connection`` signals, is attached to it, and lets go of connections
        whose server leaves the rover's registry or changes in it. The rover
        keeps no pool alive. Default: none; feed the pool with :meth:`offer`.
    :param max_slots: how many connections to keep, leased ones included.
    :param choice: which of the idle ones to lease next; one for each pool. Default:
        a :class:`LeastLoaded`.
    :param failures: the exceptions that say that a lease failed by its server's fault
        if its ``with`` block raises them. Any other, a kill among them, says nothing
        about the server. In any case the connection is closed.
    :param setup: called once with each connection's socket and :class:`Slot` before
        it's leased. What it returns is the connection's *client*, which :meth:`lease` and
        :meth:`acquire` give instead of the socket; None: the socket itself. If it raises
        or takes too long, the connection is closed, and that counts against its server.
    :param check: called with the client before a lease, in the greenlet that leases. If
        it returns what is false (but for None) or raises, the connection is closed and
        the next one is tried, ``max_slots`` times at most.
    :param check_after: seconds for which a connection must have been idle to be checked.
    :param reset: called with the client after a lease. Until it returns the connection
        counts as leased; if it raises or takes too long, the connection is closed.
    :param teardown: called with the client of each connection, just before it's closed.
        What it raises is a line in the log, at DEBUG.
    :param max_lifetime: seconds after which a connection is closed, or retired if it
        is leased, and replaced; each one's own, by chance, is nine tenths of it at
        least. None: no limit.
    :param max_idle: seconds for which more connections than needed are kept. If some
        number of them was idle all that time, so many are closed, those with the highest
        slots, but never below ``min_slots``; the pool grows again, up to ``max_slots``,
        when somebody has to wait. None: the pool always keeps ``max_slots``.
    :param min_slots: how many to keep in any case; without ``max_idle`` it means nothing.
    :param keepalive: seconds of silence on a TCP connection after which the kernel probes
        whether its peer is still there; after three probes without an answer (a sixth
        of that time apart, one second at least and ten at most) the connection ends.
        Rounded up to whole seconds. None: it never does.
    :param max_waiting: how many greenlets may wait for a connection. None: any number.
    :raises PoolError: the rover has a pool already, or a ``wanted`` of its own.
    :raises ValueError: a number that isn't valid; the message names it.
    :raises TypeError: ``failures`` are no exceptions, or a hook can't be called.

    ``max_lifetime`` and ``max_idle`` are looked at on the rover's ticks, which close a
    tenth of the pool at most for them, or one; so they have no effect without a rover.

    ``setup``, ``reset`` and ``teardown`` run in greenlets of the pool's own, and may
    switch. Each hook may take the rover's ``timeout``, 5 s without a rover; a ``check``
    no longer than its lease may wait, either.

    A pool belongs to one thread (hub). The counts are exact whenever another
    greenlet can look: no method switches between choosing and marking.

    A pool doesn't cross a fork: in the child it is empty, and holds no socket
    and no waiter, and calls no ``teardown``. In the parent nothing changes.
    """

    @overload
    def __init__(
        self: SlotPool[gevent_socket.socket],
        rover: Rover | None = None,
        *,
        max_slots: int = 100,
        min_slots: int = 0,
        choice: Choice | None = None,
        failures: Sequence[type[BaseException]] = (OSError, EOFError, Timeout),
        setup: Callable[[gevent_socket.socket, Slot], None] | None = None,
        check: Callable[[gevent_socket.socket], object] | None = None,
        check_after: float = 0.0,
        reset: Callable[[gevent_socket.socket], object] | None = None,
        teardown: Callable[[gevent_socket.socket], object] | None = None,
        max_lifetime: float | None = 3600.0,
        max_idle: float | None = None,
        keepalive: float | None = 60.0,
        max_waiting: int | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        rover: Rover | None = None,
        *,
        setup: Callable[[gevent_socket.socket, Slot], Client],
        max_slots: int = 100,
        min_slots: int = 0,
        choice: Choice | None = None,
        failures: Sequence[type[BaseException]] = (OSError, EOFError, Timeout),
        check: Callable[[Client], object] | None = None,
        check_after: float = 0.0,
        reset: Callable[[Client], object] | None = None,
        teardown: Callable[[Client], object] | None = None,
        max_lifetime: float | None = 3600.0,
        max_idle: float | None = None,
        keepalive: float | None = 60.0,
        max_waiting: int | None = None,
    ) -> None: ...

    def __init__(
        self,
        rover: Rover | None = None,
        *,
        max_slots: int = 100,
        min_slots: int = 0,
        choice: Choice | None = None,
        failures: Sequence[type[BaseException]] = (OSError, EOFError, Timeout),
        setup: Callable[[Any, Any], Any] | None = None,
        check: Callable[[Any], object] | None = None,
        check_after: float = 0.0,
        reset: Callable[[Any], object] | None = None,
        teardown: Callable[[Any], object] | None = None,
        max_lifetime: float | None = 3600.0,
        max_idle: float | None = None,
        keepalive: float | None = 60.0,
        max_waiting: int | None = None,
    ) -> None:
        check_sizes(max_slots, min_slots)
        options = Options(
            choice=LeastLoaded() if choice is None else choice,
            failures=check_failures(failures),
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            keepalive=keepalive,
            max_waiting=max_waiting,
            setup=setup,
            check=check,
            check_after=check_after,
            reset=reset,
            teardown=teardown,
        )
        self._rover = rover
        kind = HookedStock if options.has_hooks else Stock
        self._stock = kind(max_slots, min_slots, options)
        self._stock.sender = weakref.ref(self)
        if rover is not None:
            supply = rover.attach(self._stock)
            self._stock.supply, self._stock.health = supply, supply.health
            # Not blinker's own weak reference: in Python 3.10 its callback may fail as the
            # interpreter ends.
            self._receive = _receiver(weakref.ref(self))
            connection.connect(self._receive, sender=rover, weak=False)
            weakref.finalize(self, connection.disconnect, self._receive, rover).atexit = False

    def __enter__(self) -> SlotPool[Client]:
        return self

    @calls_out
    def __exit__(self, *args: object) -> None:
        self.close(timeout=self._stock.seconds)

    # For those who bring connections

    def offer(self, slot: int, socket: gevent_socket.socket) -> bool:
        """Hand over a connection, to be kept or closed. Doesn't switch.

        Why one isn't kept is said in the log, at DEBUG. One that has a ``setup`` before
        it is kept unless the pool is full: then it's kept, or closed, after that.

        :param slot: its slot; with a :class:`Slot` the pool knows its server.
        :param socket: a connected gevent socket, the pool's from now on.
        :returns: whether the pool takes it.
        :raises ValueError: ``slot`` isn't an int of at least 0.
        :raises PoolError: the pool has this very socket already.
        """
        check_fork()
        check_count("slot", slot, least=0)
        if self._stock.has(socket):
            raise PoolError(f"offered twice: {socket!r}")
        return self._stock.offer(slot, socket)

    def close(self, timeout: float | None = 0.0) -> None:
        """Close the idle connections now, and the leased ones when they come back.

        Greenlets that wait get :class:`PoolClosed`. Idempotent. A ``with`` block ends with
        it, and waits for the hooks.

        To call it on a POSIX signal, use ``gevent.signal_handler``. The handler of
        ``signal.signal`` may interrupt a step of the pool; then it returns at once,
        and the hub closes the pool as soon as it runs.

        :param timeout: seconds to wait for ``teardown`` and ``reset``, which end in their
            own time otherwise; None: as long as they take, 0 or less: not at all, without
            a switch.
        :raises ValueError: ``timeout`` isn't a number.
        """
        timeout = check_timeout("timeout", timeout)
        if put_off(self._close_now):
            return
        self._close_now()
        if timeout is None or timeout > 0:
            self._stock.tasks.join(timeout)

    def _close_now(self) -> None:
        if self._rover is not None:
            connection.disconnect(self._receive, sender=self._rover)
        self._stock.close()


def _receiver(pool: weakref.ref[SlotPool[Any]]) -> Callable[..., None]:
    """Return a receiver of ``connection`` that keeps the pool not alive."""

    def receive(sender: Rover, slot: Slot, socket: gevent_socket.socket) -> None:
        living = pool()
        if living is None:
            raise ReferenceError("the pool is gone")  # Or nobody would close the socket.
        living.offer(slot, socket)

    return receive
