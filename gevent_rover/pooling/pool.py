"""``SlotPool``: keeps the connections with the lowest slots, and leases an idle one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gevent import Timeout
from gevent import socket as gevent_socket

from gevent_rover.checks import check_count, check_seconds, check_timeout
from gevent_rover.errors import PoolError
from gevent_rover.models import Slot
from gevent_rover.net.forks import check_fork, same_process
from gevent_rover.net.interrupts import calls_out, put_off
from gevent_rover.policy.choice import Choice
from gevent_rover.policy.least_loaded import LeastLoaded
from gevent_rover.pooling.lease import Lease
from gevent_rover.pooling.stock import Stock
from gevent_rover.roving.rover import Rover
from gevent_rover.signals import connection

# Seconds to wait for a connection unless it's said. It needs no check: hence the name.
_WAIT: Final = 5.0


class SlotPool:
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
    :param max_lifetime: seconds after which a connection is closed, or retired if it
        is leased, and replaced; each one's own, by chance, is nine tenths of it at
        least. It is looked at on the rover's ticks, which renew a tenth of the pool
        at most, or one. So it has no effect without a rover. None: no limit.
    :raises PoolError: the rover has a pool already, or a ``wanted`` of its own.
    :raises ValueError: ``max_slots`` isn't an int of at least 1, or ``max_lifetime`` is
        neither a positive number nor None.
    :raises TypeError: ``failures`` are no exceptions.

    A pool belongs to one thread (hub). The counts are exact whenever another
    greenlet can look: no method switches between choosing and marking.

    A pool doesn't cross a fork: in the child it is empty, and holds no socket
    and no waiter. In the parent nothing changes.
    """

    def __init__(
        self,
        rover: Rover | None = None,
        *,
        max_slots: int = 100,
        choice: Choice | None = None,
        failures: Sequence[type[BaseException]] = (OSError, EOFError, Timeout),
        max_lifetime: float | None = 3600.0,
    ) -> None:
        check_count("max_slots", max_slots)
        if max_lifetime is not None:
            check_seconds("max_lifetime", max_lifetime)
        failures = _check_failures(failures)
        self._rover = rover
        choice = LeastLoaded() if choice is None else choice
        self._stock = Stock(max_slots, choice, failures, max_lifetime)
        if rover is not None:
            supply = rover.attach(self._stock)
            self._stock.supply, self._stock.health = supply, supply.health
            connection.connect(self._receive, sender=rover)  # weakly

    def __repr__(self) -> str:
        return repr(self._stock)

    def __enter__(self) -> SlotPool:
        return self

    @calls_out
    def __exit__(self, *args: object) -> None:
        self.close()

    # The state

    @property
    def max_slots(self) -> int:
        """How many connections to keep, leased ones included.

        May be assigned at any time. The pool grows, or gives up its highest slots at
        once; leased ones of these are retired.

        :raises ValueError: it isn't an int of at least 1; nothing changes then.
        """
        return self._stock.ranking.max_slots

    @max_slots.setter
    def max_slots(self, max_slots: int) -> None:
        self._stock.resize(check_count("max_slots", max_slots))

    @property
    def size(self) -> int:
        """How many connections the pool keeps: the idle and the leased ones."""
        return len(self._stock.ranking)

    @property
    def idle(self) -> int:
        """How many connections can be leased right now."""
        return self._stock.ranking.idle

    @property
    def leased(self) -> int:
        """How many connections are leased and come back into the pool."""
        return self.size - self.idle

    @property
    def retired(self) -> int:
        """How many connections are leased and will be closed when they come back."""
        return len(self._stock.by_socket) - self.size

    @property
    def waiting(self) -> int:
        """How many greenlets wait for a connection."""
        return len(self._stock.waiters.queue)

    @property
    def deficit(self) -> int:
        """How many connections are missing: ``max_slots - size``."""
        return self.max_slots - self.size

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._stock.closed

    def slots(self) -> list[tuple[int, bool]]:
        """Return a snapshot: ``(slot, leased)`` of each connection, sorted by slot."""
        ranking = self._stock.ranking
        return [(connection.slot, connection.state == "leased") for connection in ranking]

    # For those who use the connections

    def lease(self, timeout: float | None = _WAIT) -> Lease:
        """Lease the idle connection that the choice picks, for a ``with`` block.

        ::

            with pool.lease() as socket:
                socket.sendall(b"PING\\r\\n")

        After a normal exit the connection is idle again; after any exception
        (a kill and a :class:`gevent.Timeout`, too) it is closed, since nobody
        knows what is still under way on it. Those that are ``failures`` count against
        the server, and so does :meth:`Lease.fail`.

        :param timeout: as for :meth:`acquire`, which raises what this raises.
        """
        if timeout is not _WAIT:
            timeout = check_timeout("timeout", timeout)
        return Lease(self._stock, timeout)

    def acquire(self, timeout: float | None = _WAIT) -> gevent_socket.socket:
        """Lease an idle connection; give it back with :meth:`release`.

        Which one is the choice's decision. If none is idle, the greenlet waits, first
        come first served, and is woken by a connection that is released or offered, by
        :meth:`close`, or by the timeout.

        :param timeout: seconds to wait; None: for ever, 0 or less: not at all.
        :raises PoolTimeout: none became idle in time; its message says what the
            pool, its rover and the latest attempt are up to, and why the pool refused
            the latest connection, if it did.
        :raises PoolClosed: the pool is closed, or was while the greenlet waited.
        :raises ValueError: ``timeout`` isn't a number.
        """
        if timeout is not _WAIT:
            timeout = check_timeout("timeout", timeout)
        return self._stock.lend(timeout).socket

    def release(self, socket: gevent_socket.socket, *, failed: bool = False) -> None:
        """Give a leased connection back. Doesn't switch.

        Closed instead of kept: one that was retired, that is closed already,
        that has unread bytes, or whose server left the registry. Its timeout
        is reset. In a forked child, one that the parent leased is closed already,
        and nothing happens.

        :param failed: whether the request failed by the server's fault.
        :raises PoolError: ``socket`` isn't leased from this pool.
        """
        stock = self._stock
        leased = stock.by_socket.get(socket)
        if leased is None or leased.state == "idle" or not same_process[0]:
            leased = stock.leased(socket)  # Says what is wrong, if anything is.
            if leased is None:
                return
        stock.take_back(leased, "failed" if failed else "answered")

    def discard(self, socket: gevent_socket.socket, *, failed: bool = False) -> None:
        """Close a leased connection instead of giving it back. Doesn't switch.

        :param failed: whether the request failed by the server's fault. Else it says
            nothing about the server.
        :raises PoolError: ``socket`` isn't leased from this pool; as for :meth:`release`.
        """
        leased = self._stock.leased(socket)
        if leased is not None:
            self._stock.drop(leased, "failed" if failed else "unknown")

    # For those who bring connections

    def offer(self, slot: int, socket: gevent_socket.socket) -> bool:
        """Hand over a connection, to be kept or closed. Doesn't switch.

        Why one isn't kept is said in the log, at DEBUG.

        :param slot: its slot; with a :class:`Slot` the pool knows its server.
        :param socket: a connected gevent socket, the pool's from now on.
        :returns: whether the pool keeps it.
        :raises ValueError: ``slot`` isn't an int of at least 0.
        :raises PoolError: the pool has this very socket already.
        """
        check_fork()
        check_count("slot", slot, least=0)
        if socket in self._stock.by_socket:
            raise PoolError(f"offered twice: {socket!r}")
        return self._stock.offer(slot, socket)

    def close(self) -> None:
        """Close the idle connections now, and the leased ones when they come back.

        Greenlets that wait get :class:`PoolClosed`. Idempotent; doesn't switch.

        To call it on a POSIX signal, use ``gevent.signal_handler``. The handler of
        ``signal.signal`` may interrupt a step of the pool; then it returns at once,
        and the hub closes the pool as soon as it runs.
        """
        if not put_off(self._close_now):
            self._close_now()

    def _close_now(self) -> None:
        if self._rover is not None:
            connection.disconnect(self._receive, sender=self._rover)
        self._stock.close()

    def _receive(self, sender: Rover, slot: Slot, socket: gevent_socket.socket) -> None:
        self.offer(slot, socket)


def _check_failures(failures: Any) -> tuple[type[BaseException], ...]:
    """Check what exceptions speak against a server.

    :raises TypeError: one of them isn't an exception.
    """
    if isinstance(failures, type):
        failures = (failures,)
    for each in failures:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"failures must be exceptions, got {each!r}")
    return tuple(failures)
