"""What a name server's message says: bytes in, an answer out, without a socket."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

# dnspython imports the module of a type when it meets the first record of it.
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.SOA
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
from dns.rdatatype import RdataType

#: The longest time to live, RFC 2181 (section 8); what says more says nothing, so 0.
_LONGEST: Final = 2**31 - 1

# Aliases in a row, as many as dnspython follows.
_MAX_CHAIN: Final = 16

# Records that are read without a pause: some 1 ms. 64 kB hold 4,000.
_AT_A_TIME: Final = 32


@dataclass(frozen=True, slots=True)
class Reply:
    """What a name server says to a question."""

    rcode: dns.rcode.Rcode
    #: It didn't fit: there's nothing else in here, and TCP has all of it.
    truncated: bool
    #: The records of the type that was asked for, of the name or of what it's an alias of;
    #: each once.
    records: tuple[Any, ...]
    #: Seconds for which that's so: the lowest of the records and aliases, or for how long
    #: there are none (RFC 2308). None: it doesn't say.
    ttl: int | None
    #: It knows nothing itself and asks nobody: it names others to ask.
    referral: bool


class _Garbage(Exception):
    """That can't be read."""


def read_reply(
    query: dns.message.Message, wire: bytes, pause: Callable[[], object]
) -> Reply | None:
    """Return what a message says to a question; None if it's no answer to that.

    Whatever the bytes are, it raises nothing.

    :param query: of one question.
    :param pause: called now and then in a long message; it may switch.
    """
    try:
        head = dns.message.from_wire(wire, question_only=True)
        if not query.is_response(head):
            return None
        rcode, flags = head.rcode(), head.flags
        if flags & dns.flags.TC:
            return Reply(rcode, True, (), None, False)
        if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return Reply(rcode, False, (), None, False)
        return _read_records(query, wire, rcode, flags, pause)
    except (dns.exception.DNSException, _Garbage, ValueError, IndexError, struct.error):
        return None


@dataclass(slots=True)
class _Record:
    section: int
    name: dns.name.Name
    type: int
    ttl: int
    #: None if nobody needs it.
    data: Any


def _read_records(
    query: dns.message.Message,
    wire: bytes,
    rcode: dns.rcode.Rcode,
    flags: int,
    pause: Callable[[], object],
) -> Reply:
    question = query.question[0]
    by_name: dict[dns.name.Name, dict[Any, int]] = {}
    aliases: dict[dns.name.Name, tuple[dns.name.Name, int]] = {}
    negative: int | None = None
    delegates = False
    for number, record in enumerate(_records(wire, question.rdtype), 1):
        if number % _AT_A_TIME == 0:
            pause()
        if record.section == 1:
            if record.type == RdataType.SOA:
                negative = min(record.ttl, record.data.minimum)
            delegates = delegates or record.type == RdataType.NS
        elif record.type == question.rdtype:
            found = by_name.setdefault(record.name, {})
            found[record.data] = min(record.ttl, found.get(record.data, _LONGEST))
        elif record.type == RdataType.CNAME:
            aliases[record.name] = record.data.target, record.ttl
    ttls: list[int] = []
    name = question.name
    for _ in range(_MAX_CHAIN):
        if name in by_name or name not in aliases:
            break
        name, ttl = aliases[name]
        ttls.append(ttl)
    else:
        raise _Garbage  # Aliases go round in a circle, or nearly.
    records = {} if rcode == dns.rcode.NXDOMAIN else by_name.get(name, {})
    ttls.extend(records.values())
    if not records and negative is not None:
        ttls.append(negative)
    knows = flags & (dns.flags.AA | dns.flags.RA) or records or negative is not None
    return Reply(
        rcode, False, tuple(records), min(ttls, default=None), bool(delegates and not knows)
    )


def _records(wire: bytes, wanted: int) -> Iterator[_Record]:
    """Read the sections of answers (0) and of authorities (1)."""
    _, _, questions, answers, authorities, _ = struct.unpack("!6H", wire[:12])
    names: dict[bytes, dns.name.Name] = {}
    at = 12
    for _ in range(questions):
        at = _name_at(wire, at, names)[1] + 4
    needed = (wanted, RdataType.CNAME), (RdataType.SOA,)
    for section, count in enumerate((answers, authorities)):
        for _ in range(count):
            name, at = _name_at(wire, at, names)
            kind, rdclass, ttl, size = struct.unpack_from("!HHIH", wire, at)
            at += 10
            if rdclass == dns.rdataclass.IN:
                data = None
                if kind in needed[section]:
                    data = dns.rdata.from_wire(rdclass, kind, wire, at, size)
                yield _Record(section, name, kind, ttl if ttl <= _LONGEST else 0, data)
            at += size


def _name_at(wire: bytes, at: int, names: dict[bytes, dns.name.Name]) -> tuple[dns.name.Name, int]:
    """Read a name, perhaps compressed, RFC 1035 (4.1.4); return where it ends, too.

    dnspython's own functions for it have changed with 2.9, and aren't compatible.

    :param names: those that were read by pointer, by that: nearly all are the same one.
    """
    pointer = wire[at : at + 2]
    known = names.get(pointer)
    if known is not None:
        return known, at + 2
    labels: list[bytes] = []
    start, end = at, 0
    # A name has 127 labels at most, and needs no more pointers than that.
    for _ in range(256):
        size = wire[at]
        if size >= 192:
            end = end or at + 2
            target = (size & 63) << 8 | wire[at + 1]
            if target >= at:
                raise _Garbage  # It would go round.
            at = target
        elif size >= 64:
            raise _Garbage
        else:
            labels.append(wire[at + 1 : at + 1 + size])
            at += 1 + size
            if not size:
                name = dns.name.Name(labels)
                if end == start + 2:
                    names[pointer] = name
                return name, end or at
    raise _Garbage
