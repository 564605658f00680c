"""The signals, what they carry, and how they are delivered."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import blinker
import gevent
import pytest

import gevent_rover
from gevent_rover import Attempt, Server, Slot, attempt, connection, error, unreachable
from gevent_rover.signals import SIGNALS, deliver

SERVER: Server = {"host": "127.0.0.1", "port": 80}


class Sender:
    """Whoever sends a signal."""


@pytest.fixture
def signal() -> blinker.NamedSignal:
    """Give a signal that nobody else knows."""
    return blinker.Namespace().signal("test")


def test_the_signals_are_a_namespace_of_their_own() -> None:
    assert {
        "connection": connection,
        "unreachable": unreachable,
        "error": error,
        "attempt": attempt,
    } == SIGNALS
    for name, signal in SIGNALS.items():
        assert signal.name == name
        assert signal is getattr(gevent_rover, name)
        assert signal is not blinker.signal(name)
        assert signal.__doc__ and "eyword" in signal.__doc__


def test_a_slot_is_an_int_that_knows_its_server() -> None:
    slot = Slot(7, "a", SERVER)
    assert slot == 7
    assert sorted([slot, 3]) == [3, 7]
    assert f"{slot:03d}" == "007"
    assert {7: "seven"}[slot] == "seven"
    assert slot.server_id == "a"
    assert slot.server is SERVER


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda slot: pickle.loads(pickle.dumps(slot))]
)
def test_a_slots_copy_knows_its_server_too(duplicate: Callable[[Slot], Slot]) -> None:
    slot = duplicate(Slot(7, "a", SERVER))
    assert type(slot) is Slot
    assert (slot, slot.server_id, slot.server) == (7, "a", SERVER)


def test_an_attempt_is_frozen_and_slotted() -> None:
    record = Attempt("a", SERVER, "discarded", None, None, 0.5)
    with pytest.raises(FrozenInstanceError):
        record.outcome = "error"  # type: ignore[misc]
    assert not hasattr(record, "__dict__")


def test_each_live_receiver_of_the_sender_gets_exactly_the_keywords(
    signal: blinker.NamedSignal,
) -> None:
    sender, other = Sender(), Sender()
    received: list[tuple[str, object, int]] = []

    def of_sender(sender: object, number: int) -> None:
        received.append(("of sender", sender, number))

    def of_other(sender: object, number: int) -> None:
        received.append(("of other", sender, number))

    def of_any(sender: object, number: int) -> None:
        received.append(("of any", sender, number))

    signal.connect(of_sender, sender=sender)
    signal.connect(of_other, sender=other)
    signal.connect(of_any)
    assert list(deliver(signal, sender, number=3)) == [True, True]
    assert sorted(received, key=lambda row: row[0]) == [
        ("of any", sender, 3),
        ("of sender", sender, 3),
    ]


def test_no_live_receiver_is_no_step(signal: blinker.NamedSignal) -> None:
    sender = Sender()
    assert list(deliver(signal, sender)) == []

    def receiver(sender: object) -> None:
        raise AssertionError("it is gone")

    signal.connect(receiver, sender=sender)
    assert signal.has_receivers_for(sender)
    del receiver
    assert list(deliver(signal, sender)) == []


def test_a_muted_signal_reaches_nobody(signal: blinker.NamedSignal) -> None:
    signal.connect(print)
    with signal.muted():
        assert list(deliver(signal, None)) == []


def test_a_receiver_that_raises_is_reported_and_the_others_run(
    signal: blinker.NamedSignal, reported: list[tuple[object, BaseException]]
) -> None:
    mistake = ValueError("a mistake")
    ran: list[object] = []

    def raises(sender: object) -> None:
        raise mistake

    def runs_first(sender: object) -> None:
        ran.append(1)

    def runs_last(sender: object) -> None:
        ran.append(2)

    for receiver in (runs_first, raises, runs_last):
        signal.connect(receiver)
    assert sorted(deliver(signal, None)) == [False, True, True]
    assert sorted(ran, key=repr) == [1, 2]
    assert reported == [(raises, mistake)]


def test_an_async_receiver_counts_as_raising(
    signal: blinker.NamedSignal, reported: list[tuple[object, BaseException]]
) -> None:
    async def receiver(sender: object) -> None:
        raise AssertionError("nobody runs it")

    signal.connect(receiver)
    # A coroutine that is dropped unrun warns, and warnings are errors here.
    assert list(deliver(signal, None)) == [False]
    [(context, failure)] = reported
    assert context is receiver
    assert isinstance(failure, TypeError)
    assert "async" in str(failure)


@pytest.mark.parametrize("kind", [gevent.GreenletExit, gevent.Timeout, KeyboardInterrupt])
def test_what_is_no_exception_passes_through_at_once(
    signal: blinker.NamedSignal,
    reported: list[tuple[object, BaseException]],
    kind: type[BaseException],
) -> None:
    ran: list[str] = []

    def first(sender: object) -> None:
        ran.append("first")
        raise kind

    def second(sender: object) -> None:
        ran.append("second")
        raise kind

    signal.connect(first)
    signal.connect(second)
    with pytest.raises(kind):
        list(deliver(signal, None))
    assert len(ran) == 1
    assert reported == []


def test_a_receiver_may_disconnect_itself(signal: blinker.NamedSignal) -> None:
    calls: list[object] = []

    def once(sender: object) -> None:
        calls.append(sender)
        signal.disconnect(once)

    signal.connect(once)
    assert list(deliver(signal, None)) == [True]
    assert list(deliver(signal, None)) == []
    assert calls == [None]
