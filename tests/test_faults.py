"""The corpus in tests/faults, played against the real rover; and the page that lists it."""

from __future__ import annotations

import ast
import json
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from conftest import Event, Listener, open_descriptors, wait_until
from gevent import socket
from gevent.server import StreamServer
from gevent.socket import wait_write

from gevent_rover import Rover, Server, SlotPool

ROOT = Path(__file__).parent.parent
CASES = sorted((ROOT / "tests" / "faults").glob("*.json"))
PAGE = ROOT / "docs" / "faults.md"

KEYWORDS = {
    "connection": {"slot", "socket"},
    "unreachable": {"id", "server"},
    "error": {"error"},
    "attempt": {"attempt"},
}

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset

Rovers = Callable[..., tuple[Rover, list[Event]]]


class Script:
    """What a server does with each of its connections."""

    def __init__(self, phases: list[Any]) -> None:
        self.phases = phases
        self.accepted = self.played = self.ended = 0
        self.failures: list[str] = []

    def __call__(self, sock: Listener, address: object) -> None:
        self.accepted += 1
        try:
            for phase in self.phases:
                self.play(sock, phase)
            self.played += 1
            while sock.fileno() >= 0 and sock.recv(65536):
                pass
        except OSError:
            pass  # The client hung up on it, as it may.
        finally:
            self.ended += 1

    def play(self, sock: Listener, phase: Any) -> None:
        match phase:
            case {"send": str(text), "times": int(times), "every": float() | int() as pause}:
                for _ in range(times):
                    gevent.sleep(pause)
                    sock.sendall(text.encode())
            case {"send": str(text), "times": int(times)}:
                sock.sendall(text.encode() * times)
            case {"send": str(text)}:
                sock.sendall(text.encode())
            case {"hex": str(digits)}:
                sock.sendall(bytes.fromhex(digits))
            case {"receive": str(text)}:
                received = read_exactly(sock, len(text.encode()))
                if received != text.encode():
                    self.failures.append(f"received {received!r}, not {text!r}")
            case {"wait": float() | int() as seconds}:
                gevent.sleep(seconds)
            case "half-close":
                sock.shutdown(socket.SHUT_WR)
            case "close":
                sock.close()
            case "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                sock.close()
            case _:
                self.failures.append(f"no such phase: {phase!r}")


@contextmanager
def served(kind: str, script: Script, path: str) -> Iterator[Server]:
    """Run a server of that kind, and give its entry of the registry."""
    who, _, unix = kind.partition(", ")
    with ExitStack() as stack:
        listener = stack.enter_context(
            socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
        )
        listener.bind(path if unix else ("127.0.0.1", 0))
        if who != "nobody":
            listener.listen(0 if who in ("full", "drops the SYN") else 100)
        if who == "accepts":
            server = StreamServer(listener, script, spawn=1000)
            server.start()
            stack.callback(server.stop, timeout=0)
        elif who in ("full", "drops the SYN"):
            fill(listener, stack)
        else:
            assert who in ("nobody", "never accepts"), f"no such server: {kind!r}"
        address = listener.getsockname()
        yield {"path": path} if unix else {"host": address[0], "port": address[1]}


def fill(listener: Listener, stack: ExitStack) -> None:
    """Connect to a listener until there's no place in its queue any more."""
    for _ in range(20):
        sock = stack.enter_context(socket.socket(listener.family, socket.SOCK_STREAM))
        sock.setblocking(False)
        try:
            sock.connect(listener.getsockname())
        except BlockingIOError:  # EAGAIN is a Unix socket's
            if listener.family == socket.AF_UNIX:
                return
            try:
                # On loopback the handshake is over before connect() returns.
                wait_write(sock.fileno(), timeout=0.1, timeout_exc=TimeoutError)
            except TimeoutError:
                return
    raise AssertionError("the listener's queue doesn't fill up")


def read_exactly(sock: Listener, size: int) -> bytes:
    """Read ``size`` bytes, or to the end if that comes first."""
    data = bytearray()
    while len(data) < size and (chunk := sock.recv(size - len(data))):
        data += chunk
    return bytes(data)


def end_of(sock: Listener) -> str:
    """Return how a socket's stream goes on, when nothing more should come."""
    sock.settimeout(0)
    try:
        data = sock.recv(1)
    except BlockingIOError:
        return "open"
    except ConnectionResetError:
        return "reset"
    return f"more: {data!r}" if data else "eof"


def described(event: Event, server: Server) -> dict[str, Any]:
    """Return a signal in the corpus's form, once its keywords are what they must be."""
    name, keywords = event
    assert set(keywords) == KEYWORDS[name]
    if name == "connection":
        slot = keywords["slot"]
        assert (slot.server_id, slot.server) == ("server", server)
        return {"signal": name, "slot": int(slot)}
    if name == "unreachable":
        assert keywords == {"id": "server", "server": server}
        assert keywords["server"] is server
        return {"signal": name}
    if name == "error":
        error = keywords["error"]
        assert (error.id, error.server) == ("server", server)
        return {"signal": name, "error": type(error).__name__}
    attempt = keywords["attempt"]
    assert (attempt.id, attempt.server) == ("server", server)
    return {
        "signal": name,
        "outcome": attempt.outcome,
        "slot": attempt.slot,
        "error": None if attempt.error is None else type(attempt.error).__name__,
    }


def attempts_of(events: list[Event]) -> list[Any]:
    return [keywords["attempt"] for name, keywords in events if name == "attempt"]


@pytest.mark.parametrize("way", ["connect", "loop"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_server_with_this_fault_is_published_as_the_corpus_says(
    no_leaks: None, rover_of: Rovers, tmp_path: Path, path: Path, way: str
) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    attempts, leaves = case.get("attempts", 1), case["leaves"]
    script = Script(case.get("phases", []))
    before = open_descriptors()
    with served(case.get("server", "accepts"), script, str(tmp_path / "s")) as server:
        rover, events = rover_of(
            {"server": server}, timeout=case.get("timeout", 30), roving_interval=3600
        )
        for number in range(1, attempts + 1):
            if way == "connect":
                rover.connect()
            else:
                rover.start()
                with gevent.Timeout(10):
                    while len(attempts_of(events)) < number:
                        gevent.sleep(0.005)
        rover.stop()

        assert [described(event, server) for event in events] == case["signals"] * attempts
        for attempt in attempts_of(events):
            assert attempt.elapsed <= case.get("within", 5)
        sockets = [keywords["socket"] for name, keywords in events if name == "connection"]
        assert len(sockets) == (0 if leaves is None else attempts)
        for sock in sockets:
            assert sock.gettimeout() is None
            expected = leaves["reads"].encode() * leaves.get("times", 1)
            sock.sendall(leaves.get("sends", "").encode())
            assert read_exactly(sock, len(expected)) == expected
        if sockets:
            wait_until(lambda: script.played == attempts)
        assert [end_of(sock) for sock in sockets] == [leaves["ends"] for sock in sockets]
        descriptors = {sock.fileno() for sock in sockets}
        if leaves is not None:
            assert descriptors <= open_descriptors()
            for sock in sockets:
                sock.close()
        # The server's view of it: each connection has seen its client's end.
        wait_until(lambda: script.ended == script.accepted)
    assert script.failures == []
    if case.get("server", "accepts").startswith("accepts"):
        assert script.accepted == attempts
    assert open_descriptors() == before


def test_a_server_that_hangs_up_behind_its_slot_does_not_keep_the_rover_racing(
    rover_of: Rovers, closing: Callable[[Any], Any], tmp_path: Path
) -> None:
    script = Script([{"send": "0\r\n"}, "close"])
    with served("accepts", script, "") as server:
        rover = closing(Rover({"server": server}, roving_interval=3600))
        pool = closing(SlotPool(rover, max_slots=5))
        rover.start()
        wait_until(lambda: script.ended and not rover.pending and not pool.size)
        gevent.sleep(0.3)
        # The tick's own, and those on their way when the first one died: at
        # most as many as connections were wanted. Unlimited, it'd be thousands.
        assert 1 <= script.accepted <= 1 + 5
        assert (pool.size, rover.pending) == (0, 0)


# The page


def named_tests(text: str) -> set[str]:
    return set(re.findall(r"tests/[\w/-]+\.(?:py(?:::\w+)?|json)", text))


def test_every_test_that_the_page_names_exists() -> None:
    names = named_tests(PAGE.read_text(encoding="utf-8"))
    assert names
    for name in names:
        file, _, function = name.partition("::")
        assert (ROOT / file).is_file(), name
        if file.endswith(".py"):
            assert function, f"{name}: which of its tests?"
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert function.startswith("test_")
            assert function in {
                node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
            }, name


def test_the_page_names_every_case_of_the_corpus() -> None:
    names = named_tests(PAGE.read_text(encoding="utf-8"))
    assert [path.name for path in CASES if f"tests/faults/{path.name}" not in names] == []


def test_every_line_of_the_pages_tables_names_a_test() -> None:
    text = PAGE.read_text(encoding="utf-8")
    lines = re.findall(r"^\| (?!what ).*", text, re.MULTILINE)
    assert len(lines) > 20
    assert [line for line in lines if not named_tests(line)] == []
