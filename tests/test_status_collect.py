"""The collector: real status servers, and others that are silent, gone, or talk nonsense."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import pytest
from conftest import open_descriptors, port_of, wait_until
from gevent import socket
from gevent.server import StreamServer
from gevent.threadpool import ThreadPool
from test_fork import FORKS, in_child

from gevent_rover import Rover, SlotPool
from gevent_rover.status import PageServer, StatusApp, StatusServer, collect, fetch
from gevent_rover.status.collect import Collector
from gevent_rover.status.merge import Report, merged

Closing = Callable[[Any], Any]

LATE = "no answer within 0.5 s"
ANSWER = b'{"where": "one", "snapshot": {}}\n'
HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/x-ndjson\r\n"


@pytest.fixture
def worker(rover: Rover, closing: Closing) -> Callable[..., StatusServer]:
    """Give a function that starts a status server of one rover; each call is another pool."""
    names = iter("abcdefgh")

    def worker(where: str) -> StatusServer:
        name = next(names)
        pool = closing(SlotPool[Any](rover, max_slots=1)) if name == "a" else None
        server = closing(StatusServer(rover, pool, where, name=name))
        server.start()
        return server  # type: ignore[no-any-return]

    return worker


@pytest.fixture
def listens(closing: Closing) -> Callable[[Path, Callable[[Any], object]], str]:
    """Give a function that has ``talk(socket)`` handle what connects to a path."""

    def listens(path: Path, talk: Callable[[Any], object]) -> str:
        def handle(sock: Any, address: Any) -> None:
            try:
                talk(sock)
            except OSError:
                pass

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(50)
        server = closing(StreamServer(listener, handle))
        server.stop_timeout = 0.0
        server.start()
        return f"unix:{path}"

    return listens


def silence(sock: Any) -> None:
    """Read until the client gives up."""
    while sock.recv(1024):
        pass


def says(data: bytes) -> Callable[[Any], object]:
    """Return what reads a request and answers with these bytes."""

    def talk(sock: Any) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            part = sock.recv(1024)
            if not part:
                return
            request += part
        sock.sendall(data)

    return talk


def left_behind(path: Path) -> str:
    """Leave the file of a socket that nobody listens at."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return f"unix:{path}"


def errors_of(reports: list[Report]) -> list[tuple[str, str]]:
    return [(report["where"], report["error"]) for report in reports if "error" in report]


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "unix:{}/it.sock", "unix:@rover-{}"])
def test_a_status_server_is_asked_wherever_it_listens(
    where: str, worker: Callable[..., StatusServer], tmp_path: Path
) -> None:
    server = worker(where.format(os.getpid() if "@" in where else tmp_path))
    [report] = Collector(server.url).collect()
    assert report["where"] == server.url
    snapshot: Any = report["snapshot"]
    assert snapshot["worker"]["pid"] == os.getpid()
    assert [row["id"] for row in snapshot["servers"]] == ["web1"]
    assert merged([report])["totals"]["workers"] == 1


@pytest.mark.parametrize(
    "where",
    [
        "{0}",
        "{0}/",
        "unix:{0}",
        "unix:{0}/",
        "{0}/*.sock",
        "unix:{0}/[ab].sock",
        "{1}/*/",
        "{1}/*/?.sock",
    ],
)
def test_a_folder_and_a_glob_are_read_anew_each_time(
    where: str, worker: Callable[..., StatusServer], tmp_path: Path
) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    collector = Collector(where.format(folder, tmp_path))
    assert collector.collect() == []
    (folder / "notes").write_text("no socket")
    (folder / "notes.sock").write_text("no socket")
    left_behind(folder / "gone.sock")
    first = worker(f"unix:{folder}/a.sock")
    assert len(collector.collect()) == 1
    worker(f"unix:{folder}/b.sock")
    assert len(collector.collect()) == 2
    first.stop()
    assert len(collector.collect()) == 1
    assert errors_of(collector.collect()) == []


def test_a_url_is_where_an_app_is_mounted(closing: Closing) -> None:
    asked: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        asked.append(f"{environ['HTTP_HOST']} {environ['PATH_INFO']}")
        start_response("200 OK", [("Content-Type", "application/x-ndjson; charset=utf-8")])
        return [ANSWER, b"\r\n", ANSWER.replace(b"one", b"two")]

    server = closing(PageServer(app, "127.0.0.1:0"))
    server.start()
    host = f"127.0.0.1:{port_of(server)}"
    for url, path in {
        f"http://{host}": "/",
        f"http://{host}/status": "/status/",
        f"http://{host}/status/": "/status/",
        f"http://{host}/status/workers.ndjson": "/status/",
        f"HTTP://{host}/a%20b/": "/a b/",
        host: "/",
    }.items():
        reports = Collector(url).collect()
        assert [report["where"] for report in reports] == ["one", "two"]
        assert asked.pop() == f"{host} {path}workers.ndjson"


@pytest.mark.parametrize(
    "where",
    [
        "",
        "unix:",
        "unix:@",
        "https://127.0.0.1/",
        "ftp://127.0.0.1/",
        "http://",
        "http:///status/",
        "http://user:password@127.0.0.1/",
        "http://127.0.0.1/?a=b",
        "http://127.0.0.1/#top",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:port/",
        "http://[::1/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nX: y",
        "http://bücher.example/",
        "a\0b",
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(where: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Collector("unix:/run/app/", where)
    assert repr(where) in str(caught.value)
    assert "password@" not in str(caught.value) or "password can" in str(caught.value)


def test_one_that_was_named_and_refuses_is_an_error(tmp_path: Path, dead_server: Any) -> None:
    dead = f"http://127.0.0.1:{dead_server['port']}/"
    gone = left_behind(tmp_path / "gone.sock")
    missing = f"unix:{tmp_path}/missing.sock"
    folder = f"unix:{tmp_path}/missing/"
    too_long = f"unix:/{'x' * 200}"
    assert errors_of(Collector(dead, gone, missing, folder, too_long).collect()) == [
        (dead, "Connection refused"),
        (gone, "Connection refused"),
        (missing, "No such file or directory"),
        (folder, "No such file or directory"),
        (too_long, "AF_UNIX path too long"),
    ]


def test_a_folder_that_must_not_be_read_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0)

    def tell() -> list[str]:
        if os.geteuid() == 0:  # who may look into every folder
            os.setgid(65534)
            os.setuid(65534)
        return [line.decode() for line in Collector(f"{tmp_path}/").raw()]

    [line] = in_child(os.fork, tell)
    assert json.loads(line) == {"where": f"unix:{tmp_path}/", "error": "Permission denied"}
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("host", "said"),
    [("nowhere.invalid", "name"), ("x" * 70 + ".invalid", "label"), ("a..b", "label")],
)
def test_a_name_that_is_none_is_an_error(host: str, said: str) -> None:
    [(where, error)] = errors_of(Collector(f"http://{host}/", timeout=20.0).collect())
    assert where == f"http://{host}/"
    assert said in error.lower()


def test_one_deadline_holds_for_all(listens: Any, tmp_path: Path) -> None:
    def drips(sock: Any) -> None:
        sock.sendall(HEAD)
        while True:
            sock.sendall(b"\r\n")
            gevent.sleep(0.05)

    listens(tmp_path / "good.sock", says(HEAD + b"\r\n" + ANSWER))
    for n in range(100):  # More than are asked at a time.
        listens(tmp_path / f"silent{n:02}.sock", silence)
    listens(tmp_path / "drips.sock", drips)
    before = open_descriptors()
    began = monotonic()
    reports = Collector(str(tmp_path), timeout=1.0).collect()
    assert monotonic() - began < 1.9
    assert len(reports) == 102
    assert len([report for report in reports if "snapshot" in report]) == 1
    assert {error for _, error in errors_of(reports)} == {"no answer within 1 s"}
    assert len(errors_of(reports)) == 101
    wait_until(lambda: open_descriptors() <= before)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "it closed the connection without an answer"),
        (b"HTTP/1.0 200", "it closed the connection before its answer was whole"),
        (HEAD, "it closed the connection before its answer was whole"),
        (
            HEAD + b"Content-Length: 99\r\n\r\n" + ANSWER,
            "it closed the connection before its answer was whole",
        ),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n", "application/x-ndjson"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "no status page: 404 Not Found"),
        (b"HTTP/1.1 302 \r\nLocation: /\r\n\r\n", "no status page: 302"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html>",
            "no status page: it answers with text/html",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "no status page: it answers with nothing known"),
        (b"13\r\n", "no status page: it doesn't answer in HTTP"),
        (b"\0" * 1000, "no status page: it doesn't answer in HTTP"),
        (HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n", "no status page: it doesn't answer in HTTP"),
        (HEAD + b"\r\n" + b"x" * 5_000, "its answer is longer than 0 MiB"),
        (HEAD + b"\r\n{}\n", "no snapshot"),
        (HEAD + b"\r\n<html>\n", "what it says is no JSON"),
    ],
)
def test_nonsense_is_an_error(
    answer: bytes,
    error: str,
    listens: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch, "MAX_BODY", 4_000)
    where = listens(tmp_path / "odd.sock", says(answer))
    # In a folder, too: somebody listens there.
    for asked in (where, str(tmp_path)):
        [(found, text)] = errors_of(Collector(asked).collect())
        assert found == where
        assert error in text


def test_an_answer_without_an_end_is_not_waited_for(
    listens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(sock: Any) -> None:
        sock.sendall(HEAD + b"\r\n")
        while True:
            sock.sendall(b"x" * 10_000)

    monkeypatch.setattr(fetch, "MAX_BODY", 100_000)
    collector = Collector(listens(tmp_path / "it.sock", talk), timeout=20.0)
    with gevent.Timeout(5):
        [(_, error)] = errors_of(collector.collect())
    assert error == "its answer is longer than 0 MiB"


def test_lines_are_passed_on_as_they_are(listens: Any, tmp_path: Path) -> None:
    body = b'{"where": "one"}\n\n \r\nno JSON\n{"where":"this worker","x":1}\n\xff\r'
    where = listens(tmp_path / "odd.sock", says(HEAD + b"\r\n" + body))
    own = b'{"where":"%b","x":1}' % where.encode()  # it knows itself by no other name
    assert Collector(where).raw() == [b'{"where": "one"}', b"no JSON", own, b"\xff\r"]


def test_a_name_is_left_out_where_it_was_found(listens: Any, tmp_path: Path) -> None:
    own = listens(tmp_path / "own.sock", says(HEAD + b"\r\n" + ANSWER))
    listens(tmp_path / "other.sock", says(HEAD + b"\r\n" + ANSWER))
    assert len(Collector(str(tmp_path)).raw()) == 2
    assert len(Collector(str(tmp_path)).raw(skip="own.sock")) == 1
    assert len(Collector(f"{tmp_path}/o*").raw(skip="own.sock")) == 1
    assert len(Collector(own).raw(skip="own.sock")) == 1


def test_a_place_that_is_named_in_several_ways_is_asked_once(
    worker: Any, closing: Closing, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    server = worker(f"unix:{tmp_path}/a.sock")
    collector = Collector(str(tmp_path), f"{tmp_path}/*.sock", f"unix:{tmp_path}/link", server.url)
    assert len(collector.collect()) == 1


def test_a_worker_behind_two_urls_counts_once(
    worker: Any, closing: Closing, tmp_path: Path
) -> None:
    server, other = worker(f"unix:{tmp_path}/a.sock"), worker(f"unix:{tmp_path}/b.sock")
    outer = closing(PageServer(StatusApp(Collector(str(tmp_path)).raw), "127.0.0.1:0"))
    outer.start()
    reports = Collector(outer.url, server.url, other.url).collect()
    assert len(reports) == 4
    document = merged(reports)
    assert sorted(str(each["pool"]) for each in document["workers"]) == ["None", "a"]


def test_readers_at_the_same_time_share_the_answers(listens: Any, tmp_path: Path) -> None:
    asked: list[object] = []

    def talk(sock: Any) -> None:
        asked.append(sock)
        gevent.sleep(0.1)
        says(HEAD + b"\r\n" + ANSWER)(sock)

    collector = Collector(listens(tmp_path / "it.sock", talk))
    readers = [gevent.spawn(collector.raw) for _ in range(10)]
    gevent.sleep(0.05)
    # One that gives up takes nothing from the others.
    readers[0].kill()
    gevent.joinall(readers[1:], timeout=5, raise_error=True)
    assert [reader.value for reader in readers[1:]] == [[ANSWER.strip()]] * 9
    assert len(asked) == 1
    assert collector.raw() == [ANSWER.strip()]
    assert len(asked) == 2


def test_threads_that_ask_at_the_same_time_get_their_own_answers(
    listens: Any, tmp_path: Path
) -> None:
    collectors = []
    for name in (b"a", b"b", b"c", b"d"):
        body = b'{"where": "%b", "text": "%b"}' % (name, name * 60_000)
        where = listens(tmp_path / f"{name.decode()}.sock", says(HEAD + b"\r\n" + body))
        collectors.append((Collector(where, timeout=10.0), body))
    wrong = []

    def ask(collector: Collector, body: bytes) -> None:
        for _ in range(60):
            if collector.raw() != [body]:
                wrong.append(collector)
        gevent.get_hub().destroy(destroy_loop=True)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = ThreadPool(4)
        for asking in [threads.spawn(ask, *one) for one in collectors]:
            asking.get(timeout=30)
    finally:
        sys.setswitchinterval(interval)
        threads.kill()
    assert not wrong


@pytest.mark.integration
def test_pages_that_show_each_other_come_to_an_end(closing: Closing, tmp_path: Path) -> None:
    asked: list[float] = []

    def page(name: str) -> PageServer:
        collector = Collector(f"unix:{tmp_path}/")

        def lines() -> list[bytes]:
            asked.append(monotonic())
            return [ANSWER, *collector.raw(skip=f"{name}.sock")]

        server = closing(PageServer(StatusApp(lines), f"unix:{tmp_path}/{name}.sock"))
        server.start()
        return server  # type: ignore[no-any-return]

    pages = [page(name) for name in ("a", "b", "c")]
    began = monotonic()
    Collector(pages[0].url, timeout=3.0).raw()
    assert monotonic() - began < 2.0
    gevent.sleep(1.5)
    assert max(asked) - began < 2.0
    assert len(asked) < 30


@pytest.mark.parametrize("fork", sorted(FORKS))
def test_a_fork_costs_a_question_nothing(fork: str, closing: Closing, tmp_path: Path) -> None:
    listener = closing(socket.socket(socket.AF_UNIX))
    listener.bind(str(tmp_path / "it.sock"))
    listener.listen(5)
    collector = Collector(f"unix:{tmp_path}/it.sock", timeout=20.0)
    asking = gevent.spawn(collector.raw)
    client, _ = listener.accept()  # no greenlet of the test's runs in the child
    closing(client)
    assert client.recv(1024)

    def tell() -> Any:
        lines = Collector(f"unix:{tmp_path}/no").raw()
        client.sendall(b"HTTP/1.0 500 of the child\r\n\r\n")
        gevent.sleep(0.2)
        return [[line.decode() for line in lines], asking.ready()]

    [line], ready = in_child(FORKS[fork], tell)
    assert json.loads(line)["error"] == "No such file or directory"
    assert not ready
    # The parent's connection wasn't ended, nor read.
    client.close()
    [late] = asking.get(timeout=5)
    assert json.loads(late)["error"] == "no status page: 500 of the child"


def test_it_leaves_nothing_open_when_it_is_killed(listens: Any, tmp_path: Path) -> None:
    collector = Collector(listens(tmp_path / "it.sock", silence), timeout=0.2)
    collector.raw()
    gc.collect()
    before = open_descriptors()
    reader = gevent.spawn(collector.raw)
    gevent.sleep(0.05)
    reader.kill()
    wait_until(lambda: open_descriptors() <= before)


def test_what_goes_wrong_here_is_every_readers_to_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> Any:
        raise RuntimeError("no places")

    collector = Collector(str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(collect, "places_of", fail)
        with pytest.raises(RuntimeError):
            collector.raw()
    assert collector.raw() == []


@pytest.mark.integration
def test_a_worker_that_is_stopped_is_silent_and_one_that_is_killed_is_gone(
    listens: Any, tmp_path: Path
) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "it.sock"))
    listener.listen(50)
    pid = gevent.os.fork()
    if not pid:
        try:
            server = StreamServer(listener, lambda sock, _: says(HEAD + b"\r\n" + ANSWER)(sock))
            server.serve_forever()
        finally:
            os._exit(0)
    listener.close()
    collector = Collector(str(tmp_path))
    try:
        assert collector.raw() == [ANSWER.strip()]
        os.kill(pid, signal.SIGSTOP)
        assert errors_of(collector.collect()) == [(f"unix:{tmp_path}/it.sock", LATE)]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert collector.collect() == []
