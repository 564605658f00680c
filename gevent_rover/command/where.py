"""The command's ``WHERE`` arguments: where workers show what they are up to."""

from __future__ import annotations

import argparse
from typing import Final

from gevent_rover.status.where import Where

#: What a ``WHERE`` may be, for a command's help.
WHERES: Final = """\
A WHERE is one of
  http://HOST:PORT/PATH   where an app shows its status (or HOST:PORT alone)
  unix:PATH or PATH       a Unix domain socket
  FOLDER                  all workers that have a socket in it (*.sock)
  GLOB                    any of these, in quotes: '/run/app-*/'
  unix:@NAME              a Unix domain socket with an abstract name (Linux)
Folders and globs are read anew each time: workers may come and go. All workers are
shown as one, and what a worker counted stays in the totals when it's gone.
"""


def add_wheres(parser: argparse.ArgumentParser) -> None:
    """Add where to ask, once or more."""
    parser.add_argument("where", metavar="WHERE", nargs="+", type=_where)


def _where(text: str) -> str:
    try:
        Where(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    return text
