"""From a registry entry to the addresses to connect to."""

from __future__ import annotations

import _socket

# gevent's thread pool imports it when a lookup raises. It can't when this process is
# out of descriptors; the lookup then never ends, nor does any other on the same name.
import pickle  # noqa: F401
from itertools import chain, zip_longest
from typing import Any, Final, TypeAlias

from gevent import Greenlet
from gevent import socket as gevent_socket

from gevent_rover.models import Server

#: What a socket is connected to: its family, and the address as ``connect`` takes it.
Address: TypeAlias = "tuple[int, Any]"


def known_address(server: Server) -> Address | None:
    """Return the address that ``server`` is in itself; None if it's a name. Doesn't block.

    :raises OSError: there is no such address.
    """
    if "path" in server:
        return _socket.AF_UNIX, server["path"]
    host, port = server["host"], server["port"]
    try:
        _socket.inet_pton(_socket.AF_INET, host)
    except OSError:
        return next(iter(_literal(host, port)), None)
    return _socket.AF_INET, (host, port)


def addresses_of(hub: Any, server: Server) -> list[Address]:
    """Return the addresses of ``server``, in the order in which to try them.

    Blocks only for a name, until the hub's resolver has answered. A literal
    address never waits behind lookups that hang.

    :raises OSError: the name has no address (``gaierror``).
    """
    known = known_address(server)
    if known is not None:
        return [known]
    return _alternated(_look_up(hub, server["host"], server["port"]))


def _literal(host: str, port: int) -> list[Address]:
    """Return the address that ``host`` is in itself; empty if it's a name.

    Asks no resolver, so it is safe on the hub's own thread.
    """
    try:
        found = _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM, 0, _socket.AI_NUMERICHOST)
    except OSError:
        if ":" in host:  # No name has a colon, but a scope may be unknown: fe80::1%eth7
            raise
        return []
    return [(family, address) for family, _, _, _, address in found[:1]]


def _alternated(addresses: list[Address]) -> list[Address]:
    """Order addresses as RFC 8305 (section 4) says: families alternate, the resolver's first."""
    addresses = list(dict.fromkeys(addresses))
    first = addresses[0][0] if addresses else None
    ours = [address for address in addresses if address[0] == first]
    others = [address for address in addresses if address[0] != first]
    pairs = chain.from_iterable(zip_longest(ours, others))
    return [address for address in pairs if address is not None]


# The lookups under way, by hub and name, shared by all attempts: where a name
# server doesn't answer, abandoned lookups would fill the resolver's thread
# pool (10 by default), and every other lookup of the process would wait.
_lookups: Final[dict[tuple[Any, str], Greenlet[..., Any]]] = {}


def forget_lookups() -> None:
    """Forget the lookups under way: in a forked child nobody will answer them."""
    _lookups.clear()


def _look_up(hub: Any, host: str, port: int) -> list[Address]:
    key = hub, host
    lookup = _lookups.get(key)
    if lookup is None:
        lookup = _lookups[key] = Greenlet.spawn(_resolve, key)
    addresses, failure = lookup.get()
    if failure is not None:
        raise failure
    if not addresses:
        raise _socket.gaierror(_socket.EAI_NONAME, "the name has no address")
    return [(family, (address[0], port, *address[2:])) for family, address in addresses]


def _resolve(key: tuple[Any, str]) -> tuple[list[Address], Exception | None]:
    try:
        found = gevent_socket.getaddrinfo(key[1], 0, 0, _socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found], None
    except Exception as exc:
        return [], exc
    finally:
        _lookups.pop(key, None)
