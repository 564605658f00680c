"""gunicorn's settings for app.py: two gevent workers, each with a rover and a pool of its own."""

from __future__ import annotations

import os
from typing import Any

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = 2
worker_class = "gevent"


def post_worker_init(worker: Any) -> None:
    """Start roving: the worker is patched by now, and has loaded the app."""
    from app import rover

    rover.start()


def worker_exit(server: Any, worker: Any) -> None:
    """Give every slot back: gunicorn drops greenlets at exit, without their ``finally``."""
    from app import pool, rover

    rover.stop()
    pool.close()
