"""Questions to name servers, over gevent's sockets: dnspython's own would block the hub."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.resolver
from dns.rdatatype import RdataType
from gevent import Timeout
from gevent import socket as gevent_socket

from gevent_rover.discovery.answers import Reply, read_reply
from gevent_rover.discovery.source import SourceError, address_id
from gevent_rover.discovery.turns import give_way
from gevent_rover.net.addresses import Address, known_address
from gevent_rover.net.failures import connect_error
from gevent_rover.net.sockets import INTERNET, close_now, raw_of
from gevent_rover.registry import parse_server

#: Where the system keeps its name servers: resolv.conf(5).
RESOLV_CONF: Final = "/etc/resolv.conf"

#: The port of DNS.
PORT: Final = 53

#: So many times each name server is asked: a datagram may be lost. What resolv.conf(5)
#: does, too.
ROUNDS: Final = 2

#: The largest answer over UDP, in bytes: what DNS Flag Day 2020 agreed on, since no path
#: breaks it into fragments.
PAYLOAD: Final = 1232

#: Seconds that a name server has for an answer, where ``nameservers`` are given; else it's
#: what resolv.conf says, and dnspython's default there, 2, too.
TIMEOUT: Final = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The records of a name; there may be none of the type that was asked for."""

    records: tuple[Any, ...]
    #: Seconds for which it's so; None: nobody says.
    ttl: int | None


@dataclass(frozen=True, slots=True)
class _Settings:
    servers: tuple[Address, ...]
    search: tuple[dns.name.Name, ...]
    ndots: int
    timeout: float

    def candidates(self, name: dns.name.Name) -> list[dns.name.Name]:
        """Return the names that a name may stand for, in order: resolv.conf(5), ``ndots``."""
        if name.is_absolute():
            return [name]
        found = []
        for suffix in self.search:
            try:
                found.append(name + suffix)
            except dns.name.NameTooLong:
                pass
        absolute = name.concatenate(dns.name.root)
        found.insert(0 if len(name) > self.ndots else len(found), absolute)
        return found


class Lookup:
    """Asks name servers; several greenlets may do so at a time.

    :param nameservers: ``ADDRESS`` or ``ADDRESS:PORT`` each; a name is taken as it is then.
        None: the system's, whose file is read for each question, since it changes.
    :param timeout: seconds that each of them has for an answer; None: what the file says.
    :param resolv_conf: the system's file.
    :raises ValueError: a name server isn't an address.
    """

    def __init__(
        self,
        nameservers: Sequence[str] | None,
        timeout: float | None,
        resolv_conf: str = RESOLV_CONF,
    ) -> None:
        self._timeout = timeout
        self._resolv_conf = resolv_conf
        self._given: _Settings | None = None
        if nameservers is not None:
            if isinstance(nameservers, str) or not nameservers:
                raise ValueError(f"nameservers must be a list of addresses, got {nameservers!r}")
            servers = tuple(map(_address_of, nameservers))
            self._given = _Settings(servers, (), 1, timeout or TIMEOUT)
        # Who answered last is asked first. Else a dead one would delay every answer.
        self._preferred: Address | None = None
        self._sockets: list[Any] = []

    def ask(self, name: dns.name.Name, kind: RdataType) -> Answer:
        """Ask for the records of a name; block until they're known.

        A name server that doesn't answer in time, or says that it can't, has the next one
        asked; after the last one all are asked once more.

        :param name: a relative one is looked for in the system's search domains, too.
        :raises SourceError: there's no such name, or nobody can tell.
        """
        settings = self._settings()
        for candidate in settings.candidates(name):
            answer = self._ask_all(settings, candidate, kind)
            if answer is not None:
                return answer
        raise SourceError(f"there is no name {name}")

    def abandon(self) -> None:
        """Close the sockets, in a forked child: without a switch, without the hub."""
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            close_now(sock)
        sockets.clear()  # Copies of greenlets have the list, too.

    def _settings(self) -> _Settings:
        if self._given is not None:
            return self._given
        try:
            system = dns.resolver.Resolver(self._resolv_conf)
            servers = [_address_of(str(server), system.port) for server in system.nameservers]
        except (dns.exception.DNSException, OSError, ValueError) as exc:
            raise SourceError(f"{self._resolv_conf}: {exc}") from exc
        search = system.search or [system.domain]
        return _Settings(
            tuple(servers),
            tuple(suffix for suffix in search if suffix != dns.name.root),
            1 if system.ndots is None else system.ndots,
            self._timeout or max(system.timeout, 1.0),
        )

    def _ask_all(self, settings: _Settings, name: dns.name.Name, kind: RdataType) -> Answer | None:
        """Ask the servers in turn; None: there's no such name."""
        failures: dict[Address, str] = {}
        servers = sorted(settings.servers, key=lambda server: server != self._preferred)
        for server in servers * ROUNDS:
            try:
                reply = self._ask_one(server, name, kind, settings.timeout)
            except OSError as exc:
                failures[server] = exc.strerror or str(exc)
                continue
            self._preferred = server
            if reply.rcode == dns.rcode.NXDOMAIN:
                return None
            return Answer(reply.records, reply.ttl)
        said = "; ".join(
            f"{address_id(*address[:2])}: {reason}" for (_, address), reason in failures.items()
        )
        raise SourceError(f"no name server knows the {kind.name} of {name}: {said}")

    def _ask_one(
        self, server: Address, name: dns.name.Name, kind: RdataType, seconds: float
    ) -> Reply:
        """Ask one server: over UDP, and over TCP what doesn't fit.

        :raises OSError: it doesn't answer, or can't tell.
        """
        query = dns.message.make_query(name, kind, use_edns=0, payload=PAYLOAD)
        with Timeout(seconds, TimeoutError(f"no answer within {seconds:g} s")):
            reply = self._over_udp(server, query)
            if reply.rcode in (dns.rcode.FORMERR, dns.rcode.NOTIMP):
                # It's too old for EDNS: RFC 6891 (section 7).
                query = dns.message.make_query(name, kind)
                reply = self._over_udp(server, query)
            if reply.truncated:
                reply = self._over_tcp(server, query)
        if reply.rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise OSError(dns.rcode.to_text(reply.rcode))
        if reply.referral:
            raise OSError("it refers to others")
        return reply

    def _over_udp(self, server: Address, query: dns.message.Message) -> Reply:
        family, address = server
        with self._socket(family, gevent_socket.SOCK_DGRAM) as sock:
            # From now on the kernel drops what others send, and the port is a random one.
            raw_of(sock).connect(address)
            sock.send(query.to_wire())
            while True:
                reply = read_reply(query, sock.recv(65535), give_way)
                if reply is not None:
                    return reply
                # Somebody guesses, or it's late. There may be more of it than we can read.
                give_way()

    def _over_tcp(self, server: Address, query: dns.message.Message) -> Reply:
        family, address = server
        with self._socket(family, gevent_socket.SOCK_STREAM) as sock:
            number = raw_of(sock).connect_ex(address)
            if number and number != errno.EINPROGRESS:
                raise OSError(number, os.strerror(number))
            gevent_socket.wait_write(sock.fileno())
            failure = connect_error(sock)
            if failure is not None:
                raise failure
            wire = query.to_wire()
            sock.sendall(len(wire).to_bytes(2, "big") + wire)
            size = int.from_bytes(_read(sock, 2), "big")
            reply = read_reply(query, _read(sock, size), give_way)
        if reply is None or reply.truncated:
            raise OSError("it answers nonsense over TCP")
        return reply

    @contextmanager
    def _socket(self, family: int, kind: int) -> Iterator[Any]:
        """Make a socket, and close it in the end, unless a forked child has done so."""
        sockets = self._sockets
        sock = gevent_socket.socket(family, kind)
        sockets.append(sock)
        try:
            yield sock
        finally:
            if sock in sockets:
                sockets.remove(sock)
                close_now(sock)


def _read(sock: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise OSError("it closed the connection")
        data += more
    return data


def _address_of(server: str, port: int = PORT) -> Address:
    """Return the address of a name server.

    :raises ValueError: it isn't one.
    """
    try:
        known = known_address({"host": server, "port": port})
    except OSError:
        known = known_address(parse_server(server)[1])
    if known is None or known[0] not in INTERNET:
        raise ValueError(f"a name server must be an IP address, got {server!r}")
    return known
