"""TLS on gevent sockets, in patched and unpatched processes alike."""

from __future__ import annotations

import errno
from typing import Any, Final

from gevent import socket as gevent_socket
from gevent import ssl
from gevent.monkey import get_original

from gevent_rover.net.sockets import UNASKED

SSLError = ssl.SSLError

# What wrap() does instead, in patched and unpatched processes alike.
_WRAPPERS: Final = (ssl.SSLContext.wrap_socket, get_original("ssl", "SSLContext").wrap_socket)
_SOCKETS: Final = (ssl.SSLSocket, get_original("ssl", "SSLSocket"))


def check_client_context(context: Any) -> None:
    """Check that ``context`` can be used for the client's side.

    :raises TypeError: it isn't an ``SSLContext`` of the standard library or of
        gevent, is one for servers only, or wraps sockets in a way of its own.
    """
    _check_context(context, "client", server_hostname="localhost")


def check_server_context(context: Any) -> None:
    """Check that ``context`` can be used for the server's side.

    :raises TypeError: as :func:`check_client_context`, or it is one for clients only.
    """
    _check_context(context, "server", server_side=True)


def _check_context(context: Any, side: str, **options: Any) -> None:
    # The base class of gevent's; and what gevent.ssl.create_default_context()
    # returns in an unpatched process.
    if not isinstance(context, get_original("ssl", "SSLContext")):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, got {context!r}")
    for name, known in (("wrap_socket", _WRAPPERS), ("sslsocket_class", _SOCKETS)):
        own = getattr(context, name)
        if getattr(own, "__func__", own) not in known:
            # It may check more than we know of (pinning), and nothing would say that
            # it never ran.
            raise TypeError(
                f"ssl_context has a {name} of its own, {own!r}, which can't be used here:"
                " take a context without, and check the peer in a receiver of connection"
            )
    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), **options)
    except ssl.SSLError as exc:
        raise TypeError(f"ssl_context can't be used by a {side}: {exc}") from exc


def server_context(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    """Return a context for a server that shows a certificate and asks for none.

    :raises OSError: the files can't be read, or aren't a certificate and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile, keyfile)
    return context


def wrap(sock: gevent_socket.socket, context: Any, **options: Any) -> ssl.SSLSocket:
    """Wrap a connected gevent socket, without a handshake yet.

    Takes the descriptor over, and closes it if that fails.

    Not ``context.wrap_socket``: with a context of the standard library that
    would be a socket whose handshake blocks the hub. ``_context`` is what
    gevent's own ``SSLContext.wrap_socket`` passes.

    :raises OSError: the peer is gone already.
    """
    secure = ssl.SSLSocket.__new__(ssl.SSLSocket)
    try:
        ssl.SSLSocket.__init__(
            secure, sock, _context=context, do_handshake_on_connect=False, **options
        )
    except BaseException:
        if sock.fileno() < 0:
            # Taken over already, and not closed by gevent with every error: the
            # traceback would keep it open.
            secure.close()
        raise
    return secure


def what_arrived_in(sock: Any) -> str | None:
    """Return what a TLS connection has to say, data or its end, in words; None: it's silent.

    What makes it readable may be a session ticket or a key update, which
    reading takes in without a byte of data. One on which TLS was ended
    (``unwrap()``) isn't silent: its next user must not speak without it.
    It may take a byte of what there is to read. Doesn't switch.
    """
    if isinstance(sock, ssl.SSLSocket) and sock.version() is None:
        return "TLS was ended on it"
    timeout = sock.gettimeout()
    sock.settimeout(0.0)
    try:
        data = sock.recv(1)
    except (ssl.SSLWantReadError, BlockingIOError):
        return None
    except OSError as exc:
        return f"it ended ({exc.strerror or exc})"
    finally:
        sock.settimeout(timeout)
    return UNASKED if data else "it ended"


def is_unreachable(error: ssl.SSLError) -> bool:
    """Tell whether a handshake ended without a word of TLS: an end or a reset, no refusal."""
    if error.errno == errno.ENOTCONN:  # Reset before it was wrapped.
        return True
    return isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError))
