"""A name server that misbehaves as it's told: a port, and a command on each line of its input.

``answer ADDRESS...``, ``silent``, or the name of an rcode. It says "ok" to each.
"""

from __future__ import annotations

import select
import socket
import sys

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


def reply(query: dns.message.Message, what: str, arguments: list[str]) -> dns.message.Message:
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA
    if what != "answer":
        response.set_rcode(dns.rcode.from_text(what))
    elif query.question[0].rdtype == dns.rdatatype.A and arguments:
        name = query.question[0].name
        response.answer.append(dns.rrset.from_text(name, 1, "IN", "A", *arguments))
    return response


def main() -> None:
    # The tests wait until somebody listens.
    with socket.socket() as listener, socket.socket(type=socket.SOCK_DGRAM) as sock:
        address = "127.0.0.1", int(sys.argv[1])
        sock.bind(address)
        listener.bind(address)
        listener.listen()
        what, arguments = "silent", [""]
        while True:
            ready, _, _ = select.select([sys.stdin, sock], [], [])
            if sys.stdin in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                what, *arguments = line.split()
                print("ok", flush=True)
            else:
                wire, peer = sock.recvfrom(65535)
                if what != "silent":
                    query = dns.message.from_wire(wire)
                    sock.sendto(reply(query, what, arguments).to_wire(), peer)


if __name__ == "__main__":
    main()
