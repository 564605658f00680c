"""A client that leases connections from a pool, for the protocol of slot_server.py.

Usage: python examples/pool_client.py HOST:PORT …
"""

from __future__ import annotations

import sys

import gevent

from gevent_rover import Rover, SlotPool, parse_server


def request(pool: SlotPool, line: str) -> str:
    """Send one request over an idle connection, and return the answer."""
    with pool.lease() as socket:
        socket.sendall(line.encode() + b"\r\n")
        answer = b""
        while not answer.endswith(b"\r\n"):
            chunk = socket.recv(4096)
            if not chunk:
                raise ConnectionResetError("the server hung up")
            answer += chunk
        return answer.decode().rstrip("\r\n")


def main(addresses: list[str]) -> None:
    rover = Rover(dict(map(parse_server, addresses)))
    with rover, SlotPool(rover, max_slots=5) as pool:
        print(request(pool, "SET colour blue"))
        jobs = [gevent.spawn(request, pool, "GET colour") for _ in range(20)]
        print(", ".join(job.get() for job in jobs))
        print(pool)


if __name__ == "__main__":
    main(sys.argv[1:])
