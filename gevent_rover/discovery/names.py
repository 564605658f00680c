"""Servers from DNS: all addresses of a name, or the targets of a service."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from random import shuffle
from time import monotonic
from typing import Any, Final

from gevent import Greenlet, get_hub, iwait, sleep, wait

from gevent_rover.checks import check_count, check_seconds
from gevent_rover.discovery.source import Apply, SourceError, address_id
from gevent_rover.extras import extra
from gevent_rover.models import Server
from gevent_rover.net.addresses import addresses_of, known_address
from gevent_rover.net.forks import kill_copy
from gevent_rover.net.race import ATTEMPT_DELAY, race
from gevent_rover.net.resources import Resources
from gevent_rover.registry import check_server

#: Seconds after which a name is asked for again, whatever its TTL says. A cache counts a TTL
#: down to 0, so who believed that would ask without a pause; and some TTLs are a day, set
#: when nobody thought of a server that leaves.
LEAST_TTL: Final = 1.0
MOST_TTL: Final = 60.0

#: Seconds for which addresses of one family wait for those of the other. Most name servers
#: have answered both by then; those that answer no AAAA at all never will.
RESOLUTION_DELAY: Final = 0.25

#: The same when it asks for the first time: long enough for a datagram that was lost. Later on
#: those that were known stay, so nothing is lost with it.
FIRST_RESOLUTION_DELAY: Final = 2.5

#: Seconds in which a target must accept to count as reachable: a SYN that is lost is sent
#: once more after 1 s (RFC 6298).
PROBE_TIMEOUT: Final = 2.0


class _NameSource:
    """Asks name servers again and again: the base class of what follows a name in DNS."""

    def __init__(
        self, name: str, *, nameservers: Sequence[str] | None, timeout: float | None
    ) -> None:
        user = type(self).__name__
        extra("dns", "dns", user)
        # All that needs dnspython is imported late: it's an extra.
        import dns.exception
        import dns.name

        from gevent_rover.discovery.lookup import Lookup

        if timeout is not None:
            check_seconds("timeout", timeout)
        if not isinstance(name, str) or not name.strip("."):
            raise ValueError(f"{user} needs a name, got {name!r}")
        check_server({"host": name, "port": 1}, name)
        if _is_address(name):
            raise ValueError(
                f"{user} needs a name, and {name!r} is an address: it can stand in the registry"
                " as it is"
            )
        try:
            self._name = dns.name.from_text(name, None)
        except (dns.exception.DNSException, UnicodeError) as exc:
            raise ValueError(f"{user}: {name!r} is no name: {exc}") from None
        self.name = name
        self._lookup = Lookup(nameservers, timeout)
        self._greenlets: set[Greenlet[..., Any]] = set()
        self._probes: set[Resources] = set()

    def run(self, apply: Apply) -> None:
        """Ask, and again when the answer's TTL is over, and apply what has changed.

        :raises SourceError: there's no such name, or nobody can tell.
        """
        applied: Mapping[str, Server] | None = None
        while True:
            began = monotonic()
            servers, ttl = self._ask()
            if servers != applied:
                apply(servers)
                applied = servers
            due = began + (MOST_TTL if ttl is None else min(max(ttl, LEAST_TTL), MOST_TTL))
            sleep(max(0.0, due - monotonic()))

    def abandon(self) -> None:
        """Let go of sockets and greenlets, in a forked child."""
        self._lookup.abandon()
        probes, self._probes = self._probes, set()
        for resources in probes:
            resources.abandoned = True
            resources.release()
        greenlets, self._greenlets = self._greenlets, set()
        for greenlet in greenlets:
            kill_copy(greenlet)

    @abstractmethod
    def _ask(self) -> tuple[dict[str, Server], float | None]:
        """Return all servers, and for how many seconds that's so."""

    def _spawn(self, function: Callable[..., Any], *args: Any) -> Greenlet[..., Any]:
        greenlet = Greenlet.spawn(function, *args)
        self._greenlets.add(greenlet)
        greenlet.link(self._greenlets.discard)
        return greenlet


class DNSSource(_NameSource):
    """All addresses of a name, A and AAAA, asked for again after their TTL.

    Each is a server of its own, ``host:port``, with the name as its ``server_hostname``, so
    that TLS checks that. Where addresses of one kind can't be had, those known before stay.

    :param name: is looked for in the search domains of ``resolv.conf``, too, unless it ends
        with a dot. An alias is followed.
    :param port: of all servers.
    :param nameservers: ``ADDRESS`` or ``ADDRESS:PORT`` of each; None: those of
        ``/etc/resolv.conf``.
    :param timeout: seconds that a name server has for an answer, until the next one is
        asked; None: what ``resolv.conf`` says, 2 by default.
    :raises ImportError: dnspython isn't installed, the extra ``dns``.
    :raises ValueError: the name is none, or an address; or another argument is wrong.
    """

    def __init__(
        self,
        name: str,
        port: int,
        *,
        nameservers: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(name, nameservers=nameservers, timeout=timeout)
        self.port = check_count("port", port, 1, 65535)
        from dns.rdatatype import RdataType

        # The latest addresses of each kind.
        self._known: dict[RdataType, tuple[str, ...]] = {RdataType.A: (), RdataType.AAAA: ()}
        self._delay = FIRST_RESOLUTION_DELAY

    def __repr__(self) -> str:
        return f"DNSSource({self.name!r}, {self.port})"

    def _ask(self) -> tuple[dict[str, Server], float | None]:
        answers: dict[Any, Any] = {}
        failures: dict[Any, Exception] = {}
        lookups = [self._spawn(self._look_up, kind, answers, failures) for kind in self._known]
        try:
            wait(lookups, count=1)
            found = any(answer.records for answer in answers.values())
            wait(lookups, timeout=self._delay if found else None)
        finally:
            _kill(lookups)
        # A kind that can't be had doesn't matter if the other one can.
        if failures and not any(answer.records for answer in answers.values()):
            # Always that of the same kind if there are two: the log tells a new one apart.
            raise next(failures[kind] for kind in self._known if kind in failures)
        self._delay = RESOLUTION_DELAY
        for kind, answer in answers.items():
            self._known[kind] = tuple(record.address for record in answer.records)
        servers: dict[str, Server] = {}
        for addresses in self._known.values():
            for host in addresses:
                servers[address_id(host, self.port)] = {
                    "host": host,
                    "port": self.port,
                    "server_hostname": self.name.removesuffix("."),
                }
        ttls = [answer.ttl for answer in answers.values() if answer.ttl is not None]
        return servers, min(ttls, default=None)

    def _look_up(self, kind: Any, answers: dict[Any, Any], failures: dict[Any, Exception]) -> None:
        try:
            answers[kind] = self._lookup.ask(self._name, kind)
        except Exception as exc:
            failures[kind] = exc  # A greenlet that raises prints a traceback.


class SRVSource(_NameSource):
    """The targets of a service with their ports (SRV, RFC 2782), asked for again after their TTL.

    **Priorities:** the servers are those of the lowest priority in which at least one
    accepts a connection. To find out, each time that it asks, it connects to one after the
    other, by chance, until one accepts, and says nothing there. Where nobody accepts it's
    the lowest priority, and where there's only one, nobody is asked.

    **Weights:** those of a priority are all servers alike, since slots balance by themselves;
    but those with weight 0 beside others with more come after them, as if they had a
    priority of their own. The RFC has them selected hardly ever.

    A target is its name and port, and the rover looks its addresses up, by the system's
    resolver. A target that is a mere dot says that there's no such service: no servers.

    :param name: ``_service._proto.name``; for search domains and aliases see
        :class:`DNSSource`, as for the other arguments.
    :raises ImportError: dnspython isn't installed, the extra ``dns``.
    :raises ValueError: the name is none, or an address; or another argument is wrong.
    """

    def __init__(
        self,
        name: str,
        *,
        nameservers: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(name, nameservers=nameservers, timeout=timeout)

    def __repr__(self) -> str:
        return f"SRVSource({self.name!r})"

    def _ask(self) -> tuple[dict[str, Server], float | None]:
        from dns.rdatatype import RdataType

        answer = self._lookup.ask(self._name, RdataType.SRV)
        groups = _groups(answer.records)
        chosen: list[Server] = groups[0] if groups else []
        if len(groups) > 1:
            chosen = next(filter(self._is_reachable, groups), chosen)
        servers = {address_id(server["host"], server["port"]): server for server in chosen}
        return servers, answer.ttl

    def _is_reachable(self, group: list[Server]) -> bool:
        """Tell whether one of these accepts; block until one does, or time is up."""
        group = group.copy()
        shuffle(group)
        deadline = monotonic() + PROBE_TIMEOUT
        probes: list[Greenlet[..., bool]] = []
        try:
            for server in group:
                probes.append(self._spawn(self._accepts, server))
                probes[-1].join(ATTEMPT_DELAY)
                if any(probe.value is True for probe in probes):
                    return True
                if monotonic() >= deadline:
                    return False
            left = max(0.0, deadline - monotonic())
            return any(probe.value is True for probe in iwait(probes, left))
        finally:
            _kill(probes)

    def _accepts(self, server: Server) -> bool:
        resources = Resources()
        probes = self._probes
        probes.add(resources)
        hub = get_hub()
        try:
            addresses = addresses_of(hub, server)
            resources.watchers.append(hub.loop.timer(0))  # The race leaves the first alone.
            race(resources, hub, addresses)
            return True
        except OSError:
            return False
        finally:
            resources.release()
            probes.discard(resources)


def _groups(records: Sequence[Any]) -> list[list[Server]]:
    """Put targets that are used together into groups; the first one is the best.

    :raises SourceError: a target is no name of a host.
    """
    weighted = {record.priority for record in records if record.weight}
    groups: dict[tuple[int, bool], list[Server]] = {}
    for record in records:
        host = record.target.to_text(omit_final_dot=True).lower()
        if host == ".":
            continue
        if "\\" in host:
            raise SourceError(f"the target {host!r} can't be a host")
        rank = record.priority, not record.weight and record.priority in weighted
        groups.setdefault(rank, []).append({"host": host, "port": record.port})
    return [groups[rank] for rank in sorted(groups)]


def _is_address(name: str) -> bool:
    try:
        return known_address({"host": name, "port": 1}) is not None
    except OSError:
        return True  # It has a colon.


def _kill(greenlets: Sequence[Greenlet[..., Any]]) -> None:
    """Kill them, and wait until they have cleaned up."""
    for greenlet in greenlets:
        greenlet.kill()
