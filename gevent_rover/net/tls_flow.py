"""A flow of bytes of which one side or both speak TLS."""

from __future__ import annotations

from typing import Any, Final

from gevent import ssl

from gevent_rover.net.pump import Flow, Pump
from gevent_rover.net.sockets import raw_of, unread

_WAITS: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class TLSFlow(Flow):
    """Passes on what was, or is to be, encrypted.

    TLS ends a half with a ``close_notify``, after which the other side may still speak.
    """

    __slots__ = ("end_is_due",)

    waits = _WAITS
    # Older versions of gevent do, behind a close_notify of ours.
    ends = ssl.SSLZeroReturnError

    def __init__(self, pump: Pump, source: Any, target: Any, buffer: bytearray) -> None:
        super().__init__(pump, source, target, buffer)
        #: Whether the target has yet to be told that the source has ended.
        self.end_is_due = False

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
        self._help_back()

    def on_writable(self) -> None:
        super().on_writable()
        self._help_back()

    def _help_back(self) -> None:
        back: Any = self.back
        if back.end_is_due and not self.pump.over:
            back.say_end()

    def end_target(self) -> None:
        if isinstance(self.target, ssl.SSLSocket):
            self.end_is_due = True
            self.say_end()
        else:
            super().end_target()

    def say_end(self) -> None:
        """Say ``close_notify``, unless the target has something to say that isn't read yet.

        OpenSSL says it and goes on to read, and what it finds then is lost.
        """
        try:
            if self.back.rest or (not self.back.ended and self._has_unread()):
                return
            self.end_is_due = False
            self.target.unwrap()
        except _WAITS:
            return  # It's told; its own close_notify is yet to come.
        except (OSError, ValueError):
            self.pump.lost(self.target)
            return
        # It had said the same, and that was read just now.
        self.back.source_ended()

    def _has_unread(self) -> bool:
        return self.target.pending() > 0 or unread(self.target) is not None

    def finish(self) -> None:
        if self.end_is_due:
            self.end_is_due = False
            try:
                self.target.unwrap()
            except (OSError, ValueError):
                pass  # Nobody listens any more.
