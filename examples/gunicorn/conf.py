"""gunicorn's settings for app.py: two gevent workers, each with a rover and a pool of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = 2
worker_class = "gevent"

# Where all workers put what they show and what they count, as long as this gunicorn runs:
# a reload reads this file again. The environment says it to the workers, and to the client
# library of Prometheus.
if os.environ.get("ROVER_MASTER") != str(os.getpid()):
    folder = tempfile.mkdtemp(prefix="gunicorn-")
    os.environ |= {
        "ROVER_MASTER": str(os.getpid()),
        "ROVER_STATUS": os.path.join(folder, "status"),
        "PROMETHEUS_MULTIPROC_DIR": folder,
    }


def post_worker_init(worker: Any) -> None:
    """Start roving: the worker is patched by now, and has loaded the app."""
    from app import rover, status_server

    rover.start()
    status_server.start()


def worker_exit(server: Any, worker: Any) -> None:
    """Give every slot back: gunicorn drops greenlets at exit, without their ``finally``."""
    from app import pool, rover, status_server

    status_server.stop()
    rover.stop()
    pool.close()


def on_exit(server: Any) -> None:
    """Leave nothing behind."""
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
