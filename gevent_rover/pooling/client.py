"""What a pool's users lease, as a type: a socket, unless a setup makes something of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

# A default is for type checkers alone, until Python 3.13 is the oldest one.
if TYPE_CHECKING:
    from gevent.socket import socket
    from typing_extensions import TypeVar

    Client = TypeVar("Client", default=socket)
else:
    from typing import TypeVar

    Client = TypeVar("Client")
