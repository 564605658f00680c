"""gunicorn's settings for the tests' app; ROVER_PATCH_EARLY patches in the master."""

from __future__ import annotations

import os
from typing import Any

if os.environ.get("ROVER_PATCH_EARLY"):
    from gevent import monkey

    monkey.patch_all()

workers = 2
worker_class = "gevent"
graceful_timeout = 10


def post_worker_init(worker: Any) -> None:
    from site_app import rover

    rover.start()


def worker_exit(server: Any, worker: Any) -> None:
    from site_app import pool, rover

    rover.stop()
    pool.close()
