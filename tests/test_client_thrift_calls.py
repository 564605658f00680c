"""What the recipes for Apache Thrift and thriftpy2 have in common, on a single connection."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import Any

import gevent
import pytest
from backends import EXAMPLES, client_library
from conftest import wait_until
from gevent import socket
from thrift_servers import IDL, generate

from gevent_rover import Rover, SlotPool

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Library:
    """One of them, and its recipe."""

    #: Makes a pool of a rover and options.
    pool: Callable[..., SlotPool[Any]]
    service: Callable[..., Any]
    failures: tuple[type[BaseException], ...]
    transport_error: type[Exception]
    protocol_error: type[Exception]
    application_error: Any


def with_thrift(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.syspath_prepend(str(generate(directory)))
    import thrift_pool as recipe
    from calculator import Calculator  # type: ignore[import-not-found]
    from thrift.protocol.TProtocol import TProtocolException
    from thrift.Thrift import TApplicationException
    from thrift.transport.TTransport import TTransportException

    return Library(
        lambda rover, **options: recipe.thrift_pool(rover, Calculator.Client, **options),
        recipe.service,
        recipe.FAILURES,
        TTransportException,
        TProtocolException,
        TApplicationException,
    )


def with_thriftpy2(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    import thriftpy2
    import thriftpy2_pool as recipe
    from thriftpy2.protocol.exc import TProtocolException
    from thriftpy2.thrift import TApplicationException
    from thriftpy2.transport import TTransportException

    calculator = thriftpy2.load(str(IDL), module_name="calculator_thrift").Calculator
    return Library(
        lambda rover, **options: recipe.thriftpy2_pool(rover, calculator, **options),
        recipe.service,
        recipe.FAILURES,
        TTransportException,
        TProtocolException,
        TApplicationException,
    )


LIBRARIES = {"thrift": with_thrift, "thriftpy2": with_thriftpy2}


@pytest.fixture(params=[*LIBRARIES])
def library(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Library]:
    client_library(request.param)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield LIBRARIES[request.param](tmp_path, monkeypatch)
    # What the compiler made is gone by the next test.
    for name in [name for name in sys.modules if name.partition(".")[0] == "calculator"]:
        del sys.modules[name]


#: Makes a pool of one connection, and gives it and the other end.
Connect = Callable[..., tuple[SlotPool[Any], socket.socket]]


@pytest.fixture
def one_connection(library: Library) -> Iterator[Connect]:
    with ExitStack() as stack:

        def connect(**options: Any) -> tuple[SlotPool[Any], socket.socket]:
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            pool = stack.enter_context(library.pool(Rover({}), **options))
            pool.offer(0, ours)
            wait_until(lambda: pool.idle == 1)
            return pool, theirs

        yield connect


def answer(number: int, name: str = "noted", result: int = 1) -> bytes:
    """Return an answer as the binary protocol has it: a message, and a struct with an i32."""
    head = pack("!Ii", 0x80010002, len(name)) + name.encode() + pack("!i", number)
    return head + pack("!bhib", 8, 0, result, 0)


def test_requests_are_numbered_and_their_answers_taken(
    library: Library, one_connection: Connect
) -> None:
    pool, theirs = one_connection()
    for number in (1, 2, 3):
        job = gevent.spawn(library.service(pool).noted, "x")
        asked = theirs.recv(1000)
        assert asked.startswith(pack("!Ii", 0x80010001, 5) + b"noted" + pack("!i", number))
        theirs.sendall(answer(number, result=number * 10))
        assert job.get() == number * 10
    assert (pool.idle, pool.stats().leases) == (1, 3)


@pytest.mark.parametrize(
    ("library", "said"),
    [
        pytest.param("thrift", answer(7), id="thrift, another request"),
        pytest.param("thrift", b"\x80\x02\0\0HTTP/1.1 400 Bad", id="thrift, another version"),
        pytest.param("thriftpy2", answer(7), id="thriftpy2, another request"),
        pytest.param("thriftpy2", b"\x80\x02\0\0" + bytes(20), id="thriftpy2, another version"),
        pytest.param("thriftpy2", b"HTTP/1.1 400 Bad Request\r\n", id="thriftpy2, HTTP"),
    ],
    indirect=["library"],
)
def test_a_wrong_answer_closes_the_connection_and_speaks_against_the_server(
    library: Library, one_connection: Connect, said: bytes
) -> None:
    pool, theirs = one_connection()
    job = gevent.spawn(library.service(pool).noted, "x")
    theirs.recv(1000)
    theirs.sendall(said)
    with pytest.raises(library.failures) as caught:
        job.get()
    # Of compiled code of thriftpy2 it's another one.
    assert type(caught.value).__name__ in ("TProtocolException", "ProtocolError")
    assert (pool.size, pool.stats().closed["failed"]) == (0, 1)
    assert theirs.recv(1) == b""


def test_what_the_server_says_behind_an_answer_is_nobodys(
    library: Library, one_connection: Connect
) -> None:
    pool, theirs = one_connection()
    job = gevent.spawn(library.service(pool).noted, "x")
    theirs.recv(1000)
    theirs.sendall(answer(1) + answer(1, result=666))  # The transport buffers both.
    assert job.get() == 1
    with pytest.raises(library.protocol_error, match="answered request 1, but 2 is the latest"):
        library.service(pool).noted("y")


@pytest.mark.parametrize("failures", [(), "application"])
def test_an_error_that_the_server_answers_leaves_the_connection_open(
    library: Library, one_connection: Connect, failures: Any
) -> None:
    pool, theirs = one_connection()
    failures = failures and (library.application_error,)
    job = gevent.spawn(library.service(pool, failures=failures).noted, "x")
    theirs.recv(1000)
    head = pack("!Ii", 0x80010003, 5) + b"noted" + pack("!i", 1)
    theirs.sendall(head + pack("!bhib", 8, 2, library.application_error.UNKNOWN_METHOD, 0))
    with pytest.raises(library.application_error, match="Unknown method"):
        job.get()
    assert (pool.idle, pool.stats().failures) == (1, 1 if failures else 0)


@pytest.mark.parametrize("library", ["thrift"], indirect=True)
def test_half_a_call_is_an_error_of_the_caller(library: Library, one_connection: Connect) -> None:
    pool, _ = one_connection()
    with pytest.raises(RuntimeError, match="doesn't wait for its answer"):
        library.service(pool).send_noted("x")
    assert (pool.size, pool.stats().failures) == (0, 0)


def test_two_greenlets_cant_share_a_leased_client(
    library: Library, one_connection: Connect
) -> None:
    pool, theirs = one_connection()
    with pool.lease() as client:
        job = gevent.spawn(client.noted, "x")
        theirs.recv(1000)
        with pytest.raises(library.transport_error, match="a request is under way"):
            client.noted("y")
        theirs.sendall(answer(1))
        assert job.get() == 1
    assert pool.idle == 1


def test_calls_that_cant_be_made_cost_no_connection(
    library: Library, one_connection: Connect
) -> None:
    pool, _ = one_connection()
    with pytest.raises(AttributeError, match="nonsense"):
        library.service(pool).nonsense()
    assert not hasattr(library.service(pool), "_private")
    assert pool.idle == 1


@pytest.mark.parametrize("library", ["thrift"], indirect=True)
def test_arguments_that_are_missing_cost_no_connection(
    library: Library, one_connection: Connect
) -> None:
    pool, _ = one_connection()
    with pytest.raises(TypeError, match="positional argument"):
        library.service(pool).noted()
    assert pool.idle == 1


@pytest.mark.parametrize("library", ["thriftpy2"], indirect=True)
def test_a_service_has_no_close_of_its_client(library: Library, one_connection: Connect) -> None:
    pool, _ = one_connection()
    assert not hasattr(library.service(pool), "close")


def test_setup_and_check_get_the_client(library: Library, one_connection: Connect) -> None:
    said: list[str] = []

    def greet(client: Any) -> None:
        client.note("hello")

    def check(client: Any) -> bool:
        said.append("check")
        client.note("ping")
        return True

    pool, theirs = one_connection(setup=greet, check=check, check_after=0.05)
    assert b"hello" in theirs.recv(1000)
    library.service(pool).note("a")
    assert b"ping" not in theirs.recv(1000)
    gevent.sleep(0.06)
    library.service(pool).note("b")
    wait_until(lambda: said == ["check"])
    assert b"ping" in theirs.recv(1000)


def test_the_exception_of_a_call_holds_on_to_nothing(
    library: Library, one_connection: Connect
) -> None:
    pool, _ = one_connection()
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(AttributeError):
            library.service(pool).nonsense()
        assert not any(isinstance(thing, AttributeError) for thing in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.parametrize("library", ["thriftpy2"], indirect=True)
def test_the_compiled_transports_and_protocol_are_the_default(one_connection: Connect) -> None:
    from thriftpy2.protocol.cybin import TCyBinaryProtocol
    from thriftpy2.transport import TCyBufferedTransport

    pool, _ = one_connection()
    with pool.lease() as client:
        assert type(client._iprot._protocol) is TCyBinaryProtocol
        assert type(client._iprot.trans) is TCyBufferedTransport
