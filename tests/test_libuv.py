"""gevent's other event loop, libuv, is refused where it comes in; each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration  # Each test runs a process, or several.

libuv = pytest.mark.skipif(
    importlib.util.find_spec("gevent.libuv._corecffi") is None,
    reason="this gevent was built without libuv",
)


def run(loop: str, *arguments: str) -> tuple[int, str, str]:
    """Run Python with another loop, and return its exit code, output and error output."""
    result = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "GEVENT_LOOP": loop},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


@libuv
@pytest.mark.parametrize("call", ["Rover({})", "SlotPool()", 'SlotServer(("127.0.0.1", 0), print)'])
def test_libuv_is_refused_by_the_constructors(call: str) -> None:
    program = f"""
from gevent_rover import Rover, SlotPool, SlotServer

try:
    {call}
except RuntimeError as exc:
    print(exc)
"""
    code, output, errors = run("libuv", "-c", program)
    assert (code, errors) == (0, "")
    assert len(output.splitlines()) == 1, output
    assert "this process has gevent.libuv.loop" in output
    assert "unset GEVENT_LOOP, or set it to libev-cext" in output


@libuv
@pytest.mark.parametrize(
    "arguments",
    [["rove", "127.0.0.1:1", "--count", "1"], ["serve"], ["demo"]],
    ids=["rove", "serve", "demo"],
)
def test_libuv_gets_one_line_and_an_exit_code_from_the_command(arguments: list[str]) -> None:
    code, output, errors = run("libuv", "-m", "gevent_rover", *arguments)
    assert (code, output) == (2, "")
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith(f"gevent-rover {arguments[0]}: ")
    assert "gevent.libuv.loop" in errors
    assert "unset GEVENT_LOOP, or set it to libev-cext" in errors


@libuv
def test_the_command_can_be_asked_about_itself_under_libuv() -> None:
    for arguments in (["--version"], ["rove", "--help"]):
        code, output, errors = run("libuv", "-m", "gevent_rover", *arguments)
        assert (code, errors) == (0, "")
        assert output.startswith(("gevent-rover", "usage: gevent-rover rove"))


@pytest.mark.parametrize("loop", ["libev-cext", "libev-cffi"])
def test_every_other_loop_is_taken(loop: str) -> None:
    if loop == "libev-cffi" and importlib.util.find_spec("gevent.libev._corecffi") is None:
        pytest.skip("this gevent was built without libev-cffi")
    code, output, errors = run(
        loop, "-m", "gevent_rover", "rove", "127.0.0.1:1", "--count", "1", "--interval", "0.01"
    )
    assert (code, errors) == (0, "")
    assert "127.0.0.1:1" in output
