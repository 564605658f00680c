"""The recipe for thriftpy2, with the library's own server, and with Apache Thrift's."""

from __future__ import annotations

from pathlib import Path

import pytest
from backends import client_library
from thrift_servers import IDL, RUNS, check_calls, generate

client_library("thriftpy2")

pytestmark = pytest.mark.integration

CHECK = "thriftpy2_check.py", IDL


@pytest.mark.parametrize(("kind", "patched"), RUNS)
def test_calls_are_answered_whatever_happens_to_others(
    tmp_path: Path, kind: str, patched: bool
) -> None:
    said = check_calls(CHECK, CHECK, kind, tmp_path / "pid", patched)
    assert f"thriftpy2, {kind}: all is well" in said


@pytest.mark.parametrize("kind", ["buffered", "framed", "compact"])
def test_calls_are_answered_by_apache_thrift(tmp_path: Path, kind: str) -> None:
    client_library("thrift")
    server = "thrift_check.py", generate(tmp_path)
    said = check_calls(server, CHECK, kind, tmp_path / "pid", patched=False)
    assert f"thriftpy2, {kind}: all is well" in said


# What the recipe relies on. None of it is private, but hardly any of it is written down.


@pytest.mark.parametrize("transports", ["TCyBufferedTransport", "TCyFramedTransport"])
def test_transports_flush_the_socket_once_all_is_written(transports: str) -> None:
    from thriftpy2 import transport as thriftpy2_transport

    done: list[str] = []

    class Watched:
        def write(self, data: bytes) -> None:
            done.append("write")

        def flush(self) -> None:
            done.append("flush")

    transport = getattr(thriftpy2_transport, transports)(Watched())
    transport.write(b"x" * 3000)
    transport.write(b"x" * 3000)
    assert "flush" not in done
    transport.flush()
    assert done[-2:] == ["write", "flush"] and done.count("flush") == 1
