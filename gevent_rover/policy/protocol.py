"""The slot line: the first thing a Callosum server says, ``13\\r\\n``.

Bytes in, a number or "not yet" out: no gevent, no socket, no clock.
"""

from __future__ import annotations

import re
from typing import Final

from gevent_rover.errors import ProtocolError

#: The most digits that a slot line may have: no number with more of them fits
#: into a signed 64-bit integer, which is what other clients keep a slot in.
MAX_DIGITS: Final = 19

# int() alone is no check: it takes b"+13", b" 13" and b"1_3", and str digits
# of every script.
_LINE: Final = re.compile(rb"([0-9]{1,19})\r\n")
_BEGINNING: Final = re.compile(rb"(?:[0-9]{1,19}\r?)?")


def encode_slot_line(slot: int) -> bytes:
    """Return the line that announces ``slot``.

    :raises ValueError: below 0, or more than 19 digits.
    """
    line = b"%d\r\n" % slot
    if slot < 0 or len(line) > MAX_DIGITS + 2:
        raise ValueError(f"slot out of range: {slot}")
    return line


def decode_slot_line(data: bytes) -> int | None:
    """Return the slot that ``data`` announces, or None while more bytes are needed.

    :param data: everything read so far, and nothing behind the slot line:
        read no more than :func:`bytes_needed` says.
    :raises ProtocolError: ``data`` can't be the beginning of a slot line,
        whatever follows.
    """
    line = _LINE.fullmatch(data)
    if line is not None:
        return int(line[1])
    if _BEGINNING.fullmatch(data) is None:
        raise ProtocolError(f"not a slot line: {data[:32]!r}")
    return None


def bytes_needed(data: bytes) -> int:
    r"""Return how many more bytes surely belong to the slot line.

    The shortest line is ``0\r\n``, so three bytes can always be read without
    touching what the server sends behind the line. That spares a peek, which
    TLS doesn't have and which costs a system call: a slot below 10 arrives
    with one ``recv``, one below 1000 with two.

    :param data: everything read so far, the beginning of a slot line.
    """
    if not data:
        return 3
    return 1 if data.endswith(b"\r") else 2
