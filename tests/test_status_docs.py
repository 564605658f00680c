"""docs/status.md: its commands show what they say, of processes that are watched."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from backends import program
from conftest import entry
from gevent import Timeout, socket
from gevent.subprocess import PIPE, Popen
from pages import PAGES, blocks_of

from gevent_rover import Rover, Server, SlotPool
from gevent_rover.status import StatusServer

pytestmark = [pytest.mark.integration, pytest.mark.docs]

LINES = [
    line.split(" #")[0].strip()
    for block in blocks_of(PAGES["docs/status.md"])
    if block.language == "sh"
    for line in block.code.splitlines()
]


@pytest.fixture
def places(tmp_path: Path, slot_server: Any, dead_server: Server) -> Iterator[dict[str, str]]:
    """Watch a pool with a server that is up and one that isn't; give what stands for the page's."""
    rover = Rover({"web1": entry(slot_server()), "web2": dead_server}, roving_interval=0.1)
    with rover, SlotPool(rover, max_slots=2) as pool:
        pool.wait_ready()
        wheres = [f"unix:{tmp_path}/app/", f"unix:{tmp_path}/cron/", "127.0.0.1:0"]
        app, cron, loopback = (StatusServer(rover, pool, where) for where in wheres)
        with app, cron, loopback:
            yield {
                "/run/app/4711-pool.sock": app.url.removeprefix("unix:"),
                "/run/app/": f"{tmp_path}/app/",
                "/run/cron/": f"{tmp_path}/cron/",
                "127.0.0.1:8001": f"127.0.0.1:{loopback.server_port}",
                "gevent-rover": f"{sys.executable} -m gevent_rover",
            }


@contextmanager
def shown(line: str, places: dict[str, str], awaited: str) -> Iterator[str]:
    """Run a line until it has printed what is awaited, and give that; then end it."""
    for name in re.findall(r"(?:^|[|]) *(\w+)(?= )", line):
        program(name)
    line = re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], line)
    process: Any = Popen(
        ["bash", "-o", "pipefail", "-c", line], stdout=PIPE, start_new_session=True
    )
    printed = ""
    try:
        with Timeout(30, AssertionError(f"{line} is silent")):
            while not re.search(awaited, printed):
                chunk = process.stdout.readline().decode()
                assert chunk, f"{line}: {printed}"
                printed += chunk
        yield printed
    finally:
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass  # It has ended.
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize("line", [line for line in LINES if "page" not in line])
def test_a_line_shows_the_servers(line: str, places: dict[str, str]) -> None:
    if "jq" in line:  # it picks those that aren't up
        line = line.replace("jq", "jq --unbuffered")  # as it is in a terminal
        with shown(line, places, "web2") as printed:
            assert "web1" not in printed
    else:
        with shown(line, places, "(?s)web1.*web2|web2.*web1") as printed:
            assert "127.0.0.1:" in printed


def test_the_page_of_several_apps_is_on_loopback(places: dict[str, str]) -> None:
    (line,) = (line for line in LINES if "page" in line)
    with shown(line, places, r"http://\S+\n") as printed:
        (host, port) = re.findall(r"http://(127\.0\.0\.1):(\d+)/", printed)[0]
        with socket.create_connection((host, int(port)), 10) as client:
            client.sendall(b"GET /status.json HTTP/1.0\r\nHost: localhost\r\n\r\n")
            head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0]
        assert {row["id"] for row in json.loads(body)["servers"]} == {"web1", "web2"}
