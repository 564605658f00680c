"""Streams made by a coverage-guided fuzzer, read as an attempt reads them.

    python tests/fuzz_protocol.py -runs=1000000 -max_len=64 FOLDER

The options are libFuzzer's; the seeds are written into FOLDER. tests/test_fuzz.py runs it.
``ROVER_FUZZ_PROTOCOL`` names a file to fuzz in place of gevent_rover/policy/protocol.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from gevent_rover import ProtocolError

TESTS = Path(__file__).parent

# The oracle looks at the whole stream at once, and at what must be there rather
# than at what has been read so far: a slot line at its beginning, and else the
# longest beginning of one.
WHOLE: Final = re.compile(rb"(?P<slot>[0123456789]{1,19})\r\n", re.DOTALL)
LONGEST: Final = re.compile(rb"[0123456789]{1,19}\r?|")
CANONICAL: Final = re.compile(rb"(?:0|[123456789][0123456789]{0,18})\r\n")


class Stream:
    """A connection to read from: it gives at most what is asked for, in its own pieces."""

    def __init__(self, data: bytes, pieces: Iterator[int]) -> None:
        self.data = data
        self.pieces = pieces
        self.read = 0

    def recv(self, size: int) -> bytes:
        assert size > 0, "asks for nothing"
        size = min(size, 1 + next(self.pieces, 255))
        chunk = self.data[self.read : self.read + size]
        self.read += len(chunk)
        return chunk


def decoded(protocol: Any, data: bytes) -> int | str:
    try:
        slot = protocol.decode_slot_line(data)
    except ProtocolError:
        return "refused"
    assert slot is None or type(slot) is int
    return "unfinished" if slot is None else slot


def read_slot_line(protocol: Any, stream: Stream) -> int | str:
    """Read as an attempt does; return the slot, or how it ended without one."""
    line = b""
    outcome: int | str = "unfinished"
    while outcome == "unfinished" and (chunk := stream.recv(protocol.bytes_needed(line))):
        line += chunk
        outcome = decoded(protocol, line)
    return outcome


def check_decoding(protocol: Any, data: bytes, pieces: bytes) -> None:
    """Check what is made of a stream that comes in such pieces, and how much of it is read."""
    whole = WHOLE.match(data)
    longest = LONGEST.match(data)
    assert longest is not None
    stream = Stream(data, iter(pieces))
    outcome = read_slot_line(protocol, stream)
    slowly = Stream(data, itertools.repeat(0))
    assert read_slot_line(protocol, slowly) == outcome
    if whole is not None:
        assert outcome == int(whole["slot"]), f"not this slot: {outcome}"
        assert stream.read == slowly.read == whole.end(), "read beyond the line"
        assert decoded(protocol, whole[0]) == outcome
    elif longest.end() == len(data):
        assert outcome == "unfinished", f"can still be a slot line: {outcome}"
        assert stream.read == slowly.read == len(data)
    else:
        assert outcome == "refused", f"can't be a slot line: {outcome}"
        # The first wrong byte was read, and what came with it.
        assert longest.end() < stream.read <= min(longest.end() + 3, 21)
        assert slowly.read == longest.end() + 1
    # All of it at once is a line only if nothing is behind it.
    if whole is None or whole.end() < len(data):
        assert decoded(protocol, data) == ("refused" if whole else outcome), "at once"


def check_encoding(protocol: Any, slot: int) -> None:
    try:
        line = protocol.encode_slot_line(slot)
    except ValueError:
        assert not 0 <= slot < 10**19
        return
    assert CANONICAL.fullmatch(line), line
    assert protocol.decode_slot_line(line) == slot


def check(protocol: Any, data: bytes) -> None:
    """Check one input: how many bytes come at a time, and the bytes."""
    count = data[0] % 8 if data else 0
    pieces, rest = bytes(byte % 4 for byte in data[1 : 1 + count]), data[1 + count :]
    check_decoding(protocol, rest, pieces)
    check_encoding(protocol, int.from_bytes(rest[:9], "big", signed=True))


def seeds() -> Iterator[bytes]:
    """Yield what the servers in the corpus of faults say, and a few lines more."""
    for path in sorted((TESTS / "faults").glob("*.json")):
        said = b""
        for phase in json.loads(path.read_text(encoding="utf-8")).get("phases", []):
            match phase:
                case {"send": str(text)}:
                    said += text.encode() * min(phase.get("times", 1), 40)
                case {"hex": str(digits)}:
                    said += bytes.fromhex(digits)
        yield b"\0" + said
        yield b"\3\0\1\2" + said
    for length in range(1, 21):
        for line in (b"9" * length, b"1" + b"0" * (length - 1)):
            yield b"\0" + line + b"\r\n5\r\n"
            yield b"\2\0\1" + line + b"\r\n"


def protocol_of(path: Path) -> ModuleType:
    """Import a file as if it were gevent_rover.policy.protocol."""
    spec = importlib.util.spec_from_file_location("gevent_rover.policy.protocol", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    # Not imported at the top: there are Pythons that it isn't for.
    atheris: Any = importlib.import_module("atheris")
    default = TESTS.parent / "gevent_rover" / "protocol.py"
    protocol = protocol_of(Path(os.environ.get("ROVER_FUZZ_PROTOCOL", default)))
    for function in (
        protocol.encode_slot_line,
        protocol.decode_slot_line,
        protocol.bytes_needed,
        # How often it reads is what a regular expression doesn't tell: how far it got.
        read_slot_line,
        check_decoding,
        check_encoding,
    ):
        atheris.instrument_func(function)
    for number, seed in enumerate(seeds()):
        Path(sys.argv[-1], f"seed{number}").write_bytes(seed)
    atheris.Setup(sys.argv, lambda data: check(protocol, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
