"""The WSGI app that shows what clients are up to: the page, and JSON for it and for others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from gevent import get_hub

from gevent_rover.pooling.pool import SlotPool
from gevent_rover.roving.rover import Rover
from gevent_rover.status.collect import Collector
from gevent_rover.status.merge import merged, reports_of
from gevent_rover.status.page import page
from gevent_rover.status.sockets import socket_name
from gevent_rover.status.texts import line_of, text_of

_Environ: TypeAlias = Mapping[str, Any]
_Answer: TypeAlias = tuple[str, list[tuple[str, str]], bytes]

#: With each answer: whose it is, and that no browser lends it to anybody else.
_HEADERS: Final = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
]


def status_app(
    rover: Rover | None,
    pool: SlotPool[Any] | None = None,
    *,
    name: str = "pool",
    workers: str | None = None,
) -> StatusApp:
    """Return a WSGI app that shows a rover and its pool; to be mounted, or served alone.

    Its page is at ``/``; ``/status.json`` is what it shows, as one document, and
    ``/workers.ndjson`` the snapshots it's made of, a line for each worker. It reads no more
    than :func:`snapshot` does, asks for nothing, and refuses what isn't a GET or HEAD,
    has a body, or comes from another site's page. Who may see it is for the app
    to say that mounts it.

    :param name: of the pool, to tell it from others of the same process.
    :param workers: the folder in which each worker has a :class:`StatusServer`: then it
        shows all of them as one, whichever worker is asked.
    """
    collector = None if workers is None else Collector(workers)

    def lines() -> list[bytes]:
        own = line_of("this worker", rover, pool, name)
        others = [] if collector is None else collector.raw(skip=socket_name(name))
        return [own, *others]

    return StatusApp(lines)


class StatusApp:
    """A WSGI app that shows the snapshots that ``lines`` returns.

    :param lines: called for each request that needs them; may switch. Each line is a JSON
        object with ``where``, and ``snapshot`` or ``error``.
    """

    def __init__(self, lines: Callable[[], Iterable[bytes]]) -> None:
        self._lines = lines

    def __call__(self, environ: _Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        status, headers, body = self._refused(environ) or self._answer(environ)
        headers = [*headers, *_HEADERS, ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: _Environ) -> _Answer:
        path = environ.get("PATH_INFO", "")
        if path == "/":
            document, policy = page()
            return _ok("text/html; charset=utf-8", document, ("Content-Security-Policy", policy))
        if path == "/workers.ndjson":
            return _ok("application/x-ndjson", b"\n".join([*self._lines(), b""]))
        if path == "/status.json":
            return _ok("application/json", _merged_text(list(self._lines())))
        if path == "":
            # Mounted: else the page's relative links would lead beside it.
            where = environ.get("SCRIPT_NAME", "").rpartition("/")[2] + "/"
            return _plain("308 Permanent Redirect", "The page is here, and a slash.", where)
        return _plain("404 Not Found", "There is the page at /, /status.json and /workers.ndjson.")

    def _refused(self, environ: _Environ) -> _Answer | None:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, _, body = _plain("405 Method Not Allowed", "Only GET and HEAD.")
            return status, [_PLAIN, ("Allow", "GET, HEAD")], body
        if environ.get("CONTENT_LENGTH") not in (None, "", "0") or environ.get(
            "HTTP_TRANSFER_ENCODING"
        ):
            return _plain("413 Content Too Large", "A request has no body here.")
        if _is_of_another_site(environ):
            return _plain("403 Forbidden", "The page of another site asks for this.")
        return None


def _merged_text(lines: list[bytes]) -> bytes:
    """Return what these come to, as JSON.

    Eight workers with 200 servers each are some 75 ms of work: not for the hub's thread.
    """

    def text() -> bytes:
        return text_of(merged(reports_of(lines))).encode()

    if len(lines) < 2:
        return text()
    merged_text: bytes = get_hub().threadpool.apply(text)
    return merged_text


_PLAIN: Final = ("Content-Type", "text/plain; charset=utf-8")


def _ok(kind: str, body: bytes, *headers: tuple[str, str]) -> _Answer:
    return "200 OK", [("Content-Type", kind), *headers], body


def _plain(status: str, text: str, location: str = "") -> _Answer:
    headers = [_PLAIN, *([("Location", location)] if location else [])]
    return status, headers, f"{text}\n".encode()


def _is_of_another_site(environ: _Environ) -> bool:
    """Tell whether the page of another site makes this request.

    Browsers say so (Fetch Metadata, W3C), older ones in ``Origin``; programs say nothing.
    A link that a person follows to the page is no such request.
    """
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and urlsplit(origin).netloc != environ.get("HTTP_HOST"):
        return True
    site = environ.get("HTTP_SEC_FETCH_SITE", "none")
    followed = environ.get("HTTP_SEC_FETCH_MODE") == "navigate" and environ.get("PATH_INFO") == "/"
    return site not in ("none", "same-origin") and not followed
