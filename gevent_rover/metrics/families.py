"""The instruments of a registry: their names, units and labels, one set for all of its pools."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gevent_rover.metrics.histograms import BUCKETS


class Instrumented(Protocol):
    """A rover and its pool, as their registry knows them."""

    name: str

    @property
    def left_behind(self) -> bool:
        """Whether rover and pool are gone."""

    def watches(self, *things: object) -> bool:
        """Tell whether one of these is its rover or its pool."""

    def carry_over(self) -> None:
        """Bring the instruments up to date."""

    def close(self) -> None:
        """Count no more."""


class Families(Collector):
    """The instruments of one registry, and the pools that they count.

    The names are those of OpenTelemetry's conventions for database clients
    (``db.client.connection.*``) where these have one, with a prefix of our own.

    A scrape of the registry comes here before it comes to the instruments, which are
    brought up to date then.

    :param registry: where they are registered for as long as it lives.
    :raises ValueError: one of the names is taken there.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        # What is instrumented lives on here, even if nobody else keeps it.
        self._by_name: dict[str, Instrumented] = {}
        # First: a registry asks its collectors in the order in which they came.
        registry.register(self)

        def gauge(name: str, help: str, *labels: str) -> Gauge:
            return Gauge(
                f"gevent_rover_{name}",
                help,
                ("pool", *labels),
                registry=registry,
                multiprocess_mode="livesum",  # of the processes that live
            )

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"gevent_rover_{name}", help, ("pool", *labels), registry=registry)

        def histogram(name: str, help: str, *labels: str) -> Histogram:
            return Histogram(
                f"gevent_rover_{name}",
                help,
                ("pool", *labels),
                registry=registry,
                unit="seconds",
                buckets=BUCKETS,
            )

        self.connections = gauge(
            "connection_count", "Connections, by what they are up to.", "server", "state"
        )
        self.max = gauge("connection_max", "Connections that are kept at most.")
        self.idle_min = gauge(
            "connection_idle_min", "Connections that are kept if fewer are needed."
        )
        self.pending_requests = gauge(
            "connection_pending_requests", "Requests that wait for a connection."
        )
        self.timeouts = counter(
            "connection_timeouts", "Requests that had no connection in time (PoolTimeout)."
        )
        self.rejected_requests = counter(
            "connection_rejected_requests",
            "Requests that were not allowed to wait for a connection (PoolFull).",
        )
        self.create_time = histogram(
            "connection_create_time", "How long attempts took that got a connection."
        )
        self.wait_time = histogram(
            "connection_wait_time", "How long requests waited that found no idle connection."
        )
        self.use_time = histogram(
            "connection_use_time", "How long leases took that were answered.", "server"
        )
        self.opened = counter("connection_opened", "Connections that the pool took in.")
        self.closed = counter(
            "connection_closed", "Connections that the pool closed again.", "reason"
        )
        self.leases = counter("leases", "Leases that began.", "server")
        self.lease_failures = counter(
            "lease_failures", "Leases that failed by the server's fault.", "server"
        )
        self.attempts = counter(
            "attempts", "Attempts of the rover to get a connection.", "server", "outcome"
        )
        self.server_state = gauge(
            "server_state", "Processes that see a server in this state.", "server", "state"
        )

    # Whose instruments they are

    def add(self, instrumented: Instrumented, *things: object) -> None:
        """Take in what is to be counted.

        :param things: its rover and its pool.
        :raises ValueError: its name is taken, or one of them is there already.
        """
        for name, other in list(self._by_name.items()):
            if other.left_behind:
                other.close()
            elif other.watches(*things):
                raise ValueError(f"it is instrumented in this registry already, as {name!r}")
        if instrumented.name in self._by_name:
            raise ValueError(
                f"another pool is instrumented as {instrumented.name!r} in this registry:"
                " each needs a name of its own, as in instrument(rover, pool, name='users')"
            )
        self._by_name[instrumented.name] = instrumented

    def remove(self, instrumented: Instrumented) -> None:
        """Forget it. What it counted stays."""
        self._by_name.pop(instrumented.name, None)

    # As a collector, which has nothing of its own

    def collect(self) -> Iterable[Metric]:
        """Bring the instruments up to date that the scrape comes to next."""
        for instrumented in list(self._by_name.values()):
            instrumented.carry_over()
        return ()

    def describe(self) -> Iterable[Metric]:
        return ()


_by_registry: Final[weakref.WeakKeyDictionary[CollectorRegistry, Families]] = (
    weakref.WeakKeyDictionary()
)


def families_of(registry: CollectorRegistry) -> Families:
    """Return the instruments of a registry, which are made for its first pool.

    :raises ValueError: one of their names is taken in the registry.
    """
    families = _by_registry.get(registry)
    if families is None:
        families = _by_registry[registry] = Families(registry)
    return families


def carry_all_over() -> None:
    """Bring the instruments of all registries of this process up to date."""
    for families in list(_by_registry.values()):
        families.collect()
