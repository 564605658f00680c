"""A process of servers with faults, of each kind one per loopback address.

Prints a line of JSON: ``servers`` maps a kind to its entries of the registry,
``authority`` is the certificate that TLS is to trust. Ends with its standard input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import gevent
import trustme
from certificates import server_context
from conftest import RESET
from gevent import socket
from gevent.fileobject import FileObject
from gevent.server import StreamServer

#: More than one, so that no address and port has connections by the ten thousand: the
#: ports that they come from would run out.
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")


def says(*pieces: bytes, then: str = "nothing") -> Callable[[Any], None]:
    def talk(sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
            gevent.sleep(0)
        if then == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif then != "close":
            while sock.recv(1024):
                pass

    return talk


def over_tls(context: Any, talk: Callable[[Any], None]) -> Callable[[Any], None]:
    def talk_tls(sock: Any) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            talk(secure)

    return talk_tls


def main() -> None:
    authority = trustme.CA()
    trusted = server_context(authority.issue_cert(*ADDRESSES))
    untrusted = server_context(trustme.CA().issue_cert(*ADDRESSES))
    talks = {
        "slot": says(b"13\r\n"),
        "pieces": says(b"1", b"3", b"\r", b"\n"),
        "surplus": says(b"13\r\nHELLO"),
        "silent": says(),
        "eof": says(then="close"),
        "eof within": says(b"13", then="close"),
        "reset": says(then="reset"),
        "reset within": says(b"13", then="reset"),
        "garbage": says(b"SSH-2.0-OpenSSH_9.6\r\n"),
        "TLS": over_tls(trusted, says(b"13\r\n")),
        "TLS untrusted": over_tls(untrusted, says(b"13\r\n")),
        "TLS eof": over_tls(trusted, says(then="close")),
    }
    entries: dict[str, list[Any]] = {kind: [] for kind in ("refused", *talks)}
    refusing = []
    for address in ADDRESSES:
        for kind, talk in talks.items():

            def handle(sock: Any, peer: object, talk: Callable[[Any], None] = talk) -> None:
                try:
                    talk(sock)
                except OSError:
                    pass

            server = StreamServer((address, 0), handle, backlog=1000)
            server.start()
            entries[kind].append({"host": address, "port": server.server_port})
        sock = socket.socket()
        sock.bind((address, 0))  # and doesn't listen
        refusing.append(sock)
        entries["refused"].append({"host": address, "port": sock.getsockname()[1]})
    print(
        json.dumps({"servers": entries, "authority": authority.cert_pem.bytes().decode()}),
        flush=True,
    )
    FileObject(sys.stdin.fileno(), "rb", closefd=False).read()


if __name__ == "__main__":
    main()
