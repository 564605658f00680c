"""Asks many workers at once what they are up to: whoever shows several as one has a collector."""

from __future__ import annotations

import errno
import json
from typing import Any, Final, TypeAlias

import gevent
from gevent.event import AsyncResult
from gevent.pool import Pool

from gevent_rover.net.forks import Forkable, check_fork, kill_copy
from gevent_rover.net.sockets import close_now
from gevent_rover.status.fetch import CHUNK, NoAnswer, fetch
from gevent_rover.status.merge import Report, report_of
from gevent_rover.status.where import NoPlace, Place, Where, places_of

#: Seconds in which an answer has to be there, all of it.
TIMEOUT: Final = 0.5

#: Places that are asked at a time: each takes a descriptor.
AT_A_TIME: Final = 64

# Nobody listens at a socket any more.
_GONE: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT})

# How the line of a status app begins, where it's of the process that says it.
_MYSELF: Final = b'{"where":"this worker",'

# The hub of a thread, and what isn't asked.
_Key: TypeAlias = tuple[Any, "str | None"]

# Where somebody was asked, and a line that was the answer.
_Line: TypeAlias = tuple[str, bytes]


class Collector(Forkable):
    """Asks workers for their snapshots.

    It holds nothing from one question to the next. Any greenlet may ask at any time. Those
    who ask while others wait for the same answers share them: so many readers are no more of
    a burden for the workers than one, and two pages that read each other come to an end.

    :param wheres: where to ask; see :class:`~gevent_rover.status.where.Where`.
    :param timeout: seconds for all answers together.
    :raises ValueError: one of ``wheres`` is nothing that can be asked; the message names it.
    """

    def __init__(self, *wheres: str, timeout: float = TIMEOUT) -> None:
        super().__init__()
        self._wheres = [Where(text) for text in wheres]
        self._timeout = timeout
        self._questions: dict[_Key, _Question] = {}

    def collect(self, *, skip: str | None = None) -> list[Report]:
        """Ask all of them at once, and return a report for each worker; block until then.

        Folders and globs are read anew. A socket in one that nobody listens at is of a worker
        that is gone, and left out. Any other failure is a report with an ``error``: no answer
        in time, an answer that makes no sense, a URL or a socket that was given and refuses.

        :param skip: the name of a socket's file that isn't asked: one's own.
        """
        return [report_of(line, where) for where, line in self._ask(skip)]

    def raw(self, *, skip: str | None = None) -> list[bytes]:
        """Do what :meth:`collect` does, and return the lines of JSON as they came.

        They aren't parsed: who passes them on mustn't pay for that. So one may be no JSON at
        all, and a worker may be there twice. Only what a worker calls itself is replaced by
        where it was asked.
        """
        return [line for _, line in self._ask(skip)]

    def _ask(self, skip: str | None) -> list[_Line]:
        check_fork()
        key = gevent.get_hub(), skip
        question = self._questions.get(key)
        if question is None or question.over:
            question = self._questions[key] = _Question(self._wheres, self._timeout, skip)
            # It's kept no longer than that, or it would keep its answers.
            question.greenlet.link(lambda greenlet: self._forget(key, question))
            question.greenlet.start()
        lines = question.lines.get()
        assert lines is not None  # types-gevent says so of any
        return lines

    def _forget(self, key: _Key, question: _Question) -> None:
        if self._questions.get(key) is question:
            del self._questions[key]

    def _after_fork(self) -> None:
        questions = list(self._questions.values())
        self._questions.clear()
        for question in questions:
            question.abandon()


class _Question:
    """All places are asked, and what they answer."""

    def __init__(self, wheres: list[Where], timeout: float, skip: str | None) -> None:
        self._wheres = wheres
        self._timeout = timeout
        self._skip = skip
        self._answers: list[list[_Line]] = []
        self._opened: set[Any] = set()
        self._buffer = bytearray(CHUNK)
        self._group = Pool(AT_A_TIME)
        self.greenlet: gevent.Greenlet[..., None] = gevent.Greenlet(self._ask_all)
        #: What they say, once all did or the time is over.
        self.lines: AsyncResult[list[_Line]] = AsyncResult()

    @property
    def over(self) -> bool:
        """Whether all have answered, or the time is over."""
        return self.lines.ready()

    def abandon(self) -> None:
        """Let go of it, in a forked child: the connections are the parent's."""
        for sock in self._opened:
            close_now(sock)
        for greenlet in (self.greenlet, *self._group):
            kill_copy(greenlet)

    def _ask_all(self) -> None:
        try:
            with gevent.Timeout(self._timeout, False):  # type: ignore[arg-type]
                places = places_of(self._wheres, self._skip)
                late = f"no answer within {self._timeout:g} s"
                self._answers = [[_no_answer(place, late)] for place in places]
                for index, place in enumerate(places):
                    self._group.spawn(self._ask, index, place)
                self._group.join()
        except Exception as exc:
            self.lines.set_exception(exc)
        else:
            self.lines.set([line for lines in self._answers for line in lines])
        finally:
            self._group.kill()

    def _ask(self, index: int, place: Place | NoPlace) -> None:
        self._answers[index] = self._lines_of(place)

    def _lines_of(self, place: Place | NoPlace) -> list[_Line]:
        if isinstance(place, NoPlace):
            return [_no_answer(place, place.error)]
        try:
            lines = fetch(place, self._timeout, self._opened, self._buffer)
        except OSError as exc:
            if place.found and exc.errno in _GONE:
                return []
            return [_no_answer(place, exc.strerror or str(exc))]
        except (ValueError, NoAnswer) as exc:
            return [_no_answer(place, str(exc))]
        return [(place.where, _named(line, place.where)) for line in lines]


def _named(line: bytes, where: str) -> bytes:
    if not line.startswith(_MYSELF):
        return line
    rest = memoryview(line)[len(_MYSELF) :]  # which is long
    return b"".join((b'{"where":', json.dumps(where).encode(), b",", rest))


def _no_answer(place: Place | NoPlace, error: str) -> _Line:
    report: Report = {"where": place.where, "error": error}
    return place.where, json.dumps(report).encode()
