"""The command's ``SERVER`` arguments: the registry and the sources that they stand for."""

from __future__ import annotations

import argparse
from typing import Final

from gevent_rover.command import arguments, tls
from gevent_rover.discovery.source import Source
from gevent_rover.models import Server

#: What a ``SERVER`` may be, for a command's help.
SERVERS: Final = """\
A SERVER is one of
  HOST:PORT       a name or an IPv4 address
  [IPv6]:PORT     an IPv6 address
  unix:PATH       a Unix domain socket
  unix:@NAME      a Unix domain socket with an abstract name (Linux)
each with ID= in front, if it's to have another id than its own text; an ID
doesn't begin with "unix:". Or it's the URL of a source, which is followed:
  file:///PATH                a server on each line, or JSON: {"ID": {"host", "port"}}
  dns://NAME:PORT             all addresses of a name, again after their TTL
  dns+srv://_SVC._tcp.NAME    the SRV records of a service
  zk://HOST:PORT/PATH         the children of a ZooKeeper node; HOST:PORT may be several,
                              with commas
dns:// and dns+srv:// need the extra "dns" (pip install 'gevent_rover[dns]'),
zk:// the extra "zookeeper".
"""


def add_servers(parser: argparse.ArgumentParser) -> None:
    """Add the servers, one or more."""
    parser.add_argument("server", metavar="SERVER", nargs="+", type=arguments.server_or_source)


def registry_of(options: argparse.Namespace) -> dict[str, Server]:
    """Return the entries that are given one by one. A duplicate id is an error of the command's."""
    servers: dict[str, Server] = {}
    for each in options.server:
        if not isinstance(each, tuple):
            continue
        id, server = each
        if id in servers:
            options.parser.error(f"argument SERVER: duplicate ID {id!r}")
        servers[id] = tls.with_hostname(id, server, options)
    return servers


def sources_of(options: argparse.Namespace) -> list[Source]:
    """Return the sources that are given."""
    return [each for each in options.server if not isinstance(each, tuple)]
