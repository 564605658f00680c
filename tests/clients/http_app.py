"""The WSGI app behind the web server of the HTTP clients' tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

import gevent


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    text = parse_qs(environ["QUERY_STRING"]).get("x", [""])[0]
    headers = [("Content-Type", "application/octet-stream")]
    if environ["PATH_INFO"] == "/app/echo":
        body = environ["wsgi.input"].read()
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [body]
    if environ["PATH_INFO"] == "/app/slow":
        gevent.sleep(float(text))
        start_response("200 OK", [*headers, ("Content-Length", "4")])
        return [b"slow"]
    start_response("200 OK", headers)  # without a length: chunked
    return (text.encode() * 100 for _ in range(10))
