"""``Rover``: the registry, the receivers, and the loop's life."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar, overload

from gevent import get_hub, getcurrent, joinall

from gevent_rover.checks import check_timeout, checked
from gevent_rover.errors import PoolError
from gevent_rover.models import Server
from gevent_rover.net.addresses import forget_lookups
from gevent_rover.net.forks import Forkable, check_fork
from gevent_rover.net.interrupts import calls_out, put_off
from gevent_rover.policy.health import Health
from gevent_rover.registry import check_server
from gevent_rover.roving.attempts import Attempts
from gevent_rover.roving.loop import Loop
from gevent_rover.roving.receivers import Receivers, signal_named
from gevent_rover.roving.settings import Settings
from gevent_rover.roving.supply import CallableDemand, Demand, Supply, WeakDemand

_Receiver = TypeVar("_Receiver", bound=Callable[..., Any])


class Rover(Settings, Forkable):
    """Roves the servers of a registry for low slots, and publishes what it gets.

    Every ``roving_interval`` it picks a server at random, connects, reads the
    slot that the server says first, and sends one of the signals
    :data:`connection`, :data:`unreachable` and :data:`error`, then
    :data:`attempt`. The sender is always the rover. What becomes of the
    connection is the receivers' decision.

    The constructor does no I/O and starts nothing. A rover belongs to the
    thread (the hub) that starts it; only :meth:`wake` and changes of
    ``servers`` are safe from other threads.

    A rover doesn't cross a fork: in the child it is stopped, holds no socket,
    and :meth:`start` starts it afresh. In the parent nothing changes.

    :param servers: the registry: kept and used as it is, never copied.
        Any greenlet and any native thread may change it at any time.
        Default: a new, empty dict.
    :param roving_interval: seconds from one attempt to the next. This and the two
        below may be assigned at any time, and raise the same then.
    :param timeout: seconds that one attempt may take in all: resolving the
        name, connecting, TLS and reading the slot line together.
    :param max_pending: how many of the loop's attempts may be in flight at a
        time. A tick that finds no room is skipped.
    :param ssl_context: makes it TLS: an ``ssl.SSLContext`` for clients, gevent's
        or the standard library's, which decides what is verified and how.
    :raises ValueError: a time that isn't a positive number, ``max_pending`` below 1.
    :raises TypeError: ``ssl_context`` can't be used.
    """

    #: Seconds that :meth:`stop` waits for attempts that are being published,
    #: unless it's told otherwise; as in gevent's servers. None: as long as it takes.
    stop_timeout: float | None = checked(check_timeout, 1.0)

    def __init__(
        self,
        servers: dict[str, Server] | None = None,
        *,
        roving_interval: float = 1.0,
        timeout: float = 5.0,
        max_pending: int = 64,
        ssl_context: Any = None,
    ) -> None:
        self.roving_interval = roving_interval
        self.timeout = timeout
        self.max_pending = max_pending
        self.servers: dict[str, Server] = {} if servers is None else servers
        if ssl_context is not None:
            # Imported late: most processes never need it.
            from gevent_rover.net.tls import check_client_context

            check_client_context(ssl_context)
        self.ssl_context = ssl_context
        self._receivers = Receivers()
        self._attempts = Attempts(self)
        #: What this client knows of each server, to be read: ``get(id)`` is a
        #: :class:`ServerHealth`, or None.
        self.health: Health = self._attempts.health
        self._loop = Loop(self, self._attempts)
        super().__init__()

    def __repr__(self) -> str:
        check_fork()
        state = self._loop.state
        return f"<Rover {state} servers={len(self.servers)} pending={self.pending}>"

    def __enter__(self) -> Rover:
        self.start()
        return self

    @calls_out
    def __exit__(self, *args: object) -> None:
        self.stop()

    # The registry

    def add_server(self, id: str, server: Server) -> None:
        """Add a server to the registry, or replace the one with the same id.

        The same as ``rover.servers[id] = server``, with a check.

        :raises InvalidServerError: the entry can't be connected to; a ``ValueError``.
        """
        check_server(server, id)
        self.servers[id] = server

    def drop_server(self, id: str) -> None:
        """Remove a server from the registry; an unknown id is no error.

        Attempts at it that are under way are discarded.
        """
        self.servers.pop(id, None)

    # Receivers

    @overload
    def on(self, name: str, receiver: _Receiver) -> _Receiver: ...

    @overload
    def on(self, name: str) -> Callable[[_Receiver], _Receiver]: ...

    def on(self, name: str, receiver: Any = None) -> Any:
        """Connect ``receiver`` to this rover's signal ``name``, as a call or a decorator.

        The rover keeps a strong reference until :meth:`off`; with blinker's own
        ``connect``, which is weak, a lambda would vanish at once. The reference
        is the rover's alone: it goes when the rover goes. The same receiver is
        connected once; two that are merely equal are two.

        :param name: ``"connection"``, ``"unreachable"``, ``"error"`` or ``"attempt"``.
        :param receiver: called with the rover and the signal's keywords.
        :returns: the receiver.
        :raises ValueError: there is no such signal.
        :raises TypeError: it isn't callable, or blinker can't connect it.
        """
        signal_named(name)
        if receiver is None:
            return lambda receiver: self.on(name, receiver)
        if not callable(receiver):
            raise TypeError(f"a receiver of {name!r} must be callable, got {receiver!r}")
        self._receivers.add(name, receiver, self)
        return receiver

    def off(self, name: str, receiver: Callable[..., Any]) -> None:
        """Undo :meth:`on`; a receiver that isn't connected is no error.

        :raises ValueError: there is no such signal.
        """
        self._receivers.remove(name, receiver, self)

    # Who wants connections

    @property
    def wanted(self) -> Callable[[], int] | None:
        """Tells how many more connections are wanted right now; None: the interval rules.

        While that is above 0, the rover doesn't wait for its interval. It's called
        on every tick and after attempts, and must not block. It may be assigned: a
        shorthand for :meth:`attach`.

        :raises PoolError: it's assigned while a pool is attached.
        """
        demand = self._loop.quick.living
        return None if demand is None else demand.wanted

    @wanted.setter
    def wanted(self, wanted: Callable[[], int] | None) -> None:
        self._loop.quick.check_free("its connections are the pool's until that is closed")
        self._loop.quick.demand = None if wanted is None else CallableDemand(wanted)
        self._loop.look()

    def attach(self, demand: Demand) -> Supply:
        """Let ``demand`` say how many more connections are wanted; a pool does that.

        It is held weakly. Connections come by the ``connection`` signal, as ever.

        :raises PoolError: somebody is attached already, or ``wanted`` is taken.
        """
        self._loop.quick.check_free("a rover has one")
        if self.wanted is not None:
            raise PoolError(f"{self!r} has a `wanted` of its own: it can't have a pool, too")
        attached = WeakDemand(demand)
        self._loop.quick.demand = attached
        self._loop.look()
        return _Supply(self, self._attempts, self._loop, attached)

    # The loop

    @property
    def started(self) -> bool:
        """Whether the loop runs. It doesn't after the thread that started it has ended."""
        check_fork()
        return self._loop.started

    @property
    def pending(self) -> int:
        """How many attempts, the loop's and :meth:`connect`'s, aren't published yet."""
        return self._loop.pending + len(self._attempts.calls)

    def start(self) -> None:
        """Make the first attempt at once, then one every ``roving_interval``.

        Returns at once. The second attempt comes after a part of an interval, by
        chance, so that clients that start together don't rove in step. From then on
        the schedule is fixed and doesn't drift; an attempt
        that is still running doesn't delay the next one. A tick that comes late
        (the hub was busy) keeps its phase, and those that it missed are
        skipped. On a started rover it begins the schedule anew.
        """
        check_fork()
        self._loop.start()

    def stop(self, timeout: float | None = None) -> None:
        """Start no more attempts, and give up those of the loop that are dialling.

        Their sockets are closed before it returns. Attempts that are being
        published finish; it waits for them, but not when a receiver calls it.
        Idempotent; :meth:`start` works again afterwards.

        To call it on a POSIX signal, use ``gevent.signal_handler``. The handler of
        ``signal.signal`` may interrupt a step of the rover; then it returns at once,
        and the hub stops the rover as soon as it runs.

        :param timeout: seconds to wait for attempts that are being published
            (default: :attr:`stop_timeout`). They aren't killed then.
        :raises ValueError: ``timeout`` isn't a number.
        """
        timeout = self.stop_timeout if timeout is None else check_timeout("timeout", timeout)
        check_fork()
        if put_off(self._loop.stop):
            return
        publishers = self._loop.stop()
        caller = getcurrent()
        if caller in publishers or caller is get_hub():
            return
        joinall(publishers, timeout=timeout)

    def wake(self) -> None:
        """Make the next tick now; the schedule goes on from there.

        Several calls before it runs are one; on a stopped rover it does
        nothing. Safe from any thread.
        """
        self._loop.wake()

    def connect(self) -> None:
        """Make one attempt in the calling greenlet, on a stopped rover too.

        Returns after its outcome was published; ``max_pending`` doesn't limit
        it, and :meth:`stop` doesn't end it. The hub wakes it when the server
        has answered, or when ``timeout`` has passed.

        :raises RoverError: the outcome is an error, and ``error`` has no live receiver.
        """
        check_fork()
        self._attempts.call()

    def _after_fork(self) -> None:
        """Stop, in a forked child, and close its copies of the sockets in flight.

        Nothing here is a ``shutdown``, which would cut the parent's connections off.
        """
        forget_lookups()
        self._loop.abandon()
        self._attempts.abandon()


class _Supply:
    """What a demand has of its rover; see :class:`Supply`."""

    def __init__(self, rover: Rover, attempts: Attempts, loop: Loop, demand: WeakDemand) -> None:
        self._rover = rover
        self._attempts = attempts
        self._loop = loop
        self._demand = demand

    # Each lease asks for it: hence the getter that is C.
    servers: Any = property(attrgetter("_rover.servers"))

    @property
    def interval(self) -> float:
        return self._rover.roving_interval

    @property
    def timeout(self) -> float:
        return self._rover.timeout

    @property
    def health(self) -> Health:
        return self._attempts.health

    def hangs(self, id: str) -> None:
        self._attempts.health.hangs(id)

    def more_wanted(self) -> None:
        self._loop.more_wanted()

    def seek(self, id: str) -> None:
        self._loop.seek(id)

    def suspect(self, id: str | None) -> None:
        self._loop.quick.suspect(id)

    def lasted(self, id: str) -> None:
        self._attempts.health.lasted(id)

    def describe(self) -> str:
        parts = repr(self._rover), self._attempts.outcomes.describe_latest()
        return "; ".join(filter(None, parts))

    def detach(self) -> None:
        if self._loop.quick.demand is self._demand:
            self._loop.quick.demand = None
