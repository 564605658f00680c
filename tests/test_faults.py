"""The corpus in tests/faults, played against the real rover; and the page that lists it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
import trustme
from certificates import client_context
from conftest import Event, Listener, open_descriptors, wait_until
from fault_script import Script, Tls, read_exactly, served
from gevent import ssl

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

Rovers = Callable[..., tuple[Rover, list[Event]]]


def end_of(sock: Listener) -> str:
    """Return how a socket's stream goes on, when nothing more should come."""
    sock.settimeout(0)
    try:
        data = sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
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


def message_of(event: Event) -> str:
    """Return the text of the exception that a signal carries."""
    _, keywords = event
    return str(keywords["attempt"].error if "attempt" in keywords else keywords.get("error"))


def attempts_of(events: list[Event]) -> list[Any]:
    return [keywords["attempt"] for name, keywords in events if name == "attempt"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("way", ["connect", "loop"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_server_with_this_fault_is_published_as_the_corpus_says(
    authority: trustme.CA,
    no_leaks: None,
    rover_of: Rovers,
    tmp_path: Path,
    path: Path,
    way: str,
) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    attempts, leaves = case.get("attempts", 1), case["leaves"]
    signals = [dict(signal) for signal in case["signals"] * attempts]
    messages = [signal.pop("says", "") for signal in signals]
    script = Script(case.get("phases", []), Tls(authority, **case.get("tls", {})))
    context = {"plain": None, "TLS": client_context(authority)}[case.get("client", "plain")]
    before = open_descriptors()
    with served(case.get("server", "accepts"), script, str(tmp_path / "s")) as server:
        rover, events = rover_of(
            {"server": server},
            timeout=case.get("timeout", 30),
            roving_interval=3600,
            ssl_context=context,
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

        assert [described(event, server) for event in events] == signals
        for event, message in zip(events, messages, strict=True):
            assert message in message_of(event)
        for attempt in attempts_of(events):
            assert attempt.elapsed <= case.get("within", 5)
        sockets = [keywords["socket"] for name, keywords in events if name == "connection"]
        assert len(sockets) == (0 if leaves is None else attempts)
        for sock in sockets:
            assert sock.gettimeout() is None
            expected = leaves["reads"].encode() * leaves.get("times", 1)
            sock.sendall(leaves.get("sends", "").encode())
            assert read_exactly(sock, len(expected)) == expected
            if "ticket" in leaves:
                assert sock.session.has_ticket == leaves["ticket"]
        if sockets:
            wait_until(lambda: script.played == attempts)
        for sock in sockets:
            assert end_of(sock) in leaves["ends"].split(" or ")
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
    authority: trustme.CA, closing: Callable[[Any], Any]
) -> None:
    script = Script([{"send": "0\r\n"}, "close"], Tls(authority))
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
