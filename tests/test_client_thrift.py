"""The recipe for Apache Thrift, with the library's own server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backends import EXAMPLES, client_library
from thrift_servers import RUNS, check_calls, generate

client_library("thrift")

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("kind", "patched"), RUNS)
def test_calls_are_answered_whatever_happens_to_others(
    tmp_path: Path, kind: str, patched: bool
) -> None:
    script, made = "thrift_check.py", generate(tmp_path)
    said = check_calls((script, made), (script, made), kind, tmp_path / "pid", patched)
    assert f"Apache Thrift, {kind}: all is well" in said


# What the recipe relies on. None of it is private, but hardly any of it is written down.


@pytest.mark.parametrize("transports", ["TBufferedTransportFactory", "TFramedTransportFactory"])
def test_transports_flush_the_socket_once_all_is_written(transports: str) -> None:
    from thrift.transport import TSocket, TTransport

    done: list[str] = []

    class Watched(TSocket.TSocket):  # type: ignore[misc]
        def write(self, data: bytes) -> None:
            done.append("write")

        def flush(self) -> None:
            done.append("flush")

    transport = getattr(TTransport, transports)().getTransport(Watched())
    transport.write(b"x" * 100_000)
    assert "flush" not in done
    transport.flush()
    assert done[-2:] == ["write", "flush"] and done.count("flush") == 1


def test_the_compiled_protocol_is_used_through_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from thrift.protocol import fastbinary
    from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
    from thrift.transport.TTransport import TMemoryBuffer
    from thrift_pool import ThriftProtocol

    inner = TBinaryProtocolAccelerated(TMemoryBuffer())
    protocol: Any = ThriftProtocol(inner, None)  # type: ignore[arg-type]
    assert protocol._fast_decode is fastbinary.decode_binary
    assert protocol._fast_encode is fastbinary.encode_binary
    assert protocol.trans is inner.trans
