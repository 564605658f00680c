"""gunicorn's settings: a single worker, so that a request can turn its instruments on and off."""

from __future__ import annotations

from typing import Any

workers = 1
worker_class = "gevent"


def post_worker_init(worker: Any) -> None:
    from benchmarks.metrics.app import rover

    rover.start()
