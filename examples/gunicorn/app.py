"""A WSGI app that asks a line-based service through a slot pool, and shows how that goes.

Run it from this folder:  gunicorn -c conf.py app:application

The rover and the pool are made at import, which starts nothing; conf.py starts and
stops the rover in each worker. SERVERS names the slot servers, as in
SERVERS=127.0.0.1:7000,127.0.0.1:7001 (``gevent-rover serve 127.0.0.1:7000`` is one).

At /status/ is the page of all workers, at /metrics what Prometheus scrapes (it takes
``pip install 'gevent_rover[metrics]'``). Anybody may see both here: on a network, mount
them where your app knows who asks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import shift_path_info

from gevent_rover import PoolTimeout, Rover, SlotPool, parse_server
from gevent_rover.metrics import instrument, metrics_app
from gevent_rover.status import StatusServer, status_app

servers = dict(map(parse_server, os.environ.get("SERVERS", "127.0.0.1:7000").split(",")))
rover = Rover(servers)
pool = SlotPool(rover, max_slots=int(os.environ.get("MAX_SLOTS", "5")))

# Each worker shows itself at a socket in this folder, so that any of them can show all.
FOLDER = f"unix:{os.environ['ROVER_STATUS']}/"
status_server = StatusServer(rover, pool, FOLDER)
instrument(rover, pool)

MOUNTED: dict[str, Callable[..., Iterable[bytes]]] = {
    "status": status_app(rover, pool, workers=FOLDER),
    "metrics": metrics_app(),
}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with the page, the metrics, or what a server says."""
    app = MOUNTED.get(environ["PATH_INFO"].strip("/").partition("/")[0])
    if app is None:
        return ask(environ, start_response)
    shift_path_info(environ)  # The rest of the path is the app's.
    return app(environ, start_response)


def ask(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Send the request's path to a server, and answer with what it says."""
    line = environ["PATH_INFO"].encode("latin-1") + b"\r\n"
    try:
        with pool.lease() as socket:
            socket.sendall(line)
            answer = b""
            while not answer.endswith(b"\r\n"):
                chunk = socket.recv(4096)
                if not chunk:
                    raise ConnectionResetError("the server hung up")
                answer += chunk
    except (PoolTimeout, OSError) as exc:
        start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
        return [f"{exc}\n".encode()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer]
