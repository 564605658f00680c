"""Contexts for TLS with certificates of a test authority, and a server's side of it by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
import trustme
from gevent import ssl
from gevent.monkey import get_original


def new_context(protocol: Any, kind: str = "gevent") -> Any:
    """Return a context of gevent's class, or of the standard library's."""
    if kind == "gevent":
        return ssl.SSLContext(protocol)
    return get_original("ssl", "SSLContext")(protocol)


def client_context(authority: trustme.CA | None, kind: str = "gevent") -> Any:
    """Return a context that trusts ``authority`` alone."""
    context = new_context(ssl.PROTOCOL_TLS_CLIENT, kind)
    if authority is not None:
        context.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    return context


def server_context(certificate: trustme.LeafCert, kind: str = "gevent") -> Any:
    """Return a context that shows ``certificate`` and asks for none."""
    context = new_context(ssl.PROTOCOL_TLS_SERVER, kind)
    add_certificate(context, certificate)
    return context


def add_certificate(context: Any, certificate: trustme.LeafCert) -> None:
    with certificate.private_key_and_cert_chain_pem.tempfile() as path:
        context.load_cert_chain(path)


def long_ago() -> datetime:
    return datetime(2001, 1, 1, tzinfo=timezone.utc)


def server_flight(context: Any, hello: bytes) -> bytes:
    """Return all that a server says at once to a client's hello."""
    said: list[bytes] = []
    with pytest.raises(EOFError):
        ServerSide(context, said.append, iter([hello, b""]).__next__).shake_hands()
    return b"".join(said)


class ServerSide:
    """TLS of a server, without a socket: what goes in and out is the caller's to carry.

    :param send: takes the bytes that are for the client.
    :param receive: returns the client's next bytes, or none at its end: that is an ``EOFError``.
    """

    def __init__(
        self, context: Any, send: Callable[[bytes], object], receive: Callable[[], bytes]
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._secure = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._send = send
        self._receive = receive

    def shake_hands(self) -> None:
        self._carry(self._secure.do_handshake)

    def write(self, data: bytes) -> None:
        """Say ``data``: one record if it's short."""
        self._carry(lambda: self._secure.write(data))

    def read(self, size: int) -> bytes:
        data = self._carry(lambda: self._secure.read(size))
        assert isinstance(data, bytes)
        return data

    def say_goodbye(self) -> None:
        """End this direction with TLS' own word for it, and don't wait for the client's."""
        try:
            self._secure.unwrap()
        except ssl.SSLWantReadError:
            pass
        self._flush()

    def _carry(self, step: Callable[[], Any]) -> Any:
        """Repeat a step until there's no more that it has to wait for."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._receive()
                if not data:
                    raise EOFError from None
                self._incoming.write(data)
            finally:
                self._flush()  # An alert is there even if the step has failed.

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._send(data)
