"""Check a recipe of HTTP: answers, framing, kills and a server that comes back.

Usage: http_check.py CLIENT CONTROL_PORT FRONT_PORT …

CLIENT is http.client, urllib3, requests or geventhttpclient. Whoever listens at the control
port kills and restarts the servers behind the fronts.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol
from urllib.parse import quote

import gevent
from checking import (
    GREENLETS,
    SLOTS,
    Load,
    Ticker,
    at_most,
    check_whole,
    lost,
    no_descriptor_leaks,
    raises,
    rng,
    rover_of,
    side_by_side,
    wait_until,
)
from gevent import socket

from gevent_rover import PoolError, SlotPool, SlotServer

HOST = "users.internal"

numbers = count()

Answer = tuple[int, bytes]
Body = bytes | Iterable[bytes] | None


class Client(Protocol):
    """What each recipe is made to look like."""

    #: What it may raise if its server goes.
    errors: tuple[type[Exception], ...]
    follows: bool
    #: The cases that its version can't do.
    unsupported: tuple[str, ...] = ()

    def ask(
        self, method: str, target: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> Answer: ...

    def leave(self, target: str) -> bytes:
        """Read the first four bytes of a body, and leave the rest, without an error."""
        ...

    def read_in_pieces(self, target: str) -> bytes:
        """Read a body some bytes at a time, all of it."""
        ...

    def check_more(self, script: Script, pool: SlotPool) -> None:
        """Check what only this client does."""


class WithService(Client):
    """What the recipes with an ``HTTPService`` have in common."""

    follows = False
    _service: Any

    def leave(self, target: str) -> bytes:
        with self._service.request("GET", target) as response:
            start: bytes = response.read(4)
            return start

    def read_in_pieces(self, target: str) -> bytes:
        with self._service.request("GET", target) as response:
            return b"".join(iter(lambda: response.read(3), b""))


class WithHttpClient(WithService):
    def __init__(self, pool: SlotPool, timeout: float) -> None:
        from http.client import HTTPException

        from http_client_pool import HTTPService

        self.errors = (OSError, HTTPException, PoolError)
        self._service = HTTPService(pool, HOST, timeout=timeout, wait=timeout)

    def ask(
        self, method: str, target: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        with self._service.request(method, target, body, headers) as response:
            return response.status, response.read()


class WithGeventhttpclient(WithService):
    def __init__(self, pool: SlotPool, timeout: float) -> None:
        import geventhttpclient
        from geventhttpclient import HTTPClient
        from geventhttpclient.response import HTTPParseError
        from geventhttpclient_pool import HTTPService

        if tuple(map(int, geventhttpclient.__version__.split(".")[:2])) < (2, 5):
            # The last that runs on Python 3.10: an interim answer is an AttributeError.
            self.unsupported = ("100", "101", "103", "102, 103", "half an interim head")
        self.errors = (OSError, HTTPParseError, PoolError)
        self._service = HTTPService(pool, HTTPClient(HOST), timeout=timeout, wait=timeout)

    def ask(
        self, method: str, target: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        with self._service.request(method, target, body or b"", headers) as response:
            return response.status_code, response.read()


class WithUrllib3(Client):
    follows = True

    def __init__(self, pool: SlotPool, timeout: float) -> None:
        from requests_pool import SlotHTTPConnectionPool
        from urllib3.exceptions import HTTPError

        self.errors = (HTTPError,)
        self._connections = SlotHTTPConnectionPool(pool, HOST, timeout=timeout)

    def ask(
        self, method: str, target: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        response = self._connections.request(method, target, body=body, headers=headers)
        return response.status, response.data

    def leave(self, target: str) -> bytes:
        response = self._connections.request("GET", target, preload_content=False)
        start = response.read(4)
        response.release_conn()
        return start

    def read_in_pieces(self, target: str) -> bytes:
        response = self._connections.request("GET", target, preload_content=False)
        return b"".join(response.stream(3))

    def check_more(self, script: Script, pool: SlotPool) -> None:
        from urllib3.exceptions import HostChangedError

        script.parts = [OK, b"bo"]
        response = self._connections.request("GET", "/", preload_content=False)
        assert pool.leased == 1
        del response  # It's dropped, and no failure.
        check_whole(pool)
        moved = b"Location: http://elsewhere.internal/"
        script.parts = [ok(moved, b"Retry-After: 30", status=302) + b"body"]
        with raises(HostChangedError):
            self.ask("GET", "/")
        check_whole(pool)


class WithRequests(Client):
    follows = True

    def __init__(self, pool: SlotPool, timeout: float) -> None:
        import requests
        from requests_pool import SlotAdapter

        self.errors = (requests.RequestException,)
        self._session = requests.Session()
        self._session.mount(f"http://{HOST}/", SlotAdapter(pool, HOST, timeout=timeout))

    def ask(
        self, method: str, target: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        follow = method != "HEAD"
        response = self._session.request(
            method, f"http://{HOST}{target}", data=body, headers=headers, allow_redirects=follow
        )
        return response.status_code, response.content

    def leave(self, target: str) -> bytes:
        with self._session.get(f"http://{HOST}{target}", stream=True) as response:
            start: bytes = response.raw.read(4)
            return start

    def read_in_pieces(self, target: str) -> bytes:
        with self._session.get(f"http://{HOST}{target}", stream=True) as response:
            return b"".join(response.iter_content(3))

    def check_more(self, script: Script, pool: SlotPool) -> None:
        from requests.exceptions import InvalidURL
        from requests_pool import SlotAdapter

        script.parts = [OK, b"bo"]
        response = self._session.get(f"http://{HOST}/", stream=True)
        assert pool.leased == 1
        del response  # It's dropped, and no failure.
        check_whole(pool)
        self._session.mount("http://", SlotAdapter(pool, HOST))
        with raises(InvalidURL):
            self._session.get("http://elsewhere.internal/")


CLIENTS: dict[str, Callable[[SlotPool, float], Client]] = {
    "http.client": WithHttpClient,
    "urllib3": WithUrllib3,
    "requests": WithRequests,
    "geventhttpclient": WithGeventhttpclient,
}


@contextmanager
def pool_of(ports: Iterable[int], slots: int) -> Iterator[SlotPool]:
    rover = rover_of(ports)
    with rover, SlotPool(rover, max_slots=slots) as pool:
        pool.wait_ready()
        yield pool


# Against a server whose answers are scripted


class Script:
    """A slot server that gives the answers that it is told, byte by byte."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.then_close = False
        self.reads_bodies = True
        self.requests = 0
        self.server = SlotServer(("127.0.0.1", 0), self._handle)
        self.server.stop_timeout = 0
        self.server.start()

    def _handle(self, slot: int, sock: Any, address: Any) -> None:
        try:
            while head := self._read_head(sock):
                self.requests += 1
                if self.reads_bodies and b"content-length: " in head.lower():
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    while length:
                        length -= len(sock.recv(min(length, 65536)))
                parts, then_close = self.parts, self.then_close
                for part in parts:
                    if part is not parts[0]:
                        gevent.sleep(0.001)  # So each arrives by itself.
                    sock.sendall(part)
                if then_close:
                    sock.shutdown(socket.SHUT_RDWR)
                    return
        except OSError:
            pass

    def _read_head(self, sock: Any) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)
            if not byte:
                return b""
            head += byte
        return head


@dataclass(frozen=True)
class Case:
    """What a server answers, and what must come of it."""

    #: The answer; each part arrives by itself.
    parts: list[bytes]
    #: None: an error; "": anything, as long as the connection isn't kept.
    expected: Answer | str | None = (200, b"body")
    hangs_up: bool = False
    kept: bool = True
    #: Whether the request counts as one that failed by the server's fault.
    failed: bool = False


def ok(*headers: bytes, status: int = 200) -> bytes:
    """Return the head of an answer whose body has four bytes."""
    lines = [b"HTTP/1.1 %d Phrase" % status, b"Content-Length: 4", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def lengthless(*headers: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"HTTP/%b 200 OK" % version, *headers]) + b"\r\n\r\n"


OK = ok()
CHUNKED = lengthless(b"Transfer-Encoding: chunked")
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"


def kept(*parts: bytes, expected: Answer = (200, b"body"), failed: bool = False) -> Case:
    return Case([*parts], expected, failed=failed)


def closed(
    *parts: bytes,
    expected: Answer | str = (200, b"body"),
    hangs_up: bool = False,
    failed: bool = False,
) -> Case:
    return Case([*parts], expected, hangs_up, kept=False, failed=failed)


def broken(*parts: bytes, hangs_up: bool = False) -> Case:
    return Case([*parts], None, hangs_up, kept=False, failed=True)


CASES = {
    "plain": kept(OK + b"body"),
    "in pieces": kept(OK[:9], OK[9:], b"bo", b"dy"),
    "chunked": kept(CHUNKED, b"2\r\nbo\r\n", b"2\r\ndy\r\n0\r\n\r\n"),
    "trailers": kept(CHUNKED, b"4\r\nbody\r\n0\r\nA: b\r\n\r\n"),
    "empty": kept(OK.replace(b"4", b"0"), expected=(200, b"")),
    "no content": kept(b"HTTP/1.1 204 No Content\r\n\r\n", expected=(204, b"")),
    "not modified": kept(ok(status=304), expected=(304, b"")),
    "HEAD": kept(OK, expected=(200, b"")),
    "HEAD chunked": kept(CHUNKED, expected=(200, b"")),
    "100": kept(b"HTTP/1.1 100 Continue\r\n\r\n", OK, b"body"),
    "103": kept(EARLY_HINTS, OK, b"body"),
    "102, 103": kept(b"HTTP/1.1 102 A\r\n\r\n" + EARLY_HINTS + OK + b"bo", b"dy"),
    "101": broken(b"HTTP/1.1 101 Up\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
    "close": closed(ok(b"Connection: close"), b"body"),
    "close, second line": closed(ok(b"Connection: x", b"Connection: close") + b"body"),
    "close, chunked": closed(
        lengthless(b"Transfer-Encoding: chunked", b"Connection: close"),
        b"4\r\nbody\r\n",
        b"0\r\n\r\n",
        hangs_up=True,
    ),
    "to the end": closed(lengthless(), b"bo", b"dy", hangs_up=True),
    "1.0": closed(lengthless(version=b"1.0"), b"body", hangs_up=True),
    "1.0, length": closed(OK.replace(b"1.1", b"1.0"), b"body"),
    "1.0, keep-alive": kept(
        lengthless(b"Connection: keep-alive", b"Content-Length: 4", version=b"1.0"), b"body"
    ),
    "two lengths": closed(ok(b"Content-Length: 5") + b"body", expected=""),
    "length and chunked": closed(
        ok(b"Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\n\r\n", expected=""
    ),
    "no answer": broken(hangs_up=True),
    "half a line": broken(OK[:30], hangs_up=True),
    "half a head": broken(b"HTTP/1.1 200 OK\r\nA: b\r\n", hangs_up=True),
    "half an interim head": broken(EARLY_HINTS[:-2], hangs_up=True),
    "cut": broken(OK, b"bo", hangs_up=True),
    "cut, chunked": broken(CHUNKED, b"4\r\nbody\r\n", hangs_up=True),
    "no chunk": broken(CHUNKED, b"4\r\nbody\r\nxyz\r\n"),
    "silent": broken(),
    "silent in the body": broken(OK, b"bo"),
    "no HTTP": broken(b"220 ready ESMTP\r\n\r\n"),
    "500": kept(ok(status=500), b"body", expected=(500, b"body")),
    "502": kept(ok(status=502), b"body", expected=(502, b"body"), failed=True),
    "503": kept(ok(status=503), b"body", expected=(503, b"body"), failed=True),
    "504, close": closed(
        ok(b"Connection: close", status=504), b"body", expected=(504, b"body"), failed=True
    ),
    "early answer": closed(ok(status=413) + b"body", expected=(413, b"body"), hangs_up=True),
    "we say close": closed(OK + b"body"),
}


def check_framing(make: Callable[[SlotPool, float], Client]) -> None:
    script = Script()
    with pool_of([script.server.server_port or 0], 1) as pool:
        client, hasty = make(pool, 5.0), make(pool, 0.3)
        for name, case in CASES.items():
            if name in client.unsupported:
                continue
            wait_for_lowest(pool)
            requests = script.requests
            before = pool.stats()
            script.parts, script.then_close = case.parts, case.hangs_up
            script.reads_bodies = name != "early answer"
            method = "HEAD" if "HEAD" in name else "POST" if "early" in name else "GET"
            body = b"x" * 5_000_000 if "early" in name else None
            headers = {"connection": "Close"} if name == "we say close" else None
            answer: object
            reason: BaseException | None = None
            try:
                # Only where no answer may come it's not to be waited for.
                asker = client if isinstance(case.expected, tuple) else hasty
                answer = asker.ask(method, "/", body, headers)
            except client.errors as exc:
                answer, reason = None, exc
            assert case.expected in ("", answer), (name, answer, reason)
            assert script.requests == requests + 1, (name, "asked again")
            # It's back, or another one is there.
            check_whole(pool)
            script.parts, script.then_close, script.reads_bodies = [OK, b"fine"], False, True
            assert client.ask("GET", "/fine") == (200, b"fine"), name
            after = pool.stats()
            assert (lost(after) == lost(before)) == case.kept, (name, reason)
            # An odd answer may be an error or not.
            if case.expected != "":
                assert after.failures - before.failures == case.failed, (name, reason)
        wait_for_lowest(pool)
        left = pool.stats().closed
        script.parts = [OK.replace(b": 4", b": 400000") + b"x" * 400000]
        assert client.leave("/") == b"xxxx"
        wait_until(lambda: pool.stats().closed["discarded"] == left["discarded"] + 1)
        check_whole(pool)
        check_in_pieces(client, script, pool)
        before = pool.stats()
        client.check_more(script, pool)
        assert pool.stats().failures == before.failures
        check_none_idle(hasty, pool)
        pool.close()
        with raises(client.errors):
            client.ask("GET", "/")
    script.server.stop()


def wait_for_lowest(pool: SlotPool) -> None:
    """Wait until the one connection has the lowest slot, so that none comes in its place.

    It would have a higher one if it was made before the server saw the end of the one before
    it; then a lower one may come while it's leased, and in the end it counts as replaced,
    whatever its answer said.
    """
    check_whole(pool)
    wait_until(lambda: pool.slots() == [(0, False)], state=lambda: pool)


def check_in_pieces(client: Client, script: Script, pool: SlotPool) -> None:
    before = pool.stats()
    script.parts = [OK, b"bo", b"dy"]
    assert client.read_in_pieces("/") == b"body"
    script.parts = [CHUNKED, b"2\r\nbo\r\n", b"2\r\ndy\r\n", b"0\r\n\r\n"]
    assert client.read_in_pieces("/") == b"body"
    after = pool.stats()
    assert (lost(after), after.failures) == (lost(before), before.failures)
    for parts in ([OK, b"bo"], [CHUNKED, b"2\r\nbo\r\n"]):
        script.parts, script.then_close = parts, True
        with raises(client.errors):
            client.read_in_pieces("/")  # Half a body isn't taken for a whole one.
        check_whole(pool)
    script.then_close = False
    assert pool.stats().failures == before.failures + 2


def check_none_idle(client: Client, pool: SlotPool) -> None:
    wait_for_lowest(pool)
    socket = pool.acquire()
    with raises(client.errors) as caught:
        client.ask("GET", "/")
    expected = "PoolTimeout", "ConnectTimeoutError", "ConnectTimeout"
    assert type(caught.value).__name__ in expected, caught
    pool.release(socket)


# Against real servers


def check_features(client: Client, pool: SlotPool) -> None:
    before = pool.stats()
    assert client.ask("GET", "/host") == (200, HOST.encode())
    assert client.ask("HEAD", "/echo?x=1") == (200, b"")
    assert client.ask("GET", "/empty") == (204, b"")
    assert client.ask("GET", "/same") == (304, b"")
    assert client.ask("GET", "/app/chunks?x=ab") == (200, b"ab" * 1000)
    assert client.ask("HEAD", "/app/chunks?x=ab") == (200, b"")
    body = os.urandom(300_000)
    assert client.ask("POST", "/app/echo", body) == (200, body)
    assert client.ask("PUT", "/app/echo", iter([body[:7], body[7:]])) == (200, body)
    assert client.ask("POST", "/app/echo", b"") == (200, b"")
    status, text = client.ask("GET", "/moved")
    assert (status, text) == (200, b"moved") if client.follows else status == 302
    for _ in range(30):
        assert client.ask("GET", "/echo?x=kept") == (200, b"kept")
    after = pool.stats()
    assert (lost(after), after.failures) == (lost(before), before.failures), after
    assert client.ask("GET", "/broken")[0] == 500  # after which nginx hangs up
    assert pool.stats().failures == before.failures
    assert client.ask("GET", "/unavailable")[0] == 503
    assert pool.stats().failures == before.failures + 1
    # A server that closes after some requests costs nobody anything.
    for number in range(40):
        assert client.ask("GET", f"/few?x={number}") == (200, b"%d" % number)
    after = pool.stats()
    assert after.closed["discarded"] > before.closed["discarded"], after
    assert after.failures == before.failures + 1, after
    assert client.leave("/big") == b"bbbb"
    check_whole(pool)


def one_request(client: Client) -> None:
    """Send one request of several kinds, with unique data, and see its own answer."""
    text = f"{next(numbers)}-{rng.random()}"
    kind = rng.randrange(10)
    if kind == 0:
        assert client.leave("/big") == b"bbbb"
        return
    if kind < 4:
        answer, expected = client.ask("GET", f"/echo?x={quote(text)}"), text
    elif kind < 7:
        answer, expected = client.ask("GET", f"/app/chunks?x={quote(text)}"), text * 1000
    else:
        answer, expected = client.ask("POST", "/app/echo", text.encode() * 50), text * 50
    assert answer == (200, expected.encode()), (answer[0], answer[1][:100], text)


def check_load(client: Client, pool: SlotPool) -> None:
    side_by_side(lambda: one_request(client), 15)
    check_whole(pool)
    with Ticker() as ticker:
        began = time.monotonic()
        jobs = [gevent.spawn(client.ask, "GET", "/app/slow?x=1") for _ in range(SLOTS)]
        gevent.joinall(jobs, raise_error=True)
        assert time.monotonic() - began < 2.5
    assert ticker.longest < 0.7, ticker.longest


def check_kills(client: Client, pool: SlotPool) -> None:
    outcomes: Counter[str] = Counter()

    def one() -> None:
        outcome = "timed out"
        try:
            with at_most(rng.choice([rng.uniform(0.0005, 0.02), 30])):
                one_request(client)
                outcome = "answered"
        except gevent.GreenletExit:
            outcome = "killed"
            raise
        finally:
            outcomes[outcome] += 1

    def sometimes_killed() -> None:
        job = gevent.spawn(one)
        if rng.random() < 0.5:
            job.join(rng.uniform(0, 0.02))
            job.kill()
        job.get()

    check_whole(pool)
    gc.collect()
    with no_descriptor_leaks():
        side_by_side(sometimes_killed, 25)
        # One killed before its start does nothing.
        assert sum(outcomes.values()) <= 25 * GREENLETS
        assert min(outcomes[each] for each in ("killed", "timed out", "answered")) > 10, outcomes
        check_whole(pool)
        gc.collect()
    for _ in range(50):
        one_request(client)


def check_restart(client: Client, pool: SlotPool, control: int) -> None:
    with (
        socket.create_connection(("127.0.0.1", control)) as sock,
        Load(lambda: one_request(client), client.errors) as load,
    ):
        for _ in range(2):
            load.wait_for_answers(50)
            sock.sendall(b"kill\n")
            assert sock.recv(3) == b"ok\n"
            load.wait_for_failures(3)
            sock.sendall(b"start\n")
            assert sock.recv(3) == b"ok\n"
        load.wait_for_answers(50)
    check_whole(pool)
    for _ in range(20):
        one_request(client)


def main(name: str, control: int, fronts: list[int]) -> None:
    make = CLIENTS[name]
    check_framing(make)
    with pool_of(fronts, SLOTS) as pool:
        client = make(pool, 5.0)
        check_features(client, pool)
        check_load(client, pool)
        check_kills(client, pool)
        check_restart(client, pool, control)
    print(f"{name}: all is well")


if __name__ == "__main__":
    with gevent.Timeout(45, AssertionError("it takes too long")):
        main(sys.argv[1], int(sys.argv[2]), [int(port) for port in sys.argv[3:]])
