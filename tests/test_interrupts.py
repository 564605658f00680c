"""Handlers of POSIX signals that stop everything, at whatever moment they run."""

from __future__ import annotations

import _thread
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest
from conftest import ROOT, Reported
from gevent import socket, subprocess

from gevent_rover import SlotPool
from gevent_rover.pooling.idle_watch import WATCH_AFTER

SCRIPT = Path(__file__).with_name("interrupt_script.py")
ROUNDS = 300

BEGIN = """
import signal
import gevent
from gevent import socket
from gevent_rover import SlotServer

def handler(*args):
    server.stop()
    done.append(server.started)

done = []
signal.signal(signal.SIGALRM, handler)
"""

# The handler of the signal runs while the hub waits, and so in the hub.
IDLE = """
def serve(slot, sock, address):
    sock.recv(1)

signal.setitimer(signal.ITIMER_REAL, 0.1)
"""

# It runs in the greenlet of a handler of the server, which would kill itself.
SERVING = """
def serve(slot, sock, address):
    signal.raise_signal(signal.SIGALRM)
    sock.recv(1)
"""

END = """
server = SlotServer(("127.0.0.1", 0), serve)
server.stop_timeout = 0.05
server.start()
client = socket.create_connection(server.address)
client.recv(3)
with gevent.Timeout(5):
    assert client.recv(1) == b""
    while server.started or len(server.slots) or not done:
        gevent.sleep(0.001)
client.close()
print(done, flush=True)
"""


def run(*arguments: str) -> str:
    """Run Python with these arguments, see it end well and quietly, and return what it printed."""
    paths = [str(ROOT), str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert isinstance(result.stdout, str)
    return result.stdout


@pytest.mark.integration
@pytest.mark.parametrize("way", ["signal.signal", "gevent.signal_handler", "in the hub"])
def test_all_that_a_signal_stops_at_random_moments_is_stopped_and_nothing_leaks(way: str) -> None:
    seed = random.randrange(2**32)
    print(f"{way}, seed {seed}")
    told = json.loads(run(str(SCRIPT), way, str(seed), str(ROUNDS)))
    if way == "signal.signal":
        assert told["put off"] > 0  # Else no step was interrupted, and nothing was shown.
    elif way == "gevent.signal_handler":
        assert told["put off"] == 0  # A greenlet interrupts no step.


def test_a_pool_that_a_signal_closes_right_before_it_looks_at_idle_ones_does_nothing(
    offer: Callable[..., socket.socket], reported: Reported
) -> None:
    pool = SlotPool(max_slots=1)
    offer(pool)
    previous = signal.signal(signal.SIGALRM, lambda *args: pool.close())
    timer = gevent.get_hub().loop.timer(WATCH_AFTER)
    try:
        # The function in C only notes the signal; the hub handles it before it calls back.
        timer.start(_thread.interrupt_main, signal.SIGALRM, update=True)
        with pool.lease():
            pass
        gevent.sleep(5 * WATCH_AFTER)  # In one sleep: what is due together is called together.
    finally:
        timer.close()
        signal.signal(signal.SIGALRM, previous)
    assert pool.closed
    assert reported == []


@pytest.mark.parametrize("where", [IDLE, SERVING], ids=["in the hub", "in one of its handlers"])
def test_a_server_that_a_signal_stops_ends_its_handlers(where: str) -> None:
    told = run("-c", BEGIN + where + END)
    assert told in ("[True]\n", "[False]\n")
