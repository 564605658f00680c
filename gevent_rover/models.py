"""Values that pass from room to room: what a server is, a slot, and how an attempt ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict


class Server(TypedDict, total=False):
    """One entry of the registry: ``host`` and ``port``, or ``path``.

    Entries are replaced, never changed in place.
    """

    #: A host name, or a literal IPv4 or IPv6 address (``fe80::1%eth0`` too).
    host: str
    #: 1 to 65535.
    port: int
    #: A Unix domain socket; a leading NUL byte makes it an abstract name (Linux).
    path: str
    #: The name that the server's certificate must have. Default: ``host``.
    server_hostname: str


class Slot(int):
    """A slot: an ``int`` that also knows the server it is a slot of."""

    server_id: str
    #: The registry's own entry of that server.
    server: Server

    def __new__(cls, slot: int, server_id: str, server: Server) -> Slot:
        self = int.__new__(cls, slot)
        self.server_id = server_id
        self.server = server
        return self

    def __getnewargs__(self) -> tuple[int, str, Server]:  # type: ignore[override]
        return int(self), self.server_id, self.server


#: How an attempt ended: with a slot; with none; with a fault that a person must fix; or
#: with its server dropped or replaced meanwhile.
Outcome: TypeAlias = Literal["connection", "unreachable", "error", "discarded"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt ended."""

    #: The id of the server that was picked; None when there was none.
    id: str | None
    #: The registry's own entry of that server.
    server: Server | None
    outcome: Outcome
    #: The slot that arrived; None with every outcome but ``"connection"``.
    slot: Slot | None
    #: Why there is no connection; None with ``"connection"`` and ``"discarded"``.
    error: Exception | None
    #: Seconds from the pick to the outcome.
    elapsed: float
