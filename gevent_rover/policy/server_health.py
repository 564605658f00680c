"""What a client knows of one server: how its attempts and its leases went."""

from __future__ import annotations

from math import inf
from random import uniform
from typing import Final, Literal, TypeAlias

from gevent_rover.policy.histogram import bucket, no_counts
from gevent_rover.policy.trouble import Troubled

# The rules below were tried on some forty simulated scenarios, and chosen on other
# seeds than those that benchmarks/README.md quotes. It says what each is worth.

#: How many times the typical latency a server must exceed to count as slow. It's
#: the dead band: below it, differences are chance. The mean of a dozen exponentially
#: distributed times exceeds it once in a thousand times.
SLOW: Final = 2.2

#: Seconds by which latencies must differ at least to count as slow or fast: what differs
#: by less is the scheduling of processes.
LEAST: Final = 0.001

#: A lease of a slow server that takes at most so many times the typical latency is
#: taken for a sign that it has recovered.
RECOVERED: Final = 1.25

#: How many times the typical latency a server must be below to count as fast.
FAST: Final = 0.5

#: A lease that took longer than so many times the typical latency counts as that long: a
#: single one tells no more. Where that's less, it's half as much again as what counts at
#: least: the first one alone makes nobody slow then, and further ones do.
MOST: Final = 8.0

#: The least weight of a lease in its server's latency: the mean of some dozen of them.
WEIGHT: Final = 0.07
# So many leases that a further one has that weight.
_MANY: Final = 13
#: The same while the server is slow: what is looked at seldom must be believed sooner.
WEIGHT_WHILE_SLOW: Final = 0.3

#: A slow server is tried again after 25 × (how many times slower − 1)² leases of this
#: client, or after a minute, whatever comes first.
RETRY_LEASES: Final = 25.0
RETRY_SECONDS: Final = 60.0

#: How many leases in a row must fail for a server to be set aside; for how many
#: seconds, which double with each further one; and for how many at most. Less up to a
#: half, by chance, so that clients don't come back in step.
SET_ASIDE_AFTER: Final = 3
SET_ASIDE_FOR: Final = 0.2
SET_ASIDE_AT_MOST: Final = 10.0


#: How a client sees a server, the worst last: nothing speaks against it; its leases take
#: long; it left the registry, and its connections are still in use; it hung up on new
#: connections, or their setup failed; its leases failed in a row; its latest attempt ended
#: in an error that a person must fix; its latest attempt got no answer.
ServerState: TypeAlias = Literal[
    "up", "slow", "draining", "suspect", "set aside", "error", "unreachable"
]


class Known:
    """What the records of a client's servers share.

    The typical latency is the lower quartile of the servers' latencies: so it's that
    of the fast ones, even where most are slow, and no single fast one determines it.
    """

    def __init__(self) -> None:
        #: How many servers the registry has; 0: nobody said.
        self.servers = 0
        #: Leases that this client began.
        self.leases = 0
        #: Seconds; 0: unknown.
        self.typical = 0.0
        #: Latencies between these two are neither fast nor slow.
        self.fast, self.slow = 0.0, inf
        #: What a lease counts for that took longer.
        self.most = inf
        #: What a slow server must fall below to be as the others again.
        self.recovered = 0.0
        #: Leases that went well,
        self.samples = 0
        #: and after how many of them to see again what is typical.
        self.next = 1

    def see(self) -> None:
        """See what is typical now: as often as latencies change, but seldom if they are many."""
        latencies = sorted(server.latency for server in self.records() if server.samples)
        if latencies:
            self.take_for_typical(latencies[(len(latencies) + 1) // 4])
        self.next = self.samples + max(16, len(latencies))

    def take_for_typical(self, typical: float) -> None:
        """Measure latencies by this one: from the first lease of all on."""
        self.typical = typical
        self.most = max(typical * MOST, typical + 1.5 * LEAST)
        self.fast = min(typical * FAST, max(0.0, typical - LEAST))
        self.slow = max(typical * SLOW, typical + LEAST)
        self.recovered = max(typical * RECOVERED, typical + LEAST)

    def records(self) -> list[ServerHealth]:
        """Return all records."""
        return []


class ServerHealth(Troubled):
    """One server's record. A :class:`Choice` may read it, and changes nothing.

    :param known: what it shares with the client's other servers.
    """

    __slots__ = (
        "absent_since",
        "avoided_in",
        "connections",
        "failed_in",
        "failures",
        "fast",
        "known",
        "latency",
        "lease_times",
        "leased",
        "probed",
        "retry_after",
        "retry_at",
        "samples",
        "set_aside_until",
        "slow",
        "suspect",
        "unreachable_since",
        "unusual",
    )

    def __init__(self, known: Known | None = None) -> None:
        self.known = Known() if known is None else known

        super().__init__()

        # Of attempts:

        #: Whether it said a slot and hung up: each such server gets one attempt in an
        #: interval, until a connection of its lasts for one. Else a pool would fill up
        #: with such connections again and again, before the first is seen to end.
        self.suspect = False
        #: When an attempt found it unreachable that had been reachable; None: it isn't.
        self.unreachable_since: float | None = None
        #: The interval in which an attempt failed last,
        self.failed_in = -1
        #: and the one in which quick roving takes others: since an attempt failed or
        #: hung. Else every third attempt or so would end up at a silent quarter of the
        #: servers, until all of ``max_pending`` hang there.
        self.avoided_in = -1
        #: When it was first missed in the registry; None: it's there.
        self.absent_since: float | None = None

        # Of leases:

        #: How many of its connections a pool has, whatever their state.
        self.connections = 0
        #: How many of them are leased.
        self.leased = 0
        #: Seconds that a lease takes: a moving average of those that went well.
        self.latency = 0.0
        #: How many leases went well; not counted any more once they are many.
        self.samples = 0
        #: How long they took, a histogram; empty before the first one.
        self.lease_times: list[int] = []
        #: Whether its latency is beyond the dead band,
        self.slow = False
        #: and whether it's so far below the typical one that speed alone would draw
        #: requests to it.
        self.fast = False
        #: Whether it's slow or fast, or its latest lease failed.
        self.unusual = False
        #: A slow one is tried again from this lease of the client on, or from this
        #: (monotonic) second on.
        self.retry_after = inf
        self.retry_at = inf
        #: Whether it has been tried again, and the answer isn't here yet.
        self.probed = False
        #: Leases in a row that failed by the server's fault.
        self.failures = 0
        #: When it may be tried again after too many of them (monotonic).
        self.set_aside_until = 0.0

    # Events

    def answered(self, duration: float, now: float) -> None:
        """Take note that a lease went well, which took ``duration`` seconds."""
        known = self.known
        counted = duration
        if duration > known.most:
            duration = known.most
        if self.samples < _MANY or self.unusual:
            self._answered_unusually(duration, now)
        else:
            self.latency = latency = self.latency + (duration - self.latency) * WEIGHT
            if latency > known.slow or latency < known.fast:
                self._judge(now)
        self.lease_times[bucket(counted)] += 1
        known.samples = samples = known.samples + 1
        if samples >= known.next:
            known.see()

    def _answered_unusually(self, duration: float, now: float) -> None:
        self.went_well("lease")
        self.failures = 0
        if not self.lease_times:
            self.lease_times = no_counts()
        if not self.known.typical:
            self.known.take_for_typical(duration)
        samples = self.samples
        self.samples = samples + 1
        if self.slow:
            self.latency += (duration - self.latency) * WEIGHT_WHILE_SLOW
        else:
            latency = self.latency if samples else self.known.typical
            self.latency = latency + (duration - latency) * max(WEIGHT, 1 / (samples + 2))
        self._judge(now, duration)

    def _judge(self, now: float, duration: float = inf) -> None:
        """See whether it is slow, or fast, after a lease that took ``duration``."""
        known = self.known
        probed, self.probed = self.probed, False
        if not self.slow:
            if self.latency > known.slow:
                self.slow = True
                self._try_again_later(now)
        elif self.latency < known.recovered or (probed and duration <= known.recovered):
            # Used again; a few slow leases more, and it's slow again.
            self.slow = False
            self.latency = min(self.latency, known.slow)
            self.samples = 1
            self.retry_after = self.retry_at = inf
        else:
            self._try_again_later(now)
        self.fast = self.latency < known.fast
        self.unusual = self.slow or self.fast or self.failures > 0

    def _try_again_later(self, now: float) -> None:
        excess = self.slowness - 1
        self.retry_after = self.known.leases + RETRY_LEASES * excess * excess
        self.retry_at = now + RETRY_SECONDS

    def worked(self) -> None:
        """Take note that it did what was asked, however long that took."""
        self.suspect = self.probed = False
        self.went_well("lease")
        self.failures = 0
        self.unusual = self.slow or self.fast

    def failed(self, now: float) -> None:
        """Take note that a lease failed by the server's fault."""
        self.went_wrong("lease", "a lease failed", now)
        self.probed = False
        self.unusual = True
        self.failures += 1
        excess = self.failures - SET_ASIDE_AFTER
        if excess >= 0:
            seconds = min(SET_ASIDE_AT_MOST, SET_ASIDE_FOR * 2.0 ** min(excess, 10))
            self.set_aside_until = now + seconds * uniform(0.5, 1)

    def forget_leases(self) -> None:
        """Forget all leases, connections and counts: a forked child has none."""
        self.connections = self.leased = 0
        self.forget_attempts()
        self.lease_times = no_counts() if self.lease_times else []
        self.probed = False

    # Questions

    @property
    def state(self) -> ServerState:
        """The worst that can be said of it, in a word, as long as it's in the registry."""
        if self.unreachable_since is not None:
            return "unreachable"
        if self.faulty:
            return "error"
        if self.failures >= SET_ASIDE_AFTER:
            return "set aside"
        if self.suspect:
            return "suspect"
        return "slow" if self.slow else "up"

    @property
    def slowness(self) -> float:
        """How many times slower than typical it is; 1 within the dead band, and if it's faster."""
        if not self.slow:
            return 1.0
        return max(1.0, self.latency / self.known.typical)

    def is_set_aside(self, now: float) -> bool:
        """Tell whether others come first: after failures in a row, but for a probe at a time."""
        return self.failures >= SET_ASIDE_AFTER and (self.leased > 0 or now < self.set_aside_until)

    def is_due(self, now: float) -> bool:
        """Tell whether a slow server is to be tried again."""
        return self.slow and (self.known.leases >= self.retry_after or now >= self.retry_at)

    @property
    def is_blank(self) -> bool:
        """Whether nothing is known, and nobody uses it."""
        return not (
            self.connections
            or self.leased
            or self.suspect
            or self.samples
            or self.failures
            or self.attempts
            or self.trouble is not None
            or self.unreachable_since is not None
        )
