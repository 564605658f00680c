"""The ``gevent-rover`` command: its subcommands, logging, POSIX signals."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import gevent
from gevent import monkey
from gevent.event import Event

from gevent_rover import __version__
from gevent_rover.command import demo, front, page, relay, rove, serve, top
from gevent_rover.command.console import Output, printable
from gevent_rover.command.tls import BadOption
from gevent_rover.net.forks import check_loop

_LEVELS: Final = (logging.ERROR, logging.INFO, logging.DEBUG)
# What runs for long says in its log what a person should know.
_WARN: Final = (logging.WARNING, logging.INFO, logging.DEBUG)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its process is its own, hence the monkey-patching.

    :param argv: the arguments without the command's name (default: the process's own).
    :returns: the exit code. A bad argument is a :class:`SystemExit` with code 2, and so
        is an event loop of gevent's that can't be used.
    """
    monkey.patch_all()
    return run(argv)


def run(argv: Sequence[str] | None = None) -> int:
    """Do what :func:`main` does, without monkey-patching."""
    options, unknown = _parser().parse_known_args(argv)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        check_loop()
    except RuntimeError as exc:
        options.parser.error(str(exc))
    louder = options.verbose + options.verbose_too
    level = options.levels[min(louder, len(options.levels) - 1)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    done = Event()
    output = Output(done)
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, done.set)
    try:
        code: int = options.command(options, output, done)
    except BadOption as exc:
        options.parser.error(str(exc))
    if output.failure is not None:
        options.parser.report(f"can't write the output: {output.failure.strerror}")
        return 1
    return code


class _Parser(argparse.ArgumentParser):
    """Says what's wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.report(message)
        sys.exit(2)

    def report(self, message: str) -> None:
        """Write one line on standard error."""
        print(f"{self.prog}: {printable(message)}", file=sys.stderr)


def _parser() -> _Parser:
    parser = _Parser(
        prog="gevent-rover",
        description="Rove servers for their lowest slots, or be such a server; and take part"
        " with servers and clients that know nothing of slots.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gevent-rover {__version__}")
    louder = "log to standard error what changes; -vv: everything"
    parser.add_argument("-v", "--verbose", action="count", default=0, help=louder)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str,
        function: Callable[..., int],
        levels: tuple[int, ...] = _LEVELS,
        **texts: Any,
    ) -> _Parser:
        added: _Parser = commands.add_parser(
            name,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **texts,
        )
        added.set_defaults(command=function, parser=added, levels=levels)
        added.add_argument(
            "-v", "--verbose", dest="verbose_too", action="count", default=0, help=louder
        )
        return added

    demo.add_options(command("demo", demo.run, help=demo.HELP))
    rove.add_options(command("rove", rove.run, help=rove.HELP, epilog=rove.EPILOG))
    serve.add_options(command("serve", serve.run, help=serve.HELP))
    texts = {"help": front.HELP, "epilog": front.EPILOG}
    front.add_options(command("front", front.run, _WARN, **texts))
    texts = {"help": relay.HELP, "epilog": relay.EPILOG}
    relay.add_options(command("relay", relay.run, _WARN, **texts))
    top.add_options(command("top", top.run, help=top.HELP, epilog=top.EPILOG))
    page.add_options(command("page", page.run, _WARN, help=page.HELP, epilog=page.EPILOG))
    return parser
