"""Servers and listeners as text: what each form stands for, and what is none."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gevent_rover import InvalidServerError, Server, parse_listener, parse_server

PORTS = st.integers(1, 65535)
NAMES = st.from_regex(
    r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z][a-z0-9]{0,9}){0,3}", fullmatch=True
)
IDS = st.text(min_size=1).filter(lambda id: "=" not in id and not id.startswith("unix:"))
PATHS = st.text("/.-_ab=:@ é", min_size=1, max_size=40).filter(lambda path: path[0] != "@")


@pytest.mark.parametrize(
    ("text", "id", "server"),
    [
        ("web:80", "web:80", {"host": "web", "port": 80}),
        ("web:080", "web:080", {"host": "web", "port": 80}),
        ("a=127.0.0.1:1", "a", {"host": "127.0.0.1", "port": 1}),
        ("[::1]:65535", "[::1]:65535", {"host": "::1", "port": 65535}),
        ("six=[fe80::1%lo]:7", "six", {"host": "fe80::1%lo", "port": 7}),
        ("a:b=web:80", "a:b", {"host": "web", "port": 80}),
        ("unix:/run/x.sock", "unix:/run/x.sock", {"path": "/run/x.sock"}),
        ("unix:/run/a=b", "unix:/run/a=b", {"path": "/run/a=b"}),
        ("u=unix:/run/a=b", "u", {"path": "/run/a=b"}),
        ("unix:@name", "unix:@name", {"path": "\0name"}),
        ("u=unix:@name", "u", {"path": "\0name"}),
        ("unix:./@name", "unix:./@name", {"path": "./@name"}),
    ],
)
def test_a_text_stands_for_an_id_and_an_entry(text: str, id: str, server: Server) -> None:
    assert parse_server(text) == (id, server)


NO_ADDRESS = "expected HOST:PORT or [IPv6]:PORT, got {!r}"
NO_PORT = "port must be a number up to 65535, got {!r}"
NO_IPV6 = "not an IPv6 address in {!r}"

BAD_ADDRESSES = [
    *[(text, NO_ADDRESS) for text in ("", "web", ":80", "::1:80", "[::1]80", "::1")],
    *[(text, NO_PORT) for text in ("web:", "web:65536", "web:-1", "web:+80", "web: 80", "web:8_0")],
    *[(text, NO_PORT) for text in ("web:٨٠", "web:80\n", "web:000080", "web:" + "9" * 5000)],
    *[(text, NO_IPV6) for text in ("[]:80", "[web]:80", "[127.0.0.1]:80", "[::1]]:80")],
]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *BAD_ADDRESSES,
        ("a=", "expected HOST:PORT or [IPv6]:PORT, got ''"),
        ("[::1]", NO_ADDRESS),
        ("=web:80", "empty ID in {!r}"),
        ("=unix:/run/x", "empty ID in {!r}"),
        ("unix:", "empty path in {!r}"),
        ("unix:@", "empty path in {!r}"),
        ("u=unix:", "empty path in {!r}"),
        ("web:0", "invalid server 'web:0': port must be an int from 1 to 65535, got 0"),
        ("a=web:0", "invalid server 'a': port must be an int from 1 to 65535, got 0"),
        (" web:80", "invalid server ' web:80': host has characters that no name has: ' web'"),
        ("u=unix:a\0b", "invalid server 'u': path has a NUL byte: 'a\\x00b'"),
    ],
)
def test_a_bad_server_is_refused_and_named(text: str, message: str) -> None:
    with pytest.raises(InvalidServerError) as caught:
        parse_server(text)
    assert str(caught.value) == message.format(text)


@pytest.mark.parametrize("text", ["..:80", "a=..:80", "unix:" + "x" * 200, "a=unix:@" + "x" * 200])
def test_what_check_server_refuses_is_refused_and_named(text: str) -> None:
    id = "a" if text.startswith("a=") else text
    with pytest.raises(InvalidServerError, match=rf"^invalid server {re.escape(repr(id))}: "):
        parse_server(text)


def test_a_listener_is_a_host_and_a_port() -> None:
    assert parse_listener("127.0.0.1:0") == ("127.0.0.1", 0)
    assert parse_listener("[::1]:80") == ("::1", 80)
    assert parse_listener("some.test:65535") == ("some.test", 65535)


@pytest.mark.parametrize(
    ("text", "message"),
    [*BAD_ADDRESSES, ("127.0.0.1", NO_ADDRESS), ("127.0.0.1:65536", NO_PORT)],
)
def test_a_bad_listener_is_refused_and_named(text: str, message: str) -> None:
    with pytest.raises(InvalidServerError) as caught:
        parse_listener(text)
    assert str(caught.value) == message.format(text)


@pytest.mark.parametrize("text", ["..:0", "..:80", " web:80"])
def test_a_listener_has_a_host_that_can_be_looked_up(text: str) -> None:
    with pytest.raises(InvalidServerError, match=rf"^invalid server {text!r}: host "):
        parse_listener(text)


@pytest.mark.parametrize("text", ["unix:/run/x.sock", "a=unix:/run/x.sock", "unix:@name"])
def test_a_listener_is_no_path(text: str) -> None:
    with pytest.raises(InvalidServerError):
        parse_listener(text)


def test_an_invalid_server_is_a_value_error() -> None:
    for parse in (parse_server, parse_listener):
        with pytest.raises(ValueError, match="nonsense"):
            parse("nonsense")


@given(NAMES, PORTS)
def test_a_name_and_a_port_come_back(host: str, port: int) -> None:
    text = f"{host}:{port}"
    assert parse_server(text) == (text, {"host": host, "port": port})
    assert parse_listener(text) == (host, port)


@given(st.ip_addresses(v=6), PORTS)
def test_an_ipv6_address_and_a_port_come_back(address: IPv6Address, port: int) -> None:
    text = f"[{address}]:{port}"
    assert parse_server(text) == (text, {"host": str(address), "port": port})
    assert parse_listener(text) == (str(address), port)


@given(IDS, NAMES, PORTS)
@example("[::1]:80", "web", 80)
@example(" ", "web", 80)
def test_an_id_comes_back(id: str, host: str, port: int) -> None:
    assert parse_server(f"{id}={host}:{port}") == (id, {"host": host, "port": port})


@given(IDS, PATHS)
def test_a_path_comes_back(id: str, path: str) -> None:
    assert parse_server(f"unix:{path}") == (f"unix:{path}", {"path": path})
    assert parse_server(f"{id}=unix:{path}") == (id, {"path": path})


@given(st.text())
@example("a=b=c:1")
def test_any_text_is_a_server_or_refused(text: str) -> None:
    try:
        id, server = parse_server(text)
    except InvalidServerError:
        return
    assert text == id or text.startswith(f"{id}=")
    assert server.keys() in ({"host", "port"}, {"path"})
