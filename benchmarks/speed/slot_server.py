"""``python -m benchmarks.speed.slot_server``: says slot 7 to whoever connects, and polls meanwhile.

It isn't measured, its clients are. A server that sleeps between events has to
be woken, and the kernel charges the waking to the client whose packet does it.
So it polls while there is something to do, in a process of its own, and sleeps
only once nobody has come for a while.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from time import monotonic

from benchmarks.loopback import addresses_of, listen

SLOT_LINE = b"7\r\n"


def main() -> None:
    listeners: dict[int, socket.socket] = {}
    for listener in listen():
        listener.setblocking(False)
        listeners[listener.fileno()] = listener
    epoll = select.epoll()
    for descriptor in [*listeners, sys.stdin.fileno()]:
        epoll.register(descriptor, select.EPOLLIN)
    print(json.dumps(addresses_of(list(listeners.values()))), flush=True)
    latest = monotonic()
    while True:
        events = epoll.poll(0 if monotonic() < latest + 0.05 else 0.5)
        if events:
            latest = monotonic()
        for descriptor, _ in events:
            if descriptor in listeners:
                _accept(listeners[descriptor], epoll)
            elif descriptor == sys.stdin.fileno():
                return
            else:
                os.close(descriptor)  # The client's end is all that ever arrives.


def _accept(listener: socket.socket, epoll: select.epoll) -> None:
    while True:
        try:
            # Descriptors, not sockets: clients mustn't wait for this process.
            descriptor, _ = listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        os.write(descriptor, SLOT_LINE)
        epoll.register(descriptor, select.EPOLLIN)


if __name__ == "__main__":
    main()
