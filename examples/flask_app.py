"""A monkey-patched Flask app on gevent's own WSGI server, with a slot pool behind it.

Usage: python examples/flask_app.py HOST:PORT …, where slot_server.py listens;
then GET /colour and PUT /colour. SIGTERM or SIGINT ends it.
"""

from __future__ import annotations

# First of all, before anything imports socket:
from gevent import monkey

monkey.patch_all()

import signal  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
from flask import Flask, abort, request  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402

from gevent_rover import PoolTimeout, Rover, SlotPool, parse_server  # noqa: E402

app = Flask(__name__)
rover = Rover()
pool = SlotPool(rover, max_slots=20)


def ask(line: str) -> str:
    """Send one request over an idle connection, and return the answer."""
    with pool.lease(timeout=2.0) as socket:
        socket.sendall(line.encode() + b"\r\n")
        answer = b""
        while not answer.endswith(b"\r\n"):
            chunk = socket.recv(4096)
            if not chunk:
                raise ConnectionResetError("the server hung up")
            answer += chunk
        return answer.decode().rstrip("\r\n")


@app.get("/<key>")
def get(key: str) -> str:
    answer = ask(f"GET {key}")
    if answer.startswith("ERROR"):
        abort(404)
    return answer


@app.put("/<key>")
def put(key: str) -> str:
    value = " ".join(request.get_data(as_text=True).split())
    return ask(f"SET {key} {value}")


@app.errorhandler(PoolTimeout)
def busy(exc: PoolTimeout) -> tuple[str, int]:
    return f"{exc}\n", 503


def main(addresses: list[str]) -> None:
    for address in addresses:
        rover.add_server(*parse_server(address))
    server = WSGIServer(("127.0.0.1", 0), app, log=None)
    server.start()
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.close)
    with rover, pool:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
