"""A WSGI app for a scrape: what this process exports, or all workers of its server together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gevent import get_hub
from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app, multiprocess
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gevent_rover.metrics.families import carry_all_over
from gevent_rover.metrics.recording import folder

# It has no annotations.
_multiprocess: Any = multiprocess

_App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def metrics_app(registry: CollectorRegistry | None = None) -> _App:
    """Return a WSGI app that answers a scrape, on any path.

    With ``PROMETHEUS_MULTIPROC_DIR`` in the environment it answers for all processes that
    put their values into that folder, whichever is asked. Gauges of those that have ended
    are left out, however they ended; what they counted stays.

    :param registry: what a process exports that is the only one. Default: the client
        library's own.
    """
    own = REGISTRY if registry is None else registry

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        values = folder()
        if values is None:
            here: Iterable[bytes] = make_wsgi_app(own)(environ, start_response)
            return here
        carry_all_over()
        forget_dead_processes(values)
        workers = CollectorRegistry()
        workers.register(_Workers(values))
        said: list[tuple[Any, ...]] = []
        # 200 servers and 8 workers are 0.15 s of work: not in the hub's thread.
        answer: Iterable[bytes] = get_hub().threadpool.apply(
            make_wsgi_app(workers), (environ, lambda *said_now: said.append(said_now))
        )
        start_response(*said[0])
        return answer

    return app


class _Workers(Collector):
    """What all processes export that put their values into a folder.

    The client library's own collector fails while a process is making its files: for a
    moment they are empty.
    """

    def __init__(self, values: str) -> None:
        self._values = Path(values)

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in self._values.glob("*.db") if _size_of(path)]
        found: Iterable[Metric] = _multiprocess.MultiProcessCollector.merge(files)
        return found


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # Its process has ended.
        return 0


def forget_dead_processes(values: str) -> None:
    """Remove the gauges of processes that have ended, and of which nobody said so.

    gunicorn's ``child_exit`` may say so; a SIGKILL of the whole server leaves nobody who does.

    :param values: the folder.
    """
    for path in Path(values).glob("gauge_live*_*.db"):
        found = re.search(r"_(\d+)\.db$", path.name)
        if found is not None and not _lives(int(found[1])):
            with suppress(FileNotFoundError):  # Another worker is asked at the same time.
                _multiprocess.mark_process_dead(int(found[1]), values)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as exc:
        return not isinstance(exc, ProcessLookupError)  # Else it's somebody else's.
    return True
