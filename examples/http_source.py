"""A source of one's own: servers that an HTTP endpoint knows, as JSON.

Run it with the URL of a list of texts, ["10.0.0.1:7000", …], to see what it finds.
"""

from __future__ import annotations

import json
import sys
from http.client import HTTPConnection
from urllib.parse import urlsplit

import gevent
from gevent import socket

from gevent_rover import Rover, parse_server
from gevent_rover.discovery import Apply, SourceError, feed


class HTTPSource:
    """Asks an HTTP endpoint for servers again and again.

    :param url: of a JSON list of servers, as :func:`parse_server` takes them.
    :param interval: seconds from one question to the next.
    """

    def __init__(self, url: str, interval: float = 10.0) -> None:
        self.url = url
        self.interval = interval

    def __repr__(self) -> str:
        return f"HTTPSource({self.url!r})"

    def run(self, apply: Apply) -> None:
        """Ask, and tell what was answered; the feeder asks for nothing else."""
        while True:
            apply(dict(map(parse_server, json.loads(self.ask()))))
            gevent.sleep(self.interval)

    def ask(self) -> bytes:
        """Return what the endpoint answers.

        :raises SourceError: it answers an error; OSError: it can't be reached.
        """
        parts = urlsplit(self.url)
        address = parts.hostname or "localhost", parts.port or 80
        with (
            gevent.Timeout(5, SourceError(f"{self.url} doesn't answer")),
            # gevent's socket: the client's own would block an unpatched process.
            socket.create_connection(address) as sock,
        ):
            client = HTTPConnection(parts.netloc)
            client.sock = sock
            client.request("GET", parts.path or "/")
            response = client.getresponse()
            if response.status != 200:
                raise SourceError(f"{self.url} answers {response.status} {response.reason}")
            return response.read()


if __name__ == "__main__":
    rover = Rover()
    with feed(rover, HTTPSource(sys.argv[1], interval=1.0)) as feeder:
        for _ in range(50):
            gevent.sleep(0.1)
            if rover.servers:
                break
        print(feeder, *rover.servers)
