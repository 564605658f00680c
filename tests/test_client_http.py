"""The recipes for HTTP clients: examples/clients/http_client_pool.py and its neighbours."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, ClassVar

import pytest
from backends import CHECKS, NGINX, client_library, free_port, fronts, program, run_check, running
from gevent.server import StreamServer

pytestmark = pytest.mark.integration

CONFIGURATION = (
    NGINX
    + """
    client_max_body_size 10m;
    keepalive_timeout 60s;
    absolute_redirect off;
    upstream app {{
        server 127.0.0.1:{app};
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=128;
        location = /echo {{ return 200 $arg_x; }}
        location = /host {{ return 200 $http_host; }}
        location = /empty {{ return 204; }}
        location = /same {{ return 304; }}
        location = /moved {{ return 302 /echo?x=moved; }}
        location = /broken {{ return 500; }}
        location = /unavailable {{ return 503; }}
        location = /few {{
            keepalive_requests 5;
            return 200 $arg_x;
        }}
        location = /big {{ root {directory}; }}
        location /app/ {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream off;
        }}
    }}
}}
"""
)


#: The packages that the recipe for each client imports.
PACKAGES: dict[str, list[str]] = {
    "http.client": [],
    "urllib3": ["urllib3", "requests"],  # one module for both
    "requests": ["urllib3", "requests"],
    "geventhttpclient": ["geventhttpclient"],
}


class WebServer:
    """nginx, with gunicorn behind it; the former can be killed and started again."""

    def __init__(self, directory: Path, app: int) -> None:
        self.port = free_port()
        self._configuration = directory / "nginx.conf"
        self._configuration.write_text(
            CONFIGURATION.format(directory=directory, port=self.port, app=app)
        )
        (directory / "big").write_bytes(b"b" * 1_000_000)
        self._error_log = directory / "error.log"
        self._stack = ExitStack()
        self._process: Any = None

    def start(self) -> None:
        command = [program("nginx"), "-e", str(self._error_log), "-c", str(self._configuration)]
        self._process = self._stack.enter_context(running(*command, port=self.port))

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._stack.close()

    def close(self) -> None:
        self._stack.close()

    def obey(self, sock: Any, address: object) -> None:
        """Do what a check says on the control port."""
        with sock.makefile("rb") as lines:
            for line in lines:
                {b"kill\n": self.kill, b"start\n": self.start}[line]()
                sock.sendall(b"ok\n")


@pytest.fixture(params=[*PACKAGES])
def client(request: pytest.FixtureRequest) -> str:
    """Give the name of a client whose packages are installed."""
    name: str = request.param
    for package in PACKAGES[name]:
        client_library(package)
    return name


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[WebServer]:
    app = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "1", "--keep-alive", "60"]
    command += ["-b", f"127.0.0.1:{app}", "--chdir", str(CHECKS), "http_app:application"]
    with running(*command, port=app, cwd=tmp_path):
        server = WebServer(tmp_path, app)
        server.start()
        try:
            yield server
        finally:
            server.close()


@pytest.mark.parametrize("patched", [False, True], ids=["unpatched", "patched"])
def test_requests_get_their_own_answers_whatever_happens(
    client: str, patched: bool, web_server: WebServer
) -> None:
    control = StreamServer(("127.0.0.1", 0), web_server.obey)
    control.start()
    try:
        with fronts(web_server.port, web_server.port) as servers:
            ports = [server.server_port for server in servers]
            output = run_check(
                "http_check.py", client, control.server_port, *ports, patched=patched
            )
    finally:
        control.stop()
    assert f"{client}: all is well" in output


def test_geventhttpclient_has_what_its_recipe_uses() -> None:
    client_library("geventhttpclient")
    import geventhttpclient
    from geventhttpclient.connectionpool import ConnectionPool

    # Its private names: ``_connection_pool`` of a client, ``_sock`` and ``_pool`` of a response.
    class Recording(ConnectionPool):
        calls: ClassVar[list[str]] = []

        def get_socket(self) -> Any:
            self.calls.append("get")
            return super().get_socket()

        def return_socket(self, sock: Any) -> None:
            self.calls.append("return")
            super().return_socket(sock)

    def answer(sock: Any, address: object) -> None:
        while sock.recv(1024):
            sock.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * hints + b"HTTP/1.1 200 OK\r\n")
            sock.sendall(b"Content-Length: 2000\r\n\r\n" + bytes(2000))

    hints = 0
    server = StreamServer(("127.0.0.1", 0), answer)
    server.start()
    port = server.server_port or 0
    client = geventhttpclient.HTTPClient("127.0.0.1", port, block_size=100)
    client._connection_pool = pool = Recording("127.0.0.1", port, "127.0.0.1", port)
    response = client.get("/")
    assert Recording.calls == ["get"]
    assert response._pool is pool
    assert response._sock is not None
    assert len(response.read()) == 2000
    assert Recording.calls == ["get", "return"]
    assert response._pool is None
    assert response._sock is None
    if tuple(map(int, geventhttpclient.__version__.split(".")[:2])) >= (2, 5):
        hints = 1
        response = client.get("/")
        # Why the recipe touches a response: if this fails, it needn't any more.
        assert Recording.calls == ["get", "return"] * 2
        assert response._sock is None
        assert not response.message_complete
    client.close()
    server.stop()


def test_http_client_has_what_its_recipe_uses() -> None:
    # Without an underscore, but not documented. That it works is the check's business.
    connection = HTTPConnection("host")
    assert connection.auto_open == 1
    assert connection.sock is None
    assert connection.response_class is HTTPResponse
    assert list(inspect.signature(HTTPResponse.begin).parameters) == ["self"]
