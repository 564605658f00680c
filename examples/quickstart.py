"""The README's first example: a rover, and a slot server for it to find."""

import gevent
from gevent.socket import socket as Socket

from gevent_rover import Rover, Slot, SlotServer

server = SlotServer(("127.0.0.1", 0), lambda slot, socket, address: socket.recv(1))
server.start()
port = int(server.address[1])
rover = Rover({"web1": {"host": "127.0.0.1", "port": port}}, roving_interval=0.1)


@rover.on("connection")
def greet(rover: Rover, slot: Slot, socket: Socket) -> None:
    print(f"slot {slot} of {slot.server_id}")
    socket.close()


rover.on("unreachable", lambda rover, id, server: print(id, "is unreachable"))
with rover:
    gevent.sleep(0.35)
server.stop()
