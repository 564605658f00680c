"""A WSGI app whose servers are found in ZooKeeper.

Run it from this folder:  gunicorn -c zookeeper_conf.py zookeeper_app:application

It needs pip install 'gevent_rover[zookeeper]' 'gunicorn[gevent]'. ZOOKEEPER names the servers'
node, as in ZOOKEEPER=zk://127.0.0.1:2181/echo. ``gevent-rover serve --announce
zk://127.0.0.1:2181/echo`` is a server that puts itself there.

Rover, pool and feeder are made at import, which starts nothing, in a worker as in the master
that preloads; zookeeper_conf.py starts and stops them in each worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from gevent_rover import PoolTimeout, Rover, SlotPool
from gevent_rover.discovery import Feeder, source_from_url

rover = Rover()
rover.on("error", lambda rover, error: None)  # No servers yet, say: the pool tells, too.
pool = SlotPool(rover, max_slots=int(os.environ.get("MAX_SLOTS", "5")))
source = source_from_url(os.environ.get("ZOOKEEPER", "zk://127.0.0.1:2181/echo"))
feeder = Feeder(rover, source)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Have a server echo the request's path."""
    question = environ["PATH_INFO"].encode("latin-1")
    try:
        with pool.lease() as socket:
            socket.sendall(question)
            answer = b""
            while len(answer) < len(question):
                chunk = socket.recv(4096)
                if not chunk:
                    raise ConnectionResetError("the server hung up")
                answer += chunk
    except (PoolTimeout, OSError) as exc:
        start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
        return [f"{exc}\n".encode()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer]
