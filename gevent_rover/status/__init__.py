"""What a client is up to, for people and programs that watch: a page, and JSON."""

from gevent_rover.status.app import StatusApp, status_app
from gevent_rover.status.server import PageServer, StatusServer
from gevent_rover.status.snapshot import Snapshot, snapshot

__all__ = ["PageServer", "Snapshot", "StatusApp", "StatusServer", "snapshot", "status_app"]
