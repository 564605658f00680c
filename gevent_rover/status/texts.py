"""Snapshots as JSON, for a worker that is asked each second.

What takes time are the servers, and most of that is to write them down: so their texts come
from a template, and of those that nobody uses there is less to say.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from json import JSONEncoder
from json.encoder import encode_basestring_ascii
from time import monotonic, time
from typing import Any, Final

from gevent_rover.policy.histogram import BOUNDS
from gevent_rover.pooling.pool import SlotPool
from gevent_rover.roving.rover import Rover
from gevent_rover.status.snapshot import KEYS, UNUSED, ServerView, servers_of, without_servers

#: Return a value as JSON in one line.
text_of: Final = JSONEncoder(separators=(",", ":"), check_circular=False).encode


def line_of(where: str, rover: Rover | None, pool: SlotPool[Any] | None, name: str) -> bytes:
    """Return a line of ``workers.ndjson`` with a client's snapshot. Doesn't switch.

    What's left out of a server's row is 0, or empty, or null; a slowness is 1 then. The
    seconds of its leases are given to a microsecond, and latencies in six digits.

    :param where: which worker it is of, in words.
    """
    epoch = time() - monotonic()
    servers = ",".join([_text_of(server, epoch) for server in servers_of(rover, pool)])
    rest = text_of(without_servers(rover, pool, name))
    # They are the last of its keys.
    return f'{{"where":{text_of(where)},"snapshot":{rest[:-2]}{servers}]}}}}'.encode()


# To write a float in full takes three times as long as to write six digits, and a worker
# has three for each server.
_FORMS: Final = {
    "state": '"%s"',
    "slots": "[%s]",
    "lease_seconds": "%.6f",
    "latency": "%.6g",
    "slowness": "%.6g",
    "lease_times": "[%s]",
}


def _template(*keys: str) -> str:
    return "{" + ",".join(f'"{key}":{_FORMS.get(key, "%s")}' for key in keys) + "}"


_UNTRIED: Final = _template("id", "address", "state")
_UNUSED: Final = _template("id", "address", "state", "attempts", "failed_attempts")
_WELL: Final = _template(
    *("id", "address", "state", "slots", "idle", "leased", "leases", "lease_seconds"),
    *("attempts", "failed_attempts", "latency", "lease_times"),
)
_WHOLE: Final = _template(*KEYS)

# A text in JSON; what is none is a TypeError.
_quoted: Final[Callable[[Any], str]] = encode_basestring_ascii

# Of all counts of a histogram, of which most are 0.
_INDEXES: Final = range(len(BOUNDS) + 1)


def _text_of(server: ServerView, epoch: float) -> str:
    id, address, state, record, use = server
    head: tuple[str, str, str]
    try:
        head = _quoted(id), _quoted(address), record.state if state is None else state
    except TypeError:  # None, or no text: users write registries
        head = _text(id), _text(address), record.state if state is None else state
    trouble, times = record.trouble, record.lease_times
    if use is UNUSED and trouble is None and not times:
        if not record.attempts:
            return _UNTRIED % head
        return _UNUSED % (*head, record.attempts, record.failed_attempts)
    slots = ",".join([f'[{slot},"{state}"]' for slot, state in use.slots])
    lease_times = ",".join([f"[{index},{times[index]}]" for index in compress(_INDEXES, times)])
    odd = trouble or use.preparing or use.retired or use.failures
    if not odd and record.slowness == 1.0:
        return _WELL % (
            *head,
            slots,
            use.idle,
            use.leased,
            use.leases,
            use.lease_seconds,
            record.attempts,
            record.failed_attempts,
            record.latency,
            lease_times,
        )
    return _WHOLE % (
        *head,
        slots,
        *use[1:],
        record.attempts,
        record.failed_attempts,
        record.latency,
        record.slowness,
        lease_times,
        "null" if trouble is None else _text(trouble.text),
        "null" if trouble is None else epoch + trouble.since,
        "null" if trouble is None else epoch + trouble.at,
    )


def _text(value: str | None) -> str:
    return "null" if value is None else _quoted(str(value))
