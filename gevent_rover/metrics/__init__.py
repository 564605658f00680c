"""Prometheus instruments of a rover and its pool: ``pip install 'gevent_rover[metrics]'``."""

from gevent_rover.extras import extra

extra("prometheus_client", "metrics", __name__)  # Before the modules that import it.

from gevent_rover.metrics.app import metrics_app  # noqa: E402
from gevent_rover.metrics.instruments import Instruments, instrument  # noqa: E402

__all__ = ["Instruments", "instrument", "metrics_app"]
