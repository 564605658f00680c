"""Keep the three lowest slots in a list: what one does without a pool.

Usage: python examples/three_lowest.py [HOST:PORT …]

Without arguments it starts three slot servers of its own, and stops one of them on the way.
"""

from __future__ import annotations

import sys

import gevent
from gevent.socket import socket as Socket

from gevent_rover import Rover, Slot, SlotServer, parse_server

KEPT = 3

kept: list[tuple[Slot, Socket]] = []


def name(slot: Slot) -> str:
    return f"slot {slot} of {slot.server_id}"


def keep(rover: Rover, slot: Slot, socket: Socket) -> None:
    """Keep a connection if its slot is among the lowest; the receiver owns the socket."""
    if len(kept) < KEPT:
        print(f"keep {name(slot)}")
    else:
        highest, higher = kept[-1]
        if slot >= highest:  # among equals the one that's there stays
            socket.close()
            return
        print(f"swap {name(highest)} for {name(slot)}")
        # Off the list first: watch() then knows that nobody lost it.
        kept.pop()
        higher.close()
    kept.append((slot, socket))
    kept.sort(key=lambda pair: pair[0])
    gevent.spawn(watch, slot, socket)


def watch(slot: Slot, socket: Socket) -> None:
    """Wait for the connection's end: a dead one must not hold a place."""
    try:
        socket.recv(1)
    except OSError:
        pass  # reset by the server, or closed by keep()
    if (slot, socket) in kept:
        print(f"lost {name(slot)}")
        kept.remove((slot, socket))
        socket.close()


def wait_for(slots: list[int]) -> None:
    while [int(slot) for slot, _ in kept] != slots:
        gevent.sleep(0.01)


def main(addresses: list[str]) -> None:
    servers = dict(map(parse_server, addresses))
    own: dict[str, SlotServer] = {}
    for id in () if addresses else ("a", "b", "c"):
        own[id] = SlotServer(("127.0.0.1", 0), lambda slot, socket, address: socket.recv(1))
        own[id].start()
        servers[id] = {"host": "127.0.0.1", "port": own[id].server_port or 0}

    rover = Rover(servers, roving_interval=0.05)
    rover.on("connection", keep)
    rover.on("unreachable", lambda rover, id, server: print(f"{id} is unreachable"))
    with rover:
        if own:
            wait_for([0, 0, 0])  # each server has only one slot 0
            print("stop a")
            own["a"].stop(timeout=0)
            wait_for([0, 0, 1])
        else:
            gevent.sleep(2)
    print("kept:", ", ".join(name(slot) for slot, _ in kept))
    while kept:
        kept.pop()[1].close()
    for server in own.values():
        server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
