"""Sources on the command line, as URLs, and the examples of discovery."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, entry
from gevent.pywsgi import WSGIServer
from gevent.subprocess import PIPE, run

from gevent_rover import SlotServer
from gevent_rover.discovery import DNSSource, FileSource, SRVSource, source_from_url

pytestmark = pytest.mark.integration  # Each test runs a process, or several.


def command(*arguments: str, before: str = "") -> Any:
    """Run the command in a process of its own."""
    run_it = "from gevent_rover.command.main import main; sys.exit(main())"
    code = f"import sys; {before or 'pass'}; {run_it}"
    return run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        stdout=PIPE,
        stderr=PIPE,
        text=True,
        timeout=30,
        cwd=ROOT,
    )


def test_rove_follows_a_file(slot_server: Callable[..., SlotServer], tmp_path: Path) -> None:
    servers = {id: entry(slot_server()) for id in ("web1", "web2")}
    file = tmp_path / "servers"
    file.write_text(json.dumps(servers))
    options = "--count", "40", "--interval", "0.02", "--json"
    done = command("rove", f"file://{file}", *options)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["id"] for line in lines[:-1] if line["event"] == "connection"} == set(servers)
    assert set(lines[-1]["servers"]) == set(servers)
    # The first attempts found none yet.
    assert {line["event"] for line in lines[:-1]} <= {"connection", "error"}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://x/y", "not the URL of a source: 'http://x/y' (known are file://, dns://"),
        ("file://other/x", "expected file:///PATH, got 'file://other/x'"),
        ("dns://name", "expected dns://NAME:PORT, got 'dns://name'"),
        ("dns://name:x", "expected dns://NAME:PORT, got 'dns://name:x'"),
        ("dns+srv://", "expected dns+srv://_SERVICE._PROTO.NAME"),
        ("zk://host:2181", "expected zk://HOST:PORT[,HOST:PORT…]/PATH, got 'zk://host:2181'"),
        ("dns://name:1?x", "a source has no query, fragment or user: 'dns://name:1?x'"),
    ],
)
def test_a_bad_url_gets_one_line(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        source_from_url(url)
    assert str(caught.value).startswith(reason)
    done = command("rove", url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gevent-rover rove: argument SERVER: {reason}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "missing", "line"),
    [
        (("rove", "dns://x:1"), "dns", "DNSSource needs dns: pip install 'gevent_rover[dns]'"),
        (("rove", "dns+srv://_x._tcp.y"), "dns", "pip install 'gevent_rover[dns]'"),
        (("rove", "zk://x:1/y"), "kazoo", "needs kazoo: pip install 'gevent_rover[zookeeper]'"),
        (
            ("serve", "127.0.0.1:0", "--announce", "zk://x:1/y"),
            "kazoo",
            "--announce needs kazoo: pip install 'gevent_rover[zookeeper]'",
        ),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(
    arguments: tuple[str, ...], missing: str, line: str
) -> None:
    done = command(*arguments, before=f"sys.modules[{missing!r}] = None")
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_the_extras_files_are_read_all_the_same() -> None:
    code = (
        "import sys; sys.modules['dns'] = sys.modules['kazoo'] = None;"
        "from gevent_rover.discovery import FileSource, feed; print(FileSource('x'))"
    )
    done = run([sys.executable, "-W", "error", "-c", code], stdout=PIPE, text=True, timeout=30)
    assert done.stdout == "FileSource('x')\n"


def test_urls_are_sources() -> None:
    file, dns, srv = map(
        source_from_url, ("file:///etc/a%20b", "dns://db.internal:5432", "dns+srv://_db._tcp.x.org")
    )
    assert isinstance(file, FileSource)
    assert str(file.path) == "/etc/a b"
    assert isinstance(dns, DNSSource)
    assert isinstance(srv, SRVSource)
    assert repr(dns) == "DNSSource('db.internal', 5432)"
    assert repr(srv) == "SRVSource('_db._tcp.x.org')"


def test_help_says_what_each_url_means() -> None:
    text = command("rove", "--help").stdout
    for url in ("file:///PATH", "dns://NAME:PORT", "dns+srv://_SVC._tcp.NAME", "zk://HOST:PORT"):
        assert url in text
    assert "zk://HOST:PORT" in command("serve", "--help").stdout


def test_the_http_source_of_the_examples_finds_servers(closing: Callable[[Any], Any]) -> None:
    def answer(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b'["10.0.0.1:7000", "web2=10.0.0.2:7000"]']

    server = WSGIServer(("127.0.0.1", 0), answer, log=None)
    server.start()
    closing(server)
    done = run(
        [sys.executable, "examples/http_source.py", f"http://127.0.0.1:{server.server_port}/"],
        stdout=PIPE,
        text=True,
        timeout=30,
        cwd=ROOT,
    )
    assert done.stdout.startswith("<Feeder started HTTPSource('http://127.0.0.1:")
    assert done.stdout.endswith(" servers=2> 10.0.0.1:7000 web2\n")
