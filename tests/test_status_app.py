"""The status app as WSGI servers call it: what it answers, and what it refuses."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
import trustme
from conftest import entry, wait_until

from gevent_rover import Rover, SlotPool, SlotServer
from gevent_rover.status import StatusApp, StatusServer, status_app

Answer = tuple[str, dict[str, str], bytes]


def ask(app: Any, path: str = "/", method: str = "GET", **environ: str) -> Answer:
    """Return the status, the headers and the body that the app answers with."""
    full: dict[str, Any] = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path}
    full |= {"QUERY_STRING": "", "HTTP_HOST": "app:80", **environ}
    setup_testing_defaults(full)
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], *args: Any) -> Any:
        started.append((status, dict(headers)))

    body: Iterable[bytes] = validator(app)(full, start_response)
    answer = b"".join(body)
    body.close()  # type: ignore[attr-defined]
    [(status, headers)] = started
    return status, headers, answer


def test_the_page_is_one_document_that_may_load_nothing_else(
    rover: Rover, pool: SlotPool[Any]
) -> None:
    status, headers, body = ask(status_app(rover, pool))
    assert status == "200 OK"
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    text = body.decode()
    assert text.lower().startswith("<!doctype html>")
    assert "<style></style>" not in text
    assert "<script></script>" not in text
    assert "src=" not in text.partition("<script>")[0]
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_lines_are_snapshots_and_the_document_is_what_they_come_to(
    rover: Rover, pool: SlotPool[Any]
) -> None:
    app = status_app(rover, pool, name="cache")
    status, headers, body = ask(app, "/workers.ndjson")
    assert (status, headers["Content-Type"]) == ("200 OK", "application/x-ndjson")
    [line] = body.splitlines()
    seen = json.loads(line)["snapshot"]
    assert (seen["pool"]["name"], seen["pool"]["size"]) == ("cache", 2)
    status, headers, body = ask(app, "/status.json")
    assert (status, headers["Content-Type"]) == ("200 OK", "application/json")
    merged = json.loads(body)
    assert [server["id"] for server in merged["servers"]] == ["web1"]
    assert len(merged["workers"]) == len(merged["pools"]) == 1


def test_head_has_the_headers_alone(rover: Rover, pool: SlotPool[Any]) -> None:
    app = status_app(rover, pool)
    _, _, page = ask(app)
    status, headers, body = ask(app, method="HEAD")
    assert (status, headers["Content-Length"], body) == ("200 OK", str(len(page)), b"")


@pytest.mark.parametrize(
    ("path", "environ", "status"),
    [
        ("/", {"method": "POST"}, "405"),
        ("/status.json", {"method": "DELETE"}, "405"),
        ("/", {"CONTENT_LENGTH": "5"}, "413"),
        ("/", {"HTTP_TRANSFER_ENCODING": "chunked"}, "413"),
        ("/../etc/passwd", {}, "404"),
        ("/status.json/", {}, "404"),
        ("//status.json", {}, "404"),
        ("/page.js", {}, "404"),
        ("/workers.ndjson", {"HTTP_ORIGIN": "https://elsewhere.example"}, "403"),
        ("/workers.ndjson", {"HTTP_ORIGIN": "null"}, "403"),
        ("/workers.ndjson", {"HTTP_ORIGIN": "http://app:8080"}, "403"),
        ("/workers.ndjson", {"HTTP_SEC_FETCH_SITE": "cross-site"}, "403"),
        ("/workers.ndjson", {"HTTP_SEC_FETCH_SITE": "same-site"}, "403"),
        (
            "/status.json",
            {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_SEC_FETCH_MODE": "navigate"},
            "403",
        ),
        ("/", {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_SEC_FETCH_MODE": "no-cors"}, "403"),
        ("/workers.ndjson", {"HTTP_ORIGIN": "http://app:80"}, "200"),
        ("/workers.ndjson", {"HTTP_SEC_FETCH_SITE": "same-origin"}, "200"),
        ("/", {"HTTP_SEC_FETCH_SITE": "none", "HTTP_SEC_FETCH_MODE": "navigate"}, "200"),
        ("/", {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_SEC_FETCH_MODE": "navigate"}, "200"),
    ],
)
def test_what_is_refused(path: str, environ: dict[str, str], status: str) -> None:
    asked: list[int] = []

    def lines() -> list[bytes]:
        asked.append(1)
        return []

    got, headers, body = ask(StatusApp(lines), path, **environ)
    assert got.startswith(status)
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    if status != "200":
        assert asked == []
        assert len(body) < 200
        assert b"passwd" not in body


def test_where_it_is_mounted_without_a_slash_it_says_where_the_page_is() -> None:
    status, headers, _ = ask(StatusApp(list), "", SCRIPT_NAME="/internal/status")
    assert (status[:3], headers["Location"]) == ("308", "status/")


def test_several_workers_are_shown_as_one_by_each_of_them(
    rover: Rover, pool: SlotPool[Any], tmp_path: Any
) -> None:
    folder = f"unix:{tmp_path}/workers/"
    app = status_app(rover, pool, workers=folder)
    with StatusServer(rover, pool, folder), StatusServer(rover, None, folder, name="other/pool"):
        _, _, body = ask(app, "/workers.ndjson")
        lines = [json.loads(line) for line in body.splitlines()]
        # Its own socket isn't asked: it knows.
        assert len(lines) == 2
        assert [line["snapshot"]["pool"] is None for line in lines] == [False, True]
        merged = json.loads(ask(app, "/status.json")[2])
        assert (merged["totals"]["workers"], len(merged["servers"])) == (1, 2)
    wait_until(lambda: len(ask(app, "/workers.ndjson")[2].splitlines()) == 1)


def test_it_tells_no_secret(
    closing: Callable[[Any], Any], slot_server: Callable[..., SlotServer], monkeypatch: Any
) -> None:
    authority = trustme.CA()
    monkeypatch.setenv("APP_PASSWORD", "correct horse")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    rover = closing(
        Rover(
            {"web1": {**entry(slot_server()), "server_hostname": "web1.internal"}},
            ssl_context=context,
            timeout=0.2,
            roving_interval=0.05,
        )
    )
    pool = closing(SlotPool(rover))
    rover.on("error", lambda rover, error: None)
    rover.start()
    wait_until(lambda: rover.health.get("web1") is not None)
    app = status_app(rover, pool)
    for path in ("/", "/workers.ndjson", "/status.json"):
        _, headers, body = ask(app, path)
        for secret in (b"correct horse", b"APP_PASSWORD", b"CERTIFICATE", b"ssl_context"):
            assert secret not in body
        assert "Server" not in headers
