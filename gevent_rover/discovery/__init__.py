"""Servers that are found: in files, in DNS, in ZooKeeper, or by a source of one's own.

The sources of DNS need the extra ``dns``, those of ZooKeeper the extra ``zookeeper``.
"""

from gevent_rover.discovery.announcing import Announcement, announce
from gevent_rover.discovery.feeder import Fed, Feeder, feed
from gevent_rover.discovery.file import FileSource
from gevent_rover.discovery.names import DNSSource, SRVSource
from gevent_rover.discovery.source import Apply, Source, SourceError, address_id
from gevent_rover.discovery.urls import source_from_url
from gevent_rover.discovery.zookeeper import ZooKeeperSource

__all__ = [
    "Announcement",
    "Apply",
    "DNSSource",
    "Fed",
    "Feeder",
    "FileSource",
    "SRVSource",
    "Source",
    "SourceError",
    "ZooKeeperSource",
    "address_id",
    "announce",
    "feed",
    "source_from_url",
]
