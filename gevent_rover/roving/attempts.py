"""One attempt from the pick until its outcome is published, and those that callers make."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent import GreenletExit, get_hub, getcurrent
from gevent import socket as gevent_socket

from gevent_rover.errors import InvalidServerError, RoverError
from gevent_rover.models import Outcome, Server
from gevent_rover.net.dial import Dial
from gevent_rover.net.sockets import close_now
from gevent_rover.policy.health import Health
from gevent_rover.policy.picking import Picker
from gevent_rover.registry import check_server, server_gone
from gevent_rover.roving.outcomes import Outcomes
from gevent_rover.roving.settings import Settings


class PendingAttempt(Dial):
    """One attempt, from the pick until its outcome is published.

    :param id: the id of the server that was picked; None: there was none.
    :param server: its entry in the registry.
    """

    __slots__ = ("began", "elapsed", "id", "published", "publisher")

    def __init__(self, id: str | None, server: Any, timeout: float, ssl_context: Any) -> None:
        super().__init__(server, timeout, ssl_context)
        self.id = id
        self.began = monotonic()
        self.elapsed = 0.0
        #: The greenlet that publishes it; None: it's still on its way.
        self.publisher: Any = None
        #: The socket while it's published, and nobody's yet.
        self.published: gevent_socket.socket | None = None

    def outcome(self, servers: dict[str, Server]) -> Outcome:
        """Return how it ended, as the registry has it now."""
        if self.id is not None and server_gone(servers, self.id, self.server):
            return "discarded"
        if self.failure is None:
            return "connection"
        return "error" if isinstance(self.failure, RoverError) else "unreachable"

    def abandon_copy(self) -> None:
        """Let go of it in a forked child, whatever state it is in."""
        self.abandon()
        if self.published is not None:
            close_now(self.published)


class Attempts:
    """Picks servers for a rover's attempts, and makes those that callers ask for.

    :param rover: whose attempts they are; the sender of their signals.
    """

    def __init__(self, rover: Settings) -> None:
        self._rover = rover
        self._picker = Picker()
        self.health = Health()
        self.outcomes = Outcomes(self.health)
        #: Those of :meth:`call` that aren't published yet.
        self.calls: dict[PendingAttempt, None] = {}

    def pick(self, is_avoided: Callable[[str], bool] | None = None) -> PendingAttempt | None:
        """Pick a server for an attempt; None: all of them are avoided.

        :param is_avoided: tells which ids mustn't be picked; None: any may be.
        :returns: the attempt, which has a ``failure`` if it can't be started.
        """
        servers = self._rover.servers
        id: str | None = None
        server: Server | None = None
        try:
            if is_avoided is None:
                id, server = self._picker.pick(servers)
            else:
                other = self._picker.pick_other(servers, is_avoided)
                if other is None:
                    return None
                id, server = other
            check_server(server, id)
        except Exception as exc:
            return self._pending(id, server, exc.with_traceback(None))  # It leads back here.
        return self._pending(id, server)

    def at(self, id: str) -> PendingAttempt | None:
        """Return an attempt at this server; None: there's none, or not a valid one."""
        server = self._rover.servers.get(id)
        try:
            check_server(server, id)
        except InvalidServerError:
            return None
        return self._pending(id, server)

    def _pending(
        self, id: str | None, server: Server | None, failure: Exception | None = None
    ) -> PendingAttempt:
        attempt = PendingAttempt(id, server, self._rover.timeout, self._rover.ssl_context)
        if failure is not None:
            attempt.fail(failure)
        return attempt

    def call(self) -> None:
        """Make one attempt in the calling greenlet; return after its outcome was published.

        :raises RoverError: the outcome is an error, and ``error`` has no live receiver.
        """
        attempt = self.pick()
        assert attempt is not None
        self.calls[attempt] = None
        try:
            if attempt.failure is None and attempt.start(getcurrent().switch):
                hub = get_hub()
                while hub.switch() is not attempt:
                    pass  # Somebody else's switch.
            if attempt.abandoned:  # by a fork, or because its lookup was killed
                raise GreenletExit
            attempt.publisher = getcurrent()
            attempt.elapsed = monotonic() - attempt.began
            outcome = attempt.outcome(self._rover.servers)
            self.outcomes.publish(self._rover, attempt, outcome, called=True)
        finally:
            if attempt.publisher is None:
                attempt.abandon()
            self.calls.pop(attempt, None)

    def abandon(self) -> None:
        """Let go, in a forked child, of the parent's calls; pick out of step with it."""
        for attempt in self.calls:
            attempt.abandon_copy()
        self.calls.clear()
        self._picker = Picker()
