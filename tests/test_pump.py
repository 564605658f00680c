"""Bytes between two connections: all of them, in order, and no more than is bounded."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from conftest import open_descriptors, wait_until
from gevent import Greenlet, socket
from test_fork import FORKS, in_child

from gevent_rover.net import pump as pump_module
from gevent_rover.net.pump import CHUNK, Pump
from gevent_rover.net.pumps import Pumps

pytestmark = pytest.mark.usefixtures("no_leaks")

Closing = Callable[[Any], Any]
Pair = Callable[[], tuple[Any, Any]]
#: Two ends that the test has, and the pump between them, in a greenlet.
Pumped = Callable[[], tuple[Any, Any, "Greenlet[..., Pump]"]]

RESET = struct.pack("ii", 1, 0)


@pytest.fixture(params=["TCP", "Unix"])
def pair(request: pytest.FixtureRequest, closing: Closing) -> Pair:
    """Give a function that makes a connection."""
    if request.param == "Unix":
        return lambda: tuple(closing(end) for end in socket.socketpair())
    listener = closing(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def pair() -> tuple[Any, Any]:
        mine = closing(socket.create_connection(listener.getsockname()))
        return mine, closing(listener.accept()[0])

    return pair


@pytest.fixture
def pumps() -> Iterator[Pumps]:
    pumps = Pumps()
    yield pumps
    for pump in list(pumps):
        pump.stop()
    gevent.sleep(0)


@pytest.fixture
def pumped(pair: Pair, pumps: Pumps) -> Pumped:
    def pumped() -> tuple[Any, Any, Greenlet[..., Pump]]:
        (left, near), (far, right) = pair(), pair()
        for end in (left, right):
            end.settimeout(5)
        running = gevent.spawn(pumps.run, near, far)

        def close(running: object) -> None:
            near.close()
            far.close()

        running.rawlink(close)
        gevent.sleep(0)
        return left, right, running

    return pumped


def read_all(sock: Any) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def say(sock: Any, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def fill(sock: Any) -> int:
    """Say as much as there is room for, until nothing has moved for a while; return how much."""
    sock.settimeout(0.2)
    said = 0
    try:
        while True:
            said += sock.send(bytes(65536))
    except TimeoutError:
        return said


def reset(sock: Any) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def test_all_bytes_arrive_in_order_both_ways(pumped: Pumped) -> None:
    left, right, running = pumped()
    there, back = random.randbytes(3_000_000), random.randbytes(2_000_001)
    sayers = [gevent.spawn(say, left, there), gevent.spawn(say, right, back)]
    readers = [gevent.spawn(read_all, right), gevent.spawn(read_all, left)]
    gevent.joinall(sayers, raise_error=True)
    digests = [hashlib.sha256(reader.get(timeout=5)).digest() for reader in readers]
    assert digests == [hashlib.sha256(data).digest() for data in (there, back)]
    pump = running.get(timeout=5)
    assert [flow.carried for flow in pump.flows] == [len(there), len(back)]
    assert pump.lost_side is None


def test_the_end_of_a_half_is_passed_on_and_the_other_half_goes_on(pumped: Pumped) -> None:
    left, right, running = pumped()
    say(left, b"question")
    assert read_all(right) == b"question"
    assert not running.ready()
    say(right, b"answer")
    assert read_all(left) == b"answer"
    assert running.get(timeout=5).first_ended is not None


def test_whoever_ended_first_is_known(pumped: Pumped) -> None:
    left, right, running = pumped()
    right.shutdown(socket.SHUT_WR)
    assert left.recv(1) == b""
    left.close()
    pump = running.get(timeout=5)
    assert pump.first_ended is pump.far


@pytest.mark.parametrize("pair", ["TCP"], indirect=True)
def test_a_reset_is_passed_on_as_one(pumped: Pumped) -> None:
    left, right, running = pumped()
    reset(left)
    with pytest.raises(ConnectionResetError):
        right.recv(1)
    pump = running.get(timeout=5)
    assert pump.lost_side is pump.near


@pytest.mark.parametrize("pair", ["TCP"], indirect=True)
def test_a_side_that_ended_its_half_and_then_goes_is_missed(
    pumped: Pumped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "LOOK_AFTER", 0.05)
    left, right, running = pumped()
    left.shutdown(socket.SHUT_WR)
    assert right.recv(1) == b""
    gevent.sleep(0.12)
    assert not running.ready()
    reset(left)
    pump = running.get(timeout=5)
    assert pump.lost_side is pump.near
    with pytest.raises(OSError, match=r"reset|pipe"):
        right.sendall(b"to nobody")


@pytest.mark.parametrize("pair", ["Unix"], indirect=True)
def test_at_a_path_a_side_that_ended_its_half_is_not_taken_for_gone(
    pumped: Pumped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "LOOK_AFTER", 0.02)
    left, right, _ = pumped()
    left.shutdown(socket.SHUT_WR)
    assert right.recv(1) == b""
    gevent.sleep(0.1)
    say(right, b"late")
    assert read_all(left) == b"late"


def test_a_side_that_cannot_be_told_anything_ends_the_other(pumped: Pumped) -> None:
    left, right, running = pumped()
    right.close()
    assert left.recv(1) == b""
    with pytest.raises(OSError, match=r"reset|pipe"):
        while True:
            left.sendall(b"to nobody")
            gevent.sleep(0.001)
    pump = running.get(timeout=5)
    assert pump.lost_side is pump.far


@pytest.mark.parametrize("pair", ["TCP"], indirect=True)
def test_what_a_side_said_before_it_went_is_passed_on(pumped: Pumped) -> None:
    left, right, running = pumped()
    right.sendall(b"too much")
    reset(right)
    left.sendall(b"more")  # The hub calls the latest first, so the pump sees this before that.
    assert left.recv(100) == b"too much"
    with pytest.raises(ConnectionResetError):
        left.recv(1)  # No end as if it were whole, though the kernel has told of the reset.
    pump = running.get(timeout=5)
    assert pump.lost_side is pump.far


def test_a_reader_that_does_not_read_holds_its_peer_back(pumped: Pumped, pumps: Pumps) -> None:
    left, right, _ = pumped()
    (pump,) = pumps
    said = fill(left)
    there, back = pump.flows
    assert 0 < len(there.rest) <= CHUNK
    assert not back.rest
    right.sendall(b"the other way")  # It isn't held back.
    assert left.recv(100) == b"the other way"
    reader = gevent.spawn(read_all, right)
    wait_until(lambda: not there.rest)
    left.settimeout(5)
    say(left, b"and on")
    data = reader.get(timeout=5)
    assert len(data) == said + 6
    assert data.endswith(b"and on")


def test_a_reader_that_goes_while_bytes_wait_for_it_is_missed(pumped: Pumped, pumps: Pumps) -> None:
    left, right, running = pumped()
    (pump,) = pumps
    fill(left)
    assert pump.flows[0].rest
    reset(right)
    running.join(5)
    assert pump.lost_side is pump.far
    assert not pump.flows[0].rest
    left.settimeout(5)
    with pytest.raises(ConnectionResetError):
        left.recv(1)


def test_what_waits_is_passed_on_before_the_end_is(pumped: Pumped, pumps: Pumps) -> None:
    left, right, _ = pumped()
    said = fill(left)
    left.shutdown(socket.SHUT_WR)
    assert len(read_all(right)) == said


def test_a_stop_ends_it_and_nothing_passes_any_more(pumped: Pumped, pumps: Pumps) -> None:
    left, _, running = pumped()
    (pump,) = pumps
    fill(left)
    pump.stop()
    assert running.get(timeout=5) is pump
    pump.stop()
    assert not pump.flows[0].rest
    assert not len(pumps)


def test_a_kill_ends_it(pumped: Pumped, pumps: Pumps) -> None:
    left, _, running = pumped()
    running.kill()
    assert left.recv(1) == b""
    assert not len(pumps)


def test_only_what_was_not_used_is_stopped_as_unused(pumped: Pumped, pumps: Pumps) -> None:
    unused, _, _ = pumped()
    left, right, _ = pumped()
    left.sendall(b"x")
    assert right.recv(1) == b"x"
    pumps.stop_unused()
    assert unused.recv(1) == b""
    right.sendall(b"y")
    assert left.recv(1) == b"y"


def test_both_sides_may_be_gone_before_it_begins(pumped: Pumped, pair: Pair, pumps: Pumps) -> None:
    (left, near), (far, right) = pair(), pair()
    left.close()
    right.close()
    pump = pumps.run(near, far)
    assert pump.over


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
def test_a_forked_child_lets_go_of_its_copies_and_the_parents_go_on(
    fork: Any, pumped: Pumped, pumps: Pumps
) -> None:
    left, right, _ = pumped()
    (pump,) = pumps
    descriptors = {pump.near.fileno(), pump.far.fileno()}

    def child() -> bool:
        pumps.abandon()
        return not len(pumps) and not descriptors & open_descriptors()

    assert in_child(fork, child)
    left.sendall(b"still here")
    assert right.recv(10) == b"still here"
    say(left, b"")
    say(right, b"")
    assert read_all(right) == b""


def test_answers_are_measured_from_the_question_to_the_first_byte(pair: Pair, pumps: Pumps) -> None:
    (left, near), (far, right) = pair(), pair()
    took: list[float] = []
    running = gevent.spawn(pumps.run, near, far, took.append)

    def say_to(sock: Any, data: bytes, other: Any) -> None:
        sock.sendall(data)
        assert other.recv(100) == data

    say_to(right, b"unasked", left)
    say_to(left, b"question", right)
    gevent.sleep(0.02)
    say_to(left, b"another one", right)
    say_to(right, b"answer", left)
    say_to(right, b"and more", left)
    say_to(left, b"the third", right)
    say_to(right, b"at once", left)
    assert len(took) == 2
    assert took[0] >= 0.02
    running.kill()
