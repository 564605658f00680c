"""The command's options for TLS, and the contexts that they stand for."""

from __future__ import annotations

import argparse
from typing import Any

from gevent import ssl

from gevent_rover.errors import InvalidServerError
from gevent_rover.models import Server
from gevent_rover.registry import check_server


class BadOption(Exception):
    """An option that can't be used; the message names it."""


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Add what a client can be told about TLS."""
    group = parser.add_argument_group("TLS")
    group.add_argument("--tls", action="store_true", help="speak TLS with every server")
    group.add_argument(
        "--ca", metavar="FILE", help="trust these certificates, not the system's authorities"
    )
    group.add_argument("--cert", metavar="FILE", help="show this certificate if a server asks")
    group.add_argument("--key", metavar="FILE", help="its key, if that isn't in the same file")
    group.add_argument(
        "--server-hostname",
        metavar="NAME",
        help="the name that the certificates must have (default: each server's HOST)",
    )


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add what a server can be told about TLS."""
    group = parser.add_argument_group("TLS")
    group.add_argument("--tls", action="store_true", help="speak TLS; needs --cert")
    group.add_argument("--cert", metavar="FILE", help="the certificate, and those it depends on")
    group.add_argument("--key", metavar="FILE", help="its key, if that isn't in the same file")
    group.add_argument(
        "--ca", metavar="FILE", help="serve only clients with a certificate of these authorities"
    )


def with_hostname(id: str, server: Server, options: argparse.Namespace) -> Server:
    """Return the entry ``server`` with the name that its certificate must have.

    :raises BadOption: it can't have this one, or it's a path without any.
    """
    if options.server_hostname is None:
        if options.tls and "path" in server:
            raise BadOption(f"argument SERVER: TLS with {id!r} needs --server-hostname")
        return server
    named: Server = {**server, "server_hostname": options.server_hostname}
    try:
        check_server(named, id)
    except InvalidServerError as exc:
        raise BadOption(f"argument --server-hostname: {exc}") from exc
    return named


def client_context(options: argparse.Namespace) -> Any:
    """Return the context of a client with these options; None without ``--tls``.

    :raises BadOption: a file can't be used, or an option needs another one.
    """
    _check(options, "ca", "cert", "key", "server_hostname")
    if not options.tls:
        return None
    if options.ca is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load_authorities(context, options.ca)
    if options.cert is not None:
        _load_certificate(context, options.cert, options.key)
    return context


def server_context(options: argparse.Namespace) -> Any:
    """Return the context of a server with these options; None without ``--tls``.

    :raises BadOption: a file can't be used, or an option needs another one.
    """
    _check(options, "ca", "cert", "key")
    if not options.tls:
        return None
    if options.cert is None:
        raise BadOption("argument --tls: needs --cert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_certificate(context, options.cert, options.key)
    if options.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, options.ca)
    return context


def _check(options: argparse.Namespace, *names: str) -> None:
    # Ignored silently, they would leave somebody without the TLS they think they have.
    for name in names:
        if getattr(options, name) is not None and not options.tls:
            raise BadOption(f"argument --{name.replace('_', '-')}: needs --tls")
    if options.key is not None and options.cert is None:
        raise BadOption("argument --key: needs --cert")


def _load_authorities(context: Any, path: str) -> None:
    _check_file("--ca", path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as exc:
        raise BadOption(f"argument --ca: no certificates in {path!r}{_why(exc)}") from exc


def _load_certificate(context: Any, path: str, key_path: str | None) -> None:
    _check_file("--cert", path)
    if key_path is not None:
        _check_file("--key", key_path)
    try:
        context.load_cert_chain(path, key_path)
    except ssl.SSLError as exc:
        found = f"{path!r} and its key" if key_path is None else f"{path!r} with key {key_path!r}"
        raise BadOption(f"argument --cert: can't use {found}{_why(exc)}") from exc


def _check_file(option: str, path: str) -> None:
    # OpenSSL's own errors don't tell which of two files it was.
    try:
        with open(path, "rb"):
            pass
    except OSError as exc:
        raise BadOption(f"argument {option}: can't read {path!r}: {exc.strerror}") from exc


def _why(exc: ssl.SSLError) -> str:
    reason = exc.reason or ""
    return f" ({reason.replace('_', ' ').lower()})" if reason else ""
