"""The header of the PROXY protocol, version 2: who connects, for a server behind a front.

The source is HAProxy's ``doc/proxy-protocol.txt``, section 2.2.
"""

from __future__ import annotations

import _socket
import struct
from typing import Any, Final

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY: Final = 0x21  # version 2, and a connection that is made for a client

# Address family and transport; anything else than TCP is unspecified, and the receiver
# takes the connection's own addresses.
_UNSPECIFIED: Final = 0x00
_TCP: Final = {_socket.AF_INET: 0x11, _socket.AF_INET6: 0x21}


def proxy_header(family: int, client: Any, server: Any) -> bytes:
    """Return what a front says to its backend first.

    :param family: of the connection with the client; ``AF_INET`` and ``AF_INET6`` have
        addresses that can be told.
    :param client: the client's address.
    :param server: the one that it connected to.
    """
    addresses = b""
    if family in _TCP:
        hosts = (_socket.inet_pton(family, each[0].partition("%")[0]) for each in (client, server))
        addresses = b"".join(hosts) + struct.pack("!HH", client[1], server[1])
    kind = _TCP.get(family, _UNSPECIFIED)
    return _SIGNATURE + struct.pack("!BBH", _PROXY, kind, len(addresses)) + addresses
