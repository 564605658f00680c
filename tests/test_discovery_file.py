"""Servers in a file."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import wait_until

from gevent_rover import Rover, Server
from gevent_rover.discovery import feeder as feeder_module
from gevent_rover.discovery.file import FileSource
from gevent_rover.discovery.source import SourceError

WEB1: Server = {"host": "10.0.0.1", "port": 7000}
WEB2: Server = {"host": "10.0.0.2", "port": 7000}
LINES = """\
# Servers
10.0.0.1:7000

  web2=10.0.0.2:7000
[::1]:80
db=unix:/run/db.sock
"""
FOUND = {
    "10.0.0.1:7000": WEB1,
    "web2": WEB2,
    "[::1]:80": {"host": "::1", "port": 80},
    "db": {"path": "/run/db.sock"},
}


class Answers:
    """What a source answers, and how it fails, in order."""

    def __init__(self, source: FileSource) -> None:
        self.source = source
        self.found: list[Any] = []
        self.greenlet = gevent.spawn(self.run)

    def run(self) -> None:
        while True:
            try:
                self.source.run(lambda servers: self.found.append(dict(servers)))
            except SourceError as exc:
                if not self.found or str(self.found[-1]) != str(exc):
                    self.found.append(exc)
                gevent.sleep(0.02)

    def wait_for(self, servers: Any) -> None:
        wait_until(lambda: self.found and self.found[-1] == servers)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "servers"


@pytest.fixture
def answers(path: Path) -> Iterator[Answers]:
    answers = Answers(FileSource(path, interval=0.1))
    yield answers
    answers.greenlet.kill()


def replace(path: Path, text: str) -> None:
    other = path.with_name("new")
    other.write_text(text)
    os.replace(other, path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LINES, FOUND),
        (json.dumps({"web1": WEB1, "web2": WEB2}), {"web1": WEB1, "web2": WEB2}),
        (
            json.dumps(["10.0.0.1:7000", "web2=10.0.0.2:7000"]),
            {"10.0.0.1:7000": WEB1, "web2": WEB2},
        ),
        ("# none\n", {}),
    ],
)
def test_lines_and_json_are_read(path: Path, answers: Answers, text: str, found: Any) -> None:
    path.write_text(text)
    answers.wait_for(found)


def test_a_file_may_be_replaced_removed_and_made_again(path: Path, answers: Answers) -> None:
    wait_until(lambda: answers.found)
    assert str(answers.found[0]) == f"can't read {str(path)!r}: No such file or directory"
    path.write_text("10.0.0.1:7000\n")
    answers.wait_for({"10.0.0.1:7000": WEB1})
    replace(path, "web2=10.0.0.2:7000\n")
    answers.wait_for({"web2": WEB2})
    path.unlink()
    wait_until(lambda: isinstance(answers.found[-1], SourceError))
    path.write_text("10.0.0.1:7000\n")
    answers.wait_for({"10.0.0.1:7000": WEB1})


def test_one_written_in_pieces_is_read_when_it_is_whole(path: Path, answers: Answers) -> None:
    path.write_text("10.0.0.1:7000\n")
    answers.wait_for({"10.0.0.1:7000": WEB1})
    with path.open("w") as file:
        for piece in ("web1=10.0.0", ".1:7000\nwe", "b2=10.0.0.2:7000\n"):
            file.write(piece)
            file.flush()
            gevent.sleep(0.02)
    answers.wait_for({"web1": WEB1, "web2": WEB2})
    assert len(answers.found) <= 3
    assert [each for each in answers.found if isinstance(each, dict)] == [
        {"10.0.0.1:7000": WEB1},
        {"web1": WEB1, "web2": WEB2},
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("10.0.0.1:7000\n  10.0.0.2\n", "line 2, column 3: expected HOST:PORT .*got '10.0.0.2'"),
        ("a=1.1.1.1:1\na=1.1.1.1:2\n", "line 2, column 1: duplicate ID 'a'"),
        ('{"web1": {"host": "x",\n "port" 1}}', "line 2, column 9: Expecting ':' delimiter"),
        ('{"web1": {"host": "x", "port": 0}}', "invalid server 'web1': port must be an int"),
        ('["10.0.0.1:7000", 3]', "entry 2: expected a text, got 3"),
        ('["10.0.0.1:7000", "x"]', "entry 2: expected HOST:PORT"),
    ],
)
def test_an_error_names_line_and_column_and_what_was_stays(
    path: Path, answers: Answers, text: str, error: str
) -> None:
    path.write_text("10.0.0.1:7000\n")
    answers.wait_for({"10.0.0.1:7000": WEB1})
    replace(path, text)
    wait_until(lambda: isinstance(answers.found[-1], SourceError))
    with pytest.raises(SourceError, match=f"servers', {error}|servers': {error}"):
        raise answers.found[-1]
    assert len(answers.found) == 2


def test_what_is_no_text_is_refused(path: Path, answers: Answers) -> None:
    path.write_bytes(b"10.0.0.1:7000\n\xff")
    wait_until(lambda: answers.found and "isn't UTF-8: byte 14" in str(answers.found[-1]))
    path.unlink()
    path.mkdir()
    wait_until(lambda: "Is a directory" in str(answers.found[-1]))


def test_a_feeder_is_told_of_each_failure_once_and_of_what_is_mended_at_once(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else a feeder would look again and again, up to 30 s after it was mended.
    monkeypatch.setattr(feeder_module, "RETRY_AFTER", 0.01)
    rover = Rover()
    with (
        caplog.at_level(logging.DEBUG, "gevent_rover.discovery"),
        feeder_module.feed(rover, FileSource(path)) as feeder,
    ):
        wait_until(lambda: "No such file" in str(feeder.failure))
        gevent.sleep(0.5)
        path.write_text("10.0.0.2\n")
        wait_until(lambda: "line 1" in str(feeder.failure))
        gevent.sleep(0.5)
        path.write_text("10.0.0.1:7000\n")
        wait_until(lambda: rover.servers == {"10.0.0.1:7000": WEB1})
        assert feeder.failure is None
    failures = [each for each in caplog.records if "failed" in each.getMessage()]
    assert len(failures) == 2


def test_repr_and_a_bad_interval() -> None:
    assert repr(FileSource("/etc/servers")) == "FileSource('/etc/servers')"
    with pytest.raises(ValueError, match="interval must be a positive number of seconds"):
        FileSource("x", interval=0)
