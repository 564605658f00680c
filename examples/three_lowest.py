"""Keep the three lowest slots in a list: what one does without a pool.

Usage: python examples/three_lowest.py [HOST:PORT …]

Without arguments it starts two slot servers of its own.
"""

from __future__ import annotations

import sys

import gevent
from gevent.socket import socket as Socket

from gevent_rover import Rover, Server, Slot, SlotServer

KEPT = 3

kept: list[tuple[Slot, Socket]] = []


def keep(rover: Rover, slot: Slot, socket: Socket) -> None:
    """Keep a connection if its slot is among the lowest; the receiver owns the socket."""
    kept.append((slot, socket))
    kept.sort(key=lambda pair: pair[0])
    for gone, higher in kept[KEPT:]:
        print(f"close slot {gone} of {gone.server_id}")
        higher.close()
    del kept[KEPT:]
    print("kept:", ", ".join(f"{slot} of {slot.server_id}" for slot, _ in kept))


def main(addresses: list[str]) -> None:
    own = []
    for _ in range(0 if addresses else 2):
        server = SlotServer(("127.0.0.1", 0), lambda slot, socket, address: socket.recv(1))
        server.start()
        own.append(server)
        addresses = [*addresses, f"127.0.0.1:{server.server_port}"]
    servers: dict[str, Server] = {}
    for address in addresses:
        host, _, port = address.rpartition(":")
        servers[address] = {"host": host, "port": int(port)}

    rover = Rover(servers, roving_interval=0.1)
    rover.on("connection", keep)
    rover.on("unreachable", lambda rover, id, server: print(f"{id} is unreachable"))
    with rover:
        gevent.sleep(1.5)
    for _, socket in kept:
        socket.close()
    for server in own:
        server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
