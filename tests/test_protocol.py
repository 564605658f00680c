"""The slot line, byte by byte."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gevent_rover import ProtocolError
from gevent_rover.policy.protocol import (
    MAX_DIGITS,
    bytes_needed,
    decode_slot_line,
    encode_slot_line,
)

LINES = [b"0\r\n", b"173\r\n", b"9876543210123456789\r\n"]
SURPLUSES = [b"", b"x", b"\n", b"\r\n", b"5\r\n", b"HTTP/1.1 200 OK\r\n\r\n", bytes(range(256))]

lines = st.integers(0, 10**MAX_DIGITS - 1).map(b"%d\r\n".__mod__)
# Bytes that get somewhere: an arbitrary byte would end nearly every attempt at once.
wire = st.lists(st.sampled_from([b"%d" % n for n in range(10)] + [b"\r", b"\n", b"\r\n"])).map(
    b"".join
) | st.binary(max_size=40)


def read_slot_line(fragments: Iterable[bytes]) -> tuple[int | None, bytes]:
    """Read as a client does, and never more than ``bytes_needed`` at a time.

    It returns the slot (None: the bytes ended before the line did) and what was left unread.
    """
    arriving = deque(fragments)
    data = b""
    while arriving:
        fragment = arriving.popleft()
        needed = bytes_needed(data)
        assert needed > 0
        data += fragment[:needed]
        if fragment[needed:]:
            arriving.appendleft(fragment[needed:])
        slot = decode_slot_line(data)
        if slot is not None:
            return slot, b"".join(arriving)
    return None, b""


def cut(data: bytes, points: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(points), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(edges)]
    return [piece for piece in pieces if piece]


def verdict(data: bytes) -> int | str:
    """Judge ``data`` by hand: the slot, "unfinished" or "refused"."""
    slot = digits = 0
    state = "digits"
    for byte in data:
        if state == "digits" and 0x30 <= byte <= 0x39 and digits < 19:
            slot = slot * 10 + byte - 0x30
            digits += 1
        elif state == "digits" and byte == 0x0D and digits > 0:
            state = "cr"
        elif state == "cr" and byte == 0x0A:
            state = "whole"
        else:
            return "refused"
    return slot if state == "whole" else "unfinished"


def judged(data: bytes) -> int | str:
    try:
        slot = decode_slot_line(data)
    except ProtocolError:
        return "refused"
    return "unfinished" if slot is None else slot


@pytest.mark.parametrize("surplus", SURPLUSES)
@pytest.mark.parametrize("line", LINES)
def test_every_split_leaves_exactly_the_surplus(line: bytes, surplus: bytes) -> None:
    data = line + surplus
    last = min(len(data), len(line) + 3)
    for first in range(last + 1):
        for second in range(first, last + 1):
            assert read_slot_line(cut(data, [first, second])) == (int(line), surplus)


@pytest.mark.parametrize("line", LINES)
def test_a_line_arrives_byte_by_byte(line: bytes) -> None:
    assert read_slot_line([b"%c" % byte for byte in line + b"xy"]) == (int(line), b"xy")


@pytest.mark.parametrize("line", LINES)
def test_a_beginning_of_a_line_is_not_a_line_yet(line: bytes) -> None:
    for end in range(len(line)):
        assert decode_slot_line(line[:end]) is None


@given(lines, st.binary(max_size=30), st.lists(st.integers(0, 60)))
def test_any_fragments_leave_exactly_the_surplus(
    line: bytes, surplus: bytes, points: list[int]
) -> None:
    data = line + surplus
    fragments = cut(data, [point for point in points if point <= len(data)])
    assert b"".join(fragments) == data
    assert read_slot_line(fragments) == (int(line), surplus)


@given(lines)
def test_what_is_needed_is_never_more_than_what_the_line_still_has(line: bytes) -> None:
    for end in range(len(line)):
        assert 1 <= bytes_needed(line[:end]) <= len(line) - end


@pytest.mark.parametrize(
    ("slot", "reads"), [(0, 1), (9, 1), (10, 2), (999, 2), (1000, 3), (10**18, 10)]
)
def test_a_line_that_came_whole_takes_few_reads(slot: int, reads: int) -> None:
    line, data, count = encode_slot_line(slot), b"", 0
    while decode_slot_line(data) is None:
        data += line[len(data) :][: bytes_needed(data)]
        count += 1
    assert (data, count) == (line, reads)


@given(wire)
@example(b"")
@example(b"0" * 19 + b"\r")
@example(b"0" * 20)
@example(b"0" * 19 + b"\r\n")
@example(b"0" * 20 + b"\r\n")
@example(b"0\r\r")
@example(b"0\r\n\n")
def test_decoding_agrees_with_a_state_machine(data: bytes) -> None:
    assert judged(data) == verdict(data)


@given(wire)
def test_decoding_agrees_with_a_regular_expression(data: bytes) -> None:
    whole = re.fullmatch(rb"(\d{1,19})\r\n", data)
    if whole is not None:
        assert judged(data) == int(whole[1])
    elif re.fullmatch(rb"|\d{1,19}\r?", data) is not None:
        assert judged(data) == "unfinished"
    else:
        assert judged(data) == "refused"


@given(wire.filter(lambda data: verdict(data) == "refused"), st.binary(max_size=10))
def test_what_was_refused_stays_refused(data: bytes, more: bytes) -> None:
    assert judged(data + more) == "refused"


@pytest.mark.parametrize(
    ("data", "refused_after"),
    [
        ("\u0661\u0663\r\n".encode(), 1),  # digits to int(), but not ASCII
        ("\uff11\uff13\r\n".encode(), 1),
        ("\u00b2\r\n".encode(), 1),
        (b"1_3\r\n", 2),
        (b"+13\r\n", 1),
        (b" 13\r\n", 1),
        (b"13 \r\n", 3),
        (b"-1\r\n", 1),
        (b"1.5\r\n", 2),
        (b"0x1f\r\n", 2),
        (b"1e3\r\n", 2),
        (b"13\n", 3),
        (b"13\r13", 4),
        (b"\n", 1),
        (b"\r\n", 1),
        (b"1" * 20 + b"\r\n", 20),
        (b"\x00", 1),
        (b"1\x00\r\n", 2),
        (b"\xff\xfe1\r\n", 1),
        (b"foo\r\n", 1),
        (b"SSH-2.0-OpenSSH_9.6\r\n", 1),
        (b"HTTP/1.1 400 Bad Request\r\n", 1),
        (b"\x15\x03\x03\x00\x02\x02\x28", 1),  # a TLS alert
        (b"0" * 100_000, 20),
    ],
)
def test_the_first_byte_that_cannot_belong_to_a_line_is_refused(
    data: bytes, refused_after: int
) -> None:
    for end in range(refused_after):
        assert decode_slot_line(data[:end]) is None
    with pytest.raises(ProtocolError, match="not a slot line"):
        decode_slot_line(data[:refused_after])
    # However it arrives, and without waiting for what follows.
    for size in (1, 2, 3, len(data)):
        pieces = [data[begin : begin + size] for begin in range(0, min(len(data), 60), size)]
        with pytest.raises(ProtocolError):
            read_slot_line(pieces)


def test_endless_digits_are_refused_before_the_third_byte_too_many_is_read() -> None:
    data = b""
    while judged(data) == "unfinished":
        data += b"7" * bytes_needed(data)
    assert judged(data) == "refused"
    assert len(data) <= MAX_DIGITS + 2


def test_a_refusal_quotes_the_beginning_only() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_slot_line(b"SSH-2.0-" + b"x" * 10_000)
    assert "b'SSH-2.0-xx" in str(caught.value)
    assert len(str(caught.value)) < 100


@given(st.integers(0, 10**MAX_DIGITS - 1))
@example(0)
@example(10**MAX_DIGITS - 1)
def test_an_encoded_slot_decodes_to_itself(slot: int) -> None:
    line = encode_slot_line(slot)
    assert line == str(slot).encode("ascii") + b"\r\n"
    assert decode_slot_line(line) == slot


@pytest.mark.parametrize("slot", [-1, -(10**18), 10**19, 10**30])
def test_a_slot_that_no_line_holds_is_not_encoded(slot: int) -> None:
    with pytest.raises(ValueError, match=f"out of range: {slot}"):
        encode_slot_line(slot)
