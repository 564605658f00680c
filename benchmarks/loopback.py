"""Loopback addresses to connect to, and listeners that never say a word."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import gevent

from gevent_rover import Rover, Server

Address: TypeAlias = "tuple[str, int]"

#: With a single address to connect to, the kernel's search for a local port
#: among tens of thousands in TIME_WAIT costs more than the rest, and levels all clients.
ADDRESSES = [f"127.0.1.{number}" for number in range(1, 21)]


def listen(backlog: int = 1024) -> list[socket.socket]:
    """Return a listener on each of the 20 loopback addresses."""
    return [socket.create_server((address, 0), backlog=backlog) for address in ADDRESSES]


def addresses_of(listeners: list[socket.socket]) -> list[Address]:
    return [listener.getsockname()[:2] for listener in listeners]


@contextmanager
def silent_servers() -> Iterator[list[Address]]:
    """Give addresses where connecting succeeds (the kernel does that) and nobody ever answers.

    Nobody accepts, so only the client's end takes a descriptor. For the same
    reason the connections that were given up stay in the backlogs, which have
    room for 20,000 in all: use new ones for each round.
    """
    with ExitStack() as stack:
        yield addresses_of([stack.enter_context(listener) for listener in listen()])


def registry(addresses: list[Address], size: int = 0) -> dict[str, Server]:
    """Return a registry of ``size`` servers (default: as many as there are addresses)."""
    return {
        f"server-{number}": {
            "host": addresses[number % len(addresses)][0],
            "port": addresses[number % len(addresses)][1],
        }
        for number in range(size or len(addresses))
    }


def hang(rover: Rover, count: int) -> None:
    """Have ``count`` of a started rover's attempts pending, as fast as ticks can start them."""
    while rover.pending < count:
        rover.wake()
        gevent.sleep(0)


def descriptors(wanted: int, spare: int = 200) -> int:
    """Return how many of the descriptors that are wanted this process may open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - spare)
