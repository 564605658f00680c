"""A client-side balancer for gevent: the rover, the slot pool and the slot server of Callosum."""

from gevent_rover.errors import (
    InvalidServerError,
    NoServersError,
    PoolClosed,
    PoolError,
    PoolTimeout,
    ProtocolError,
    ResourceError,
    RoverError,
    TLSError,
)
from gevent_rover.pool import SlotPool
from gevent_rover.registry import Server
from gevent_rover.rover import Rover
from gevent_rover.server import SlotServer
from gevent_rover.signals import Attempt, Slot, attempt, connection, error, unreachable
from gevent_rover.slots import Slots

__all__ = [
    "Attempt",
    "InvalidServerError",
    "NoServersError",
    "PoolClosed",
    "PoolError",
    "PoolTimeout",
    "ProtocolError",
    "ResourceError",
    "Rover",
    "RoverError",
    "Server",
    "Slot",
    "SlotPool",
    "SlotServer",
    "Slots",
    "TLSError",
    "attempt",
    "connection",
    "error",
    "unreachable",
]

__version__ = "0.1.0"
