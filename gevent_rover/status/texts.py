"""Snapshots as JSON, for a worker that is asked each second.

What takes time are the servers, and most of that is to write them down: so their texts come
from a template, and of those that nobody uses there is less to say.
"""

from __future__ import annotations

from json import JSONEncoder
from json.encoder import encode_basestring_ascii
from time import monotonic, time
from typing import Any, Final

from gevent_rover.pooling.pool import SlotPool
from gevent_rover.roving.rover import Rover
from gevent_rover.status.snapshot import KEYS, UNUSED, ServerView, servers_of, without_servers

#: Return a value as JSON in one line.
text_of: Final = JSONEncoder(separators=(",", ":"), check_circular=False).encode


def line_of(where: str, rover: Rover | None, pool: SlotPool[Any] | None, name: str) -> bytes:
    """Return a line of ``workers.ndjson`` with a client's snapshot. Doesn't switch.

    What's left out of a server's row is 0, or empty, or null.

    :param where: which worker it is of, in words.
    """
    epoch = time() - monotonic()
    servers = ",".join([_text_of(server, epoch) for server in servers_of(rover, pool)])
    rest = text_of(without_servers(rover, pool, name))
    # They are the last of its keys.
    return f'{{"where":{text_of(where)},"snapshot":{rest[:-2]}{servers}]}}}}'.encode()


_FORMS: Final = {"state": '"%s"', "slots": "[%s]", "lease_times": "[%s]"}
_WHOLE: Final = "{" + ",".join(f'"{key}":{_FORMS.get(key, "%s")}' for key in KEYS) + "}"
_FEW: Final = '{"id":%s,"address":%s,"state":"%s","attempts":%d,"failed_attempts":%d}'


def _text_of(server: ServerView, epoch: float) -> str:
    id, address, state, record, use = server
    head = _text(id), _text(address), record.state if state is None else state
    trouble = record.trouble
    if use is UNUSED and trouble is None and not record.lease_times:
        return _FEW % (*head, record.attempts, record.failed_attempts)
    return _WHOLE % (
        *head,
        ",".join([f'[{slot},"{state}"]' for slot, state in use.slots]),
        *use[1:],
        record.attempts,
        record.failed_attempts,
        record.latency,
        record.slowness,
        ",".join([f"[{index},{n}]" for index, n in enumerate(record.lease_times) if n]),
        "null" if trouble is None else _text(trouble.text),
        "null" if trouble is None else epoch + trouble.since,
        "null" if trouble is None else epoch + trouble.at,
    )


def _text(value: str | None) -> str:
    if value is None:
        return "null"
    return encode_basestring_ascii(value if type(value) is str else str(value))
