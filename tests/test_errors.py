"""The exceptions: what they carry, and what catches them."""

from __future__ import annotations

import copy
import pickle

import pytest

import gevent_rover
from gevent_rover import (
    InvalidServerError,
    NoServersError,
    ProtocolError,
    ResourceError,
    RoverError,
    Server,
    TLSError,
)

KINDS = [
    RoverError,
    InvalidServerError,
    NoServersError,
    ProtocolError,
    ResourceError,
    TLSError,
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_names_its_server(kind: type[RoverError]) -> None:
    server: Server = {"host": "192.0.2.1", "port": 80}
    error = kind("broken", id="a", server=server)
    assert isinstance(error, RoverError)
    assert str(error) == "broken"
    assert error.id == "a"
    assert error.server is server


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_without_a_server_has_none(kind: type[RoverError]) -> None:
    error = kind("broken")
    assert error.id is None
    assert error.server is None


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_copying_and_pickling(kind: type[RoverError]) -> None:
    error = kind("broken", id="a", server={"path": "/run/a"})
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is kind
        assert (str(twin), twin.id, twin.server) == ("broken", "a", {"path": "/run/a"})


def test_only_an_invalid_server_is_a_value_error() -> None:
    assert [kind for kind in KINDS if issubclass(kind, ValueError)] == [InvalidServerError]


def test_no_error_is_taken_for_one_of_the_operating_system() -> None:
    assert not any(issubclass(kind, OSError) for kind in KINDS)


def test_every_error_is_exported() -> None:
    for kind in KINDS:
        assert kind.__name__ in gevent_rover.__all__
        assert getattr(gevent_rover, kind.__name__) is kind
