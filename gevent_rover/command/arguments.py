"""The types of the command's arguments: texts in, values out, an error that names the culprit."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable

from gevent_rover.discovery.source import Source
from gevent_rover.discovery.urls import is_source_url, source_from_url, zookeeper_path
from gevent_rover.errors import InvalidServerError
from gevent_rover.extras import extra
from gevent_rover.models import Server
from gevent_rover.registry import parse_listener, parse_listener_or_path, parse_server


def server(text: str) -> tuple[str, Server]:
    """Return the id and the entry that a ``SERVER`` stands for.

    :raises argparse.ArgumentTypeError: it stands for none; the message names it.
    """
    try:
        return parse_server(text)
    except InvalidServerError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def server_or_source(text: str) -> tuple[str, Server] | Source:
    """Return what a ``SERVER`` stands for: an id and an entry, or a source of these.

    :raises argparse.ArgumentTypeError: it stands for none, or its extra isn't installed;
        the message names it.
    """
    if not is_source_url(text):
        return server(text)
    try:
        return source_from_url(text)
    except (ValueError, ImportError) as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def zookeeper_url(text: str) -> tuple[str, str]:
    """Return the hosts and the path of a ``zk://`` URL, where to announce a server.

    :raises argparse.ArgumentTypeError: it isn't one, or the extra isn't installed.
    """
    try:
        extra("kazoo", "zookeeper", "--announce")
        return zookeeper_path(text)
    except (ValueError, ImportError) as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def listener(text: str) -> tuple[str, int]:
    """Return the host and the port of a ``HOST:PORT`` where to listen.

    :raises argparse.ArgumentTypeError: it isn't one; the message names it.
    """
    try:
        return parse_listener(text)
    except InvalidServerError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def listener_or_path(text: str) -> tuple[str, int] | str:
    """Return the host and the port of a ``HOST:PORT`` where to listen, or a ``unix:`` path.

    :raises argparse.ArgumentTypeError: it's neither; the message names it.
    """
    try:
        return parse_listener_or_path(text)
    except InvalidServerError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def number(least: float, most: float) -> Callable[[str], float]:
    """Return a type that takes numbers from ``least`` to ``most``."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"expected a number from {least:g} to {most:g}, got {text!r}"
            )
        return value

    return number


def integer(least: int, most: int = 10**9) -> Callable[[str], int]:
    """Return a type that takes whole numbers from ``least`` to ``most``."""

    def integer(text: str) -> int:
        if re.fullmatch("[0-9]{1,18}", text) is None or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to {most}, got {text!r}"
            )
        return int(text)

    return integer
