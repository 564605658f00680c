"""A client-side balancer for gevent: the rover, the slot pool and the slot server of Callosum."""

from gevent_rover.errors import (
    InvalidServerError,
    NoServersError,
    PoolClosed,
    PoolError,
    PoolFull,
    PoolTimeout,
    ProtocolError,
    ResourceError,
    RoverError,
    TLSError,
)
from gevent_rover.models import Attempt, Server, Slot
from gevent_rover.policy.choice import Choice, LeaseOutcome, LowestSlot
from gevent_rover.policy.entry import Entry
from gevent_rover.policy.least_loaded import LeastLoaded
from gevent_rover.policy.server_health import ServerHealth
from gevent_rover.policy.slots import Slots
from gevent_rover.pooling.lease import Lease
from gevent_rover.pooling.pool import SlotPool
from gevent_rover.pooling.stats import CloseReason, PoolStats, ServerStats, ServerUse
from gevent_rover.registry import check_server, parse_listener, parse_server
from gevent_rover.relay import Relay
from gevent_rover.roving.rover import Rover
from gevent_rover.roving.supply import Demand, Supply
from gevent_rover.serving.front import Front
from gevent_rover.serving.server import SlotServer
from gevent_rover.signals import attempt, closed, connection, error, unreachable

__all__ = [
    "Attempt",
    "Choice",
    "CloseReason",
    "Demand",
    "Entry",
    "Front",
    "InvalidServerError",
    "Lease",
    "LeaseOutcome",
    "LeastLoaded",
    "LowestSlot",
    "NoServersError",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "PoolStats",
    "PoolTimeout",
    "ProtocolError",
    "Relay",
    "ResourceError",
    "Rover",
    "RoverError",
    "Server",
    "ServerHealth",
    "ServerStats",
    "ServerUse",
    "Slot",
    "SlotPool",
    "SlotServer",
    "Slots",
    "Supply",
    "TLSError",
    "attempt",
    "check_server",
    "closed",
    "connection",
    "error",
    "parse_listener",
    "parse_server",
    "unreachable",
]

__version__ = "0.1.0"
