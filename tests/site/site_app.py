"""The app of the gunicorn tests: requests that lease, that are slow, and that fork."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import gevent

from gevent_rover import Rover, SlotPool

rover = Rover(json.loads(os.environ["ROVER_SERVERS"]), roving_interval=0.2)
pool = SlotPool(rover, max_slots=5)
if os.environ.get("ROVER_START_AT_IMPORT"):
    rover.start()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    answer = _ANSWERS[environ["PATH_INFO"]]()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


def _state() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "started": rover.started,
        "pending": rover.pending,
        "size": pool.size,
        "leased": pool.leased,
    }


def _echo(seconds: float = 0.0) -> dict[str, Any]:
    with pool.lease(10) as socket:
        socket.sendall(b"ping")
        gevent.sleep(seconds)
        assert socket.recv(4) == b"ping"
    return _state()


def _fork() -> dict[str, Any]:
    """Fork while a connection is leased; the child tells what it has, and exits."""
    reader, writer = os.pipe()
    with pool.lease(10) as socket:
        pid = os.fork()
        if not pid:
            try:
                # At once, and when the hub ran for long enough to rove, if it did.
                # The child has a copy of gunicorn's own greenlet, too, which looks
                # for its parent once a second and may end it in between.
                for hub_ran in (False, True):
                    if hub_ran:
                        gevent.sleep(0.5)
                    state = _state() | {"fileno": socket.fileno(), "sockets": _inet_sockets()}
                    os.write(writer, json.dumps(state).encode() + b"\n")
            except BaseException:
                os.write(writer, json.dumps(traceback.format_exc()).encode() + b"\n")
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(pid, 0)
        told = os.read(reader, 65536).splitlines()
        os.close(reader)
        socket.sendall(b"ping")
        assert socket.recv(4) == b"ping"
    return {"child": [json.loads(line) for line in told], "parent": _state()}


def _inet_sockets() -> list[str]:
    """Return the connections to a slot server that this process holds a descriptor of."""
    ports = {f"{server['port']:04X}" for server in rover.servers.values()}
    inodes = set()
    with open("/proc/self/net/tcp") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if fields[2].rpartition(":")[2] in ports:
                inodes.add(f"socket:[{fields[9]}]")
    held = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target in inodes:
            held.append(target)
    return held


_ANSWERS: dict[str, Callable[[], Any]] = {
    "/": _echo,
    "/slow": lambda: _echo(1.0),
    "/fork": _fork,
    "/state": _state,
}
