"""A flow of bytes of which one side or both speak TLS."""

from __future__ import annotations

from typing import Any, Final

from gevent import ssl

from gevent_rover.net.pump import Flow
from gevent_rover.net.sockets import raw_of

_WAITS: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class TLSFlow(Flow):
    """Passes on what was, or is to be, encrypted.

    TLS has no half-close that all understand: a side that is to hear no more gets a
    ``close_notify``, after which it may still speak.
    """

    __slots__ = ()

    waits = _WAITS

    def methods_of(self, sock: Any) -> Any:
        if not isinstance(sock, ssl.SSLSocket):
            return raw_of(sock)
        sock.settimeout(0.0)
        return sock

    def start(self) -> None:
        super().start()
        # What came in one record with the slot line isn't in the kernel any more.
        self.on_readable()

    def on_readable(self) -> None:
        super().on_readable()
        # What TLS itself had to read may be what the other direction waited for.
        if self.back.rest:
            self.back.on_writable()

    def end_target(self) -> None:
        if not isinstance(self.target, ssl.SSLSocket):
            super().end_target()
            return
        try:
            self.target.unwrap()
        except _WAITS:
            pass  # It's told; its own close_notify is yet to come.
