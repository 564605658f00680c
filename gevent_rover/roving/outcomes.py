"""What becomes of an attempt that is over: a record, a line in the log, and its signals."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any, Final, Protocol

from gevent import socket as gevent_socket

from gevent_rover.errors import RoverError
from gevent_rover.models import Attempt, Outcome, Server, Slot
from gevent_rover.net.interrupts import calls_out
from gevent_rover.policy.health import Health
from gevent_rover.policy.trouble import in_words
from gevent_rover.signals import attempt as attempt_signal
from gevent_rover.signals import connection, deliver, error, unreachable

_log: Final = logging.getLogger("gevent_rover.rover")
_log.addHandler(logging.NullHandler())

calls_out(deliver)  # A receiver may stop the rover.


class Ended(Protocol):
    """An attempt that is over, as far as its outcome goes."""

    id: str | None
    server: Server
    slot: int
    socket: gevent_socket.socket | None
    failure: Exception | None
    elapsed: float
    #: The socket while it's published, and nobody's yet.
    published: gevent_socket.socket | None


class Outcomes:
    """Records, logs and sends the outcomes of a rover's attempts.

    :param health: what is known of the servers.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._latest: tuple[str | None, Outcome, Exception | None] | None = None

    def publish(
        self, rover: Any, attempt: Ended, outcome: Outcome, *, called: bool = False
    ) -> None:
        """Record an outcome and send its signals; close the socket unless somebody owns it then.

        :param called: whether a caller asked for the attempt.
        :raises RoverError: the outcome is an error, and ``error`` has no live receiver.
        """
        id, server, failure = attempt.id, attempt.server, attempt.failure
        attempt.failure = None  # Its traceback leads back here.
        slot = None
        if outcome == "connection":
            assert id is not None
            slot = Slot(attempt.slot, id, server)
        elif outcome == "discarded":
            failure = None
        elif isinstance(failure, RoverError):
            failure.id, failure.server = id, server
        self._latest = id, outcome, failure
        since = None
        if id is not None:
            now = monotonic()
            since = self._health.unreachable_since(id)
            if outcome == "unreachable" and since is None:
                self._health.forget_all_but(rover.servers, now)
            text = "" if failure is None else in_words(failure)
            self._health.record(id, outcome, now, failure=text, called=called)
        claimed = False
        sock, attempt.socket = attempt.socket, None
        attempt.published = sock
        try:
            # A log's handlers may switch, too, and be killed meanwhile.
            if outcome == "connection":
                if since is not None:
                    _log.info("server %r is back after %.3g s: %s", id, monotonic() - since, server)
                for returned in deliver(connection, rover, slot=slot, socket=sock):
                    if returned:
                        claimed, attempt.published = True, None
            elif outcome == "unreachable":
                if since is None:
                    _log.warning("server %r is unreachable: %s: %s", id, server, failure)
                for _ in deliver(unreachable, rover, id=id, server=server):
                    pass
            elif outcome == "error":
                for _ in deliver(error, rover, error=failure):
                    claimed = True
        finally:
            attempt.published = None
            if sock is not None and not claimed:
                sock.close()
        if attempt_signal.receivers:
            record = Attempt(id, server, outcome, slot, failure, attempt.elapsed)
            for _ in deliver(attempt_signal, rover, attempt=record):
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
