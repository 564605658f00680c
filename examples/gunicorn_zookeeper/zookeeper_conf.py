"""gunicorn's settings for zookeeper_app.py: two gevent workers, each following ZooKeeper."""

from __future__ import annotations

import os
from typing import Any

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = 2
worker_class = "gevent"


def post_worker_init(worker: Any) -> None:
    """Follow ZooKeeper, and rove: the worker is patched by now, and has loaded the app."""
    from zookeeper_app import feeder, rover

    feeder.start()
    rover.start()


def worker_exit(server: Any, worker: Any) -> None:
    """End the session and give every slot back: gunicorn drops greenlets at exit."""
    from zookeeper_app import feeder, pool, rover

    feeder.stop()
    rover.stop()
    pool.close()
