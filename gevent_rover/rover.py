"""``Rover``: the registry, the greenlet loop, and the publishing of what it finds."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar, overload

from gevent import Greenlet, GreenletExit, get_hub, getcurrent, joinall
from gevent.event import Event

from gevent_rover.addresses import forget_lookups
from gevent_rover.couriers import Couriers
from gevent_rover.errors import NoServersError, ResourceError
from gevent_rover.forks import Forkable, check_fork
from gevent_rover.pacing import MOMENT, Pacing
from gevent_rover.publishing import Flight, Outcome, Publisher
from gevent_rover.registry import Picker, Server, check_server
from gevent_rover.signals import SIGNALS
from gevent_rover.sockets import close_now

_Receiver = TypeVar("_Receiver", bound=Callable[..., Any])


class Rover(Forkable):
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
    :param roving_interval: seconds from one attempt to the next.
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
    #: unless it's told otherwise; as in gevent's servers.
    stop_timeout = 1.0

    def __init__(
        self,
        servers: dict[str, Server] | None = None,
        *,
        roving_interval: float = 1.0,
        timeout: float = 5.0,
        max_pending: int = 64,
        ssl_context: Any = None,
    ) -> None:
        _check_seconds("roving_interval", roving_interval)
        _check_seconds("timeout", timeout)
        if type(max_pending) is not int or max_pending < 1:
            raise ValueError(f"max_pending must be an int of at least 1, got {max_pending!r}")
        self.servers: dict[str, Server] = {} if servers is None else servers
        self.roving_interval = roving_interval
        self.timeout = timeout
        self.max_pending = max_pending
        if ssl_context is not None:
            # Imported late: most processes never need it.
            from gevent_rover.tls import check_client_context

            check_client_context(ssl_context)
        self.ssl_context = ssl_context
        #: Tells how many more connections are wanted right now. While that is
        #: above 0, the rover doesn't wait for its interval. Looked at on every
        #: tick and after attempts; must not block.
        self.wanted: Callable[[], int] | None = None

        # A pool's: what it does on every tick. Private, for a receiver of `attempt`
        # would be called far more often.
        self._on_tick: Callable[[], None] | None = None
        self._picker = Picker()
        self._pacing = Pacing(max_pending)
        self._publisher = Publisher()
        self._loop: Greenlet[..., Any] | None = None  # None: stopped
        self._hub: Any = None  # the hub of the thread that started it
        self._flights: dict[Flight, None] = {}  # the loop's
        self._calls: dict[Flight, None] = {}  # those of connect()
        self._couriers = Couriers(self._publish, self._hurry)
        self._next_tick = 0.0
        self._wakeup = Event()
        self._receivers: dict[str, list[Callable[..., Any]]] = {name: [] for name in SIGNALS}
        self._stopped_by_fork = False
        self._warn_of_fork = False  # once, by the pool
        super().__init__()

    def __repr__(self) -> str:
        state = "started" if self.started else "stopped"
        if self._stopped_by_fork:
            state = "stopped by a fork"
        return f"<Rover {state} servers={len(self.servers)} pending={self.pending}>"

    def __enter__(self) -> Rover:
        self.start()
        return self

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
        is the rover's alone: it goes when the rover goes.

        :param name: ``"connection"``, ``"unreachable"``, ``"error"`` or ``"attempt"``.
        :param receiver: called with the rover and the signal's keywords.
        :returns: the receiver.
        :raises ValueError: there is no such signal.
        """
        signal = _signal_named(name)
        if receiver is None:
            return lambda receiver: self.on(name, receiver)
        if receiver not in self._receivers[name]:
            self._receivers[name].append(receiver)
            signal.connect(receiver, sender=self)
        return receiver

    def off(self, name: str, receiver: Callable[..., Any]) -> None:
        """Undo :meth:`on`; a receiver that isn't connected is no error.

        :raises ValueError: there is no such signal.
        """
        signal = _signal_named(name)
        if receiver in self._receivers[name]:
            signal.disconnect(receiver, sender=self)
            self._receivers[name].remove(receiver)

    # The loop

    @property
    def started(self) -> bool:
        """Whether the loop runs."""
        check_fork()
        return self._loop is not None

    @property
    def pending(self) -> int:
        """How many attempts, the loop's and :meth:`connect`'s, aren't published yet."""
        return len(self._flights) + len(self._calls)

    def start(self) -> None:
        """Make the first attempt at once, then one every ``roving_interval``.

        Returns at once. The schedule is fixed and doesn't drift; an attempt
        that is still running doesn't delay the next one. A tick that comes late
        (the hub was busy) keeps its phase, and those that it missed are
        skipped. On a started rover it begins the schedule anew.
        """
        check_fork()
        self._stopped_by_fork = self._warn_of_fork = False
        self._hub = get_hub()
        self._next_tick = monotonic()
        self._pacing = Pacing(self.max_pending)
        if self._loop is None:
            self._wakeup = Event()  # Not that of another thread's hub.
            self._loop = Greenlet.spawn(self._run)
        self._wakeup.set()

    def stop(self, timeout: float | None = None) -> None:
        """Start no more attempts, and give up those of the loop that are dialling.

        Their sockets are closed before it returns. Attempts that are being
        published finish; it waits for them, but not when a receiver calls it.
        Idempotent; :meth:`start` works again afterwards.

        :param timeout: seconds to wait for attempts that are being published
            (default: :attr:`stop_timeout`). They aren't killed then.
        """
        check_fork()
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.kill(block=False)
        for flight in list(self._flights):
            if flight.publisher is None:
                del self._flights[flight]
                flight.abandon()
        self._couriers.dismiss()
        caller = getcurrent()
        publishers = [flight.publisher for flight in self._flights]
        if caller in publishers or caller is get_hub():
            return
        joinall(publishers, timeout=self.stop_timeout if timeout is None else timeout)

    def wake(self) -> None:
        """Make the next tick now; the schedule goes on from there.

        Several calls before it runs are one; on a stopped rover it does
        nothing. Safe from any thread.
        """
        if self._loop is not None:
            self._hub.loop.run_callback_threadsafe(self._tick_now)

    def _tick_now(self) -> None:
        self._next_tick = monotonic()
        self._wakeup.set()

    def connect(self) -> None:
        """Make one attempt in the calling greenlet, on a stopped rover too.

        Returns after its outcome was published; ``max_pending`` doesn't limit
        it, and :meth:`stop` doesn't end it. The hub wakes it when the server
        has answered, or when ``timeout`` has passed.

        :raises RoverError: the outcome is an error, and ``error`` has no live receiver.
        """
        check_fork()
        flight = self._pick()
        assert flight is not None
        self._calls[flight] = None
        try:
            if flight.failure is None and flight.start(getcurrent().switch):
                hub = get_hub()
                while hub.switch() is not flight:
                    pass  # Somebody else's switch.
            if flight.abandoned:  # by a fork, or because its lookup was killed
                raise GreenletExit
            flight.publisher = getcurrent()
            flight.elapsed = monotonic() - flight.began
            self._publisher.publish(self, flight, flight.outcome(self.servers))
        finally:
            if flight.publisher is None:
                flight.abandon()
            self._calls.pop(flight, None)

    def _run(self) -> None:
        loop = getcurrent()
        try:
            while self._loop is loop:
                self._wakeup.wait(self._tick())
                self._wakeup.clear()
        finally:
            if self._loop is loop:  # Killed, but not by stop().
                self._loop = None

    def _tick(self) -> float:
        """Start the attempts that are due, and return the seconds until the next look."""
        check_fork()
        if self._loop is None:
            return 0.0
        now = monotonic()
        if now >= self._next_tick:
            missed = (now - self._next_tick) // self.roving_interval
            self._next_tick += (missed + 1) * self.roving_interval
            self._pacing.tick(self.servers)
            on_tick = self._on_tick
            if on_tick is not None:
                on_tick()
            if len(self._flights) < self.max_pending:
                self._launch()
        wait = self._next_tick - now
        if self.wanted is not None:
            self._hurry()
            # Attempts that have come to hang since make room for others.
            wait = min(wait, MOMENT)
        return max(0.0, wait)

    def _launch(self, left_out: set[str] | None = None) -> bool:
        """Begin an attempt, without a switch; False: all servers are left out."""
        flight = self._pick(left_out)
        if flight is None:
            return False
        if flight.id is not None:
            self._pacing.pick(flight.id)
        self._flights[flight] = None
        self._pacing.begin(flight, flight.id, flight.began)
        if flight.failure is not None or not flight.start(self._land):
            self._land(flight)
        return True

    def _land(self, flight: Flight) -> None:
        """Have an attempt published that is over; the hub calls it."""
        if flight.abandoned:  # Its greenlet was killed by somebody else.
            self._flights.pop(flight, None)
            self._pacing.finish(flight)
            return
        flight.elapsed = monotonic() - flight.began
        self._couriers.take(flight)

    def _publish(self, flight: Flight) -> None:
        check_fork()
        if flight.abandoned:
            return
        # From here on nothing gives it up: no switch until it's marked.
        flight.publisher = getcurrent()
        outcome = flight.outcome(self.servers)
        self._pace(outcome, flight)
        try:
            self._publisher.publish(self, flight, outcome)
        except Exception:
            get_hub().handle_error(self, *sys.exc_info())
        finally:
            self._flights.pop(flight, None)
            self._pacing.finish(flight)

    def _nudge(self) -> None:
        """Look at ``wanted`` now instead of on the next tick; a pool's deficit has grown."""
        self._wakeup.set()

    def _doubt(self, id: str | None) -> None:
        """Take note that a pooled connection of a server died young."""
        self._pacing.doubt(id)

    @property
    def _doubted(self) -> set[str]:
        """The ids of the servers of which such a connection died; a pool takes them out."""
        return self._pacing.doubted

    def _room(self) -> int:
        """Return how many attempts quick roving may start right now."""
        wanted = self.wanted  # a pool that the collector takes away resets it at any time
        if wanted is None:
            return 0
        try:
            room = self._pacing.room(wanted(), monotonic())
        except Exception:
            self._hub.handle_error(wanted, *sys.exc_info())
            return 0
        if self._loop is None:  # wanted() stopped the rover.
            return 0
        return min(room, self.max_pending - len(self._flights))

    def _hurry(self) -> None:
        """Begin the attempts that quick roving has room for."""
        for _ in range(self._room()):
            if not self._launch(self._pacing.left_out):
                self._pacing.end()
                return

    # Forks

    def _after_fork(self) -> None:
        """Stop, in a forked child, and close its copies of the sockets in flight.

        Nothing here is a ``shutdown``, which would cut the parent's connections
        off. The greenlets are copies of the parent's; they are killed if the
        child ever runs its hub, but for the one that forked, which goes on.
        """
        if self.started:
            self._stopped_by_fork = self._warn_of_fork = True
        forget_lookups()
        loop, self._loop = self._loop, None
        for flight in (*self._flights, *self._calls):
            flight.abandon()
            if flight.published is not None:
                close_now(flight.published)
        self._couriers.abandon()
        if loop is not None and loop is not getcurrent():
            loop.kill(block=False)
        self._flights.clear()
        self._calls.clear()
        self._picker = Picker()
        self._wakeup = Event()

    # One attempt

    def _pick(self, left_out: set[str] | None = None) -> Flight | None:
        """Pick a server for an attempt; None: all of them are left out.

        :param left_out: ids that quick roving mustn't pick; None: none.
        :returns: the attempt, which has a ``failure`` if it can't be started.
        """
        id: str | None = None
        server: Server | None = None
        failure: Exception | None = None
        try:
            if left_out is None:
                id, server = self._picker.pick(self.servers)
            else:
                other = self._picker.pick_other(self.servers, left_out)
                if other is None:
                    return None
                id, server = other
            check_server(server, id)
        except Exception as exc:
            failure = exc.with_traceback(None)  # which would lead back here
        flight = Flight(id, server, self.timeout, self.ssl_context)
        if failure is not None:
            flight.fail(failure)
        return flight

    def _pace(self, outcome: Outcome, flight: Flight) -> None:
        if outcome == "connection":
            self._pacing.succeed()
        elif outcome != "discarded":
            self._pacing.fail(flight.id)
            if isinstance(flight.failure, (NoServersError, ResourceError)):
                self._pacing.end()


def _check_seconds(name: str, seconds: float) -> None:
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ValueError(f"{name} must be a positive number of seconds, got {seconds!r}")


def _signal_named(name: str) -> Any:
    try:
        return SIGNALS[name]
    except KeyError:
        known = ", ".join(SIGNALS)
        raise ValueError(f"unknown signal {name!r}: expected one of {known}") from None
