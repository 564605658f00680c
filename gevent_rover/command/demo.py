"""``gevent-rover demo``: a rover and a pool at work, in one process, on loopback alone."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Final

import gevent
from gevent.event import Event
from gevent.server import StreamServer
from gevent.socket import socket as Socket

from gevent_rover.command import arguments
from gevent_rover.command.console import Output, table
from gevent_rover.command.telling import TellingPool
from gevent_rover.models import Attempt
from gevent_rover.roving.rover import Rover
from gevent_rover.serving.server import SlotServer

HELP: Final = "show a rover at work, in this process alone"

#: Connections kept, for each server that there is at the beginning.
_KEPT_PER_SERVER: Final = 2

#: Attempts in the whole demo, for each server. A fifth of them falls into each
#: of the short phases, so that the server in question is rarely missed there;
#: when it is, the phase lasts until its turn comes.
_ATTEMPTS_PER_SERVER: Final = 20

_MAIL: Final = "mail"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the demo can be told."""
    parser.add_argument(
        "--seconds",
        type=arguments.number(1, 3600),
        default=5.0,
        help="how long, about (default: 5)",
    )
    parser.add_argument(
        "--servers",
        type=arguments.integer(2, 20),
        default=4,
        help="how many slot servers (default: 4)",
    )


def run(options: argparse.Namespace, output: Output, done: Event) -> int:
    """Show the demo until it ends, or ``done`` is set.

    :returns: the exit code.
    """
    try:
        Demo(output.line, servers=options.servers, seconds=options.seconds, done=done).run()
    except OSError as exc:
        options.parser.report(f"can't listen on 127.0.0.1: {exc.strerror}")
        return 1
    return 0


class Demo:
    """Four slot servers (or more, or fewer), a rover, and a pool of the lowest slots.

    :param say: called with each line of the story.
    :param servers: how many slot servers there are.
    :param seconds: how long it takes, about.
    :param done: ends it early when it is set.
    """

    def __init__(
        self, say: Callable[[str], object], *, servers: int, seconds: float, done: Event
    ) -> None:
        self._say = say
        self._seconds = seconds
        self._done = done
        self._servers = {f"web{n}": _slot_server() for n in range(1, servers + 1)}
        self._mail = StreamServer(("127.0.0.1", 0), _talk_smtp)
        self._rover = Rover(roving_interval=seconds / (_ATTEMPTS_PER_SERVER * servers))
        self._pool = TellingPool(self._rover, max_slots=_KEPT_PER_SERVER * servers, tell=self._tell)
        self._outcomes: Counter[tuple[str | None, str]] = Counter()
        self._changed = Event()
        self._began = 0.0

    def run(self) -> None:
        """Tell the story; block until it has ended, and close all that it opened."""
        rover = self._rover
        rover.on("error", lambda rover, error: None)  # or it would be reported
        rover.on("attempt", self._take_note)
        self._began = monotonic()
        try:
            for id, server in self._servers.items():
                server.start()
                self._add(id, server)
                self._tell(id, f"listens on 127.0.0.1:{server.server_port}")
            rover.start()
            self._tell_the_story()
            rover.stop()
            self._pool.tell_losses()
            self._summarize()
        finally:
            rover.stop()
            self._pool.close()
            for server in self._servers.values():
                server.stop(timeout=0)
            self._mail.stop(timeout=0)

    def _tell_the_story(self) -> None:
        victim, server = next(iter(self._servers.items()))
        self._narrate(f"all is well: the {self._pool.max_slots} lowest slots found are kept")
        if not self._play_until(0.4, victim, "connection"):
            return

        self._narrate(f"{victim} dies, and its connections with it")
        server.stop(timeout=0)
        if not self._play_until(0.6, victim, "unreachable"):
            return

        self._narrate(f"{_MAIL} joins, but it doesn't speak the protocol")
        self._mail.start()
        self._add(_MAIL, self._mail)
        if not self._play_until(0.8, _MAIL, "error"):
            return

        self._narrate(f"{_MAIL} is dropped, and {victim} comes back")
        self._rover.drop_server(_MAIL)
        server.start()
        self._play_until(1.0, victim, "connection")

    def _add(self, id: str, server: StreamServer) -> None:
        port = server.server_port
        assert port is not None  # it listens
        self._rover.add_server(id, {"host": "127.0.0.1", "port": port})

    def _play_until(self, share: float, id: str, outcome: str) -> bool:
        """Wait until that share of the time is over and ``id`` had that outcome meanwhile.

        Or until it's plain that it won't: after twice the time.

        :returns: whether the story goes on.
        """
        before = self._outcomes[id, outcome]
        while not self._done.is_set():
            left = self._began + share * self._seconds - monotonic()
            happened = self._outcomes[id, outcome] > before
            if left <= 0 and (happened or left < -self._seconds):
                break
            # Woken by whatever comes first: the end, the share, or the next outcome.
            self._changed.clear()
            gevent.wait([self._done, self._changed], timeout=left if left > 0 else 1.0, count=1)
        return not self._done.is_set()

    def _take_note(self, rover: Rover, attempt: Attempt) -> None:
        self._pool.tell_losses()
        if attempt.outcome == "unreachable":
            self._tell(attempt.id, "unreachable")
        elif attempt.outcome == "error":
            self._tell(attempt.id, f"error: {attempt.error}")
        self._outcomes[attempt.id, attempt.outcome] += 1
        self._changed.set()

    # What it says

    def _tell(self, id: str | None, what: str) -> None:
        self._say(f"{monotonic() - self._began:6.2f} s  {id or '-':<6} {what}")

    def _narrate(self, what: str) -> None:
        self._say("")
        self._say(f"--- {what} ---")

    def _summarize(self) -> None:
        self._narrate(f"slots held after {monotonic() - self._began:.1f} s")
        held = self._pool.held()
        rows = []
        for id in [*self._servers, _MAIL]:
            slots = " ".join(str(slot) for slot in held if slot.server_id == id)
            counts = [self._outcomes[id, name] for name in ("connection", "unreachable", "error")]
            rows.append([id, slots or "-", *counts])
        header = ["server", "slots held", "connections", "unreachable", "errors"]
        for line in table(header, rows):
            self._say(line)


def _slot_server() -> SlotServer:
    def handle(slot: int, socket: Socket, address: object) -> None:
        while socket.recv(1024):
            pass

    return SlotServer(("127.0.0.1", 0), handle)


def _talk_smtp(socket: Socket, address: object) -> None:
    socket.sendall(b"220 mail.example ESMTP\r\n")
    socket.close()
