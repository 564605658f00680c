"""The seam between those who know where servers are and the registry: a source."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeAlias

from gevent_rover.models import Server
from gevent_rover.registry import host_and_port

_log: Final = logging.getLogger("gevent_rover.discovery")
_log.addHandler(logging.NullHandler())

#: Takes all servers that a source knows, by id. It may switch, and keeps nothing of the
#: mapping. What may not be taken (none at all, say) changes nothing.
Apply: TypeAlias = Callable[[Mapping[str, Server]], None]


class Source(Protocol):
    """Knows where servers are. A :class:`Feeder` runs it; users may write one."""

    def run(self, apply: Apply) -> None:
        """Call ``apply`` with all servers, at first and whenever they have changed.

        It runs in a greenlet of the feeder's, which is killed to stop it: so it waits by
        gevent's means alone, cleans up in ``finally``, and holds nothing that a forked child
        may not use but sockets, which the feeder has it close there.

        To return means that nothing will change any more. To raise means that the source
        has failed for now: the feeder says so in the log, and calls it again after a while.
        Until then all is left as it is.

        :param apply: takes whole answers, never a difference: ids are to be stable, so that
            a server that stays is left alone.
        :raises Exception: it can't find out; a :class:`SourceError` if there's nothing
            better to say.
        """


class SourceError(Exception):
    """A source can't find out where servers are, for now."""


def warn_of(failure: Exception, before: Exception | None, message: str, *args: object) -> None:
    """Log a failure, which comes last in the message: at WARNING, or at DEBUG if it's the same.

    :param before: the latest one before it; None: all was well.
    """
    again = before is not None and str(before) == str(failure)
    level = logging.DEBUG if again else logging.WARNING
    _log.log(level, message + ": %s", *args, str(failure) or type(failure).__name__)


def address_id(host: str, port: int) -> str:
    """Return the id of a server that is known by its address alone: ``host:port``."""
    return host_and_port(host, port)
