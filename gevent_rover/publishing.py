"""What becomes of an attempt that is over: a line in the log, and its signals."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any, Final, Literal, TypeAlias

from gevent import socket as gevent_socket

from gevent_rover.dial import Dial
from gevent_rover.errors import RoverError
from gevent_rover.registry import Server
from gevent_rover.signals import Attempt, Slot, attempt, connection, deliver, error, unreachable

_log: Final = logging.getLogger("gevent_rover.rover")
_log.addHandler(logging.NullHandler())

Outcome: TypeAlias = Literal["connection", "unreachable", "error", "discarded"]


class Flight(Dial):
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
        if self.id is not None:
            server = servers.get(self.id)
            if server is not self.server and server != self.server:
                return "discarded"
        if self.failure is None:
            return "connection"
        return "error" if isinstance(self.failure, RoverError) else "unreachable"


class Publisher:
    """Logs and sends the outcomes of a rover's attempts."""

    def __init__(self) -> None:
        self._unreachable: set[str] = set()  # ids, for the log
        self._latest: tuple[str | None, Outcome, Exception | None] | None = None

    def publish(self, rover: Any, flight: Flight, outcome: Outcome) -> None:
        """Log an outcome and send its signals; close the socket unless somebody owns it then.

        :raises RoverError: the outcome is an error, and ``error`` has no live receiver.
        """
        id, server, failure = flight.id, flight.server, flight.failure
        flight.failure = None  # Its traceback leads back here.
        slot = None
        if outcome == "connection":
            assert id is not None
            slot = Slot(flight.slot, id, server)
        elif outcome == "discarded":
            failure = None
        elif isinstance(failure, RoverError):
            failure.id, failure.server = id, server
        self._latest = id, outcome, failure
        claimed = False
        sock, flight.socket = flight.socket, None
        flight.published = sock
        try:
            # A log's handlers may switch, too, and be killed meanwhile.
            self._log_outcome(outcome, id, server, failure, rover.servers)
            if outcome == "connection":
                for returned in deliver(connection, rover, slot=slot, socket=sock):
                    if returned:
                        claimed, flight.published = True, None
            elif outcome == "unreachable":
                for _ in deliver(unreachable, rover, id=id, server=server):
                    pass
            elif outcome == "error":
                for _ in deliver(error, rover, error=failure):
                    claimed = True
        finally:
            flight.published = None
            if sock is not None and not claimed:
                sock.close()
        if attempt.receivers:
            record = Attempt(id, server, outcome, slot, failure, flight.elapsed)
            for _ in deliver(attempt, rover, attempt=record):
                pass
        if outcome == "error" and not claimed:
            assert failure is not None
            raise failure

    def describe_latest(self) -> str:
        """Return how the latest attempt ended, and why; empty if there was none."""
        if self._latest is None:
            return ""
        id, outcome, failure = self._latest
        at = "" if id is None else f" at server {id!r}"
        why = "" if failure is None else f": {type(failure).__name__}: {failure}"
        return f"latest attempt{at}: {outcome}{why}"

    def _log_outcome(
        self,
        outcome: Outcome,
        id: str | None,
        server: Server,
        failure: Exception | None,
        servers: dict[str, Server],
    ) -> None:
        if outcome == "connection":
            if id in self._unreachable:
                self._unreachable.remove(id)
                _log.info("server %r is back: %s", id, server)
        elif outcome == "unreachable" and id is not None and id not in self._unreachable:
            self._unreachable.intersection_update(list(servers))
            self._unreachable.add(id)
            _log.warning("server %r is unreachable: %s: %s", id, server, failure)
