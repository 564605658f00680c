"""What a feeder makes of a source's answers."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import gevent
import pytest
from conftest import entry, wait_until
from gevent.queue import Queue
from test_fork import FORKS, in_child

from gevent_rover import Rover, Server, SlotPool, SlotServer
from gevent_rover.discovery import feeder as feeder_module
from gevent_rover.discovery import turns
from gevent_rover.discovery.feeder import Feeder, feed
from gevent_rover.discovery.source import Apply, SourceError

Closing = Callable[[Any], Any]


def server(number: int) -> Server:
    return {"host": "192.0.2.1", "port": 1000 + number}


def servers(*numbers: int) -> dict[str, Server]:
    return {f"web{number}": server(number) for number in numbers}


class Told:
    """A source that answers what it's told, and fails when it's told."""

    def __init__(self) -> None:
        self.queue: Queue[Mapping[str, Server] | Exception] = Queue()
        self.runs = 0
        self.ended = 0
        self.abandoned = 0

    def __repr__(self) -> str:
        return "Told()"

    def tell(self, *numbers: int) -> None:
        self.queue.put(servers(*numbers))

    def run(self, apply: Apply) -> None:
        self.runs += 1
        try:
            while True:
                answer = self.queue.get()
                if isinstance(answer, Exception):
                    raise answer
                apply(answer)
        finally:
            self.ended += 1

    def abandon(self) -> None:
        self.abandoned += 1


class Registry:
    """What a feeder needs of a rover."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeder_module, "PACE", 0.001)
    monkeypatch.setattr(feeder_module, "RETRY_AFTER", 0.001)


class Site:
    """A registry that follows a source."""

    def __init__(self, hold: float = 60) -> None:
        self.source, self.registry = Told(), Registry()
        self.feeder = Feeder(self.registry, self.source, hold=hold)
        self.feeder.start()

    def wait_for(self, *numbers: int) -> None:
        wait_until(lambda: self.registry.servers == servers(*numbers))

    def tell(self, *numbers: int) -> None:
        """Answer, and wait until the feeder has made of it what it makes of it."""
        self.source.tell(*numbers)
        gevent.sleep(0.02)


@pytest.fixture
def site() -> Any:
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(**options))
        return sites[-1]

    yield make
    for each in sites:
        each.feeder.stop()


def test_the_registry_follows_the_source(site: Any) -> None:
    at = site()
    at.source.tell(1, 2, 3)
    at.wait_for(1, 2, 3)
    at.source.tell(1, 2, 4)
    at.wait_for(1, 2, 4)
    assert at.feeder.servers == servers(1, 2, 4)


def test_an_entry_that_stays_is_left_alone_and_one_that_changes_is_replaced(site: Any) -> None:
    at = site()
    at.source.tell(1, 2)
    at.wait_for(1, 2)
    before = dict(at.registry.servers)
    at.source.queue.put({"web1": server(1), "web2": server(9)})
    wait_until(lambda: at.registry.servers["web2"] == server(9))
    assert at.registry.servers["web1"] is before["web1"]
    assert before["web2"] == server(2)  # Replaced, not changed in place.


def test_entries_by_hand_are_untouched(site: Any) -> None:
    at = site()
    by_hand = server(100)
    at.registry.servers["web1"] = by_hand
    at.registry.servers["mine"] = by_hand
    at.source.tell(1, 2, 3)
    wait_until(lambda: "web3" in at.registry.servers)
    assert at.registry.servers["web1"] is by_hand
    replaced = at.registry.servers["web2"] = server(200)  # By hand, too.
    at.source.queue.put({"web1": server(7), "web2": server(8), "web3": server(3)})
    at.tell(3)
    assert at.registry.servers["web1"] is by_hand
    assert at.registry.servers["web2"] is replaced
    assert at.registry.servers["mine"] is by_hand
    at.registry.servers.pop("web3")  # Nor is what somebody dropped put back.
    at.tell(3)
    assert "web3" not in at.registry.servers


def test_a_source_that_fails_changes_nothing_and_is_asked_again(
    site: Any, caplog: pytest.LogCaptureFixture
) -> None:
    at = site()
    at.source.tell(1, 2)
    at.wait_for(1, 2)
    with caplog.at_level(logging.INFO, "gevent_rover.discovery"):
        for _ in range(3):
            at.source.queue.put(SourceError("no answer"))
        wait_until(lambda: at.source.runs == 4)
        assert at.registry.servers == servers(1, 2)
        assert "failing: no answer" in repr(at.feeder)
        at.source.tell(1, 2, 3)
        at.wait_for(1, 2, 3)
    assert at.feeder.failure is None
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert [each.getMessage() for each in warnings] == [
        "Told() failed, all stays as it is: no answer"
    ]
    assert "Told() answers again" in caplog.text


def test_an_answer_with_nothing_changes_nothing(
    site: Any, caplog: pytest.LogCaptureFixture
) -> None:
    at = site(hold=0.01)
    at.source.tell(1, 2)
    at.wait_for(1, 2)
    at.tell()
    at.tell()
    assert at.registry.servers == servers(1, 2)
    assert caplog.text.count("Told() knows no server at all: all stays as it is") == 1
    assert "empty answer" in repr(at.feeder)
    at.source.tell(2)
    wait_until(lambda: "empty answer" not in repr(at.feeder))


def test_half_may_go_at_once_and_more_only_after_a_while(
    site: Any, caplog: pytest.LogCaptureFixture
) -> None:
    at = site(hold=0.3)
    at.source.tell(1, 2, 3, 4)
    at.wait_for(1, 2, 3, 4)
    at.source.tell(1, 2)
    at.wait_for(1, 2)
    at.source.tell(1, 2, 3, 4)
    at.wait_for(1, 2, 3, 4)
    at.tell(1, 5)
    assert at.registry.servers == servers(1, 2, 3, 4, 5)  # What it adds is believed.
    assert "held for" in repr(at.feeder)
    assert "has dropped 3 of 5 servers at once: they stay for 0.3 s" in caplog.text
    at.wait_for(1, 5)
    assert "held for" not in repr(at.feeder)


def test_who_is_back_in_time_was_never_gone(site: Any) -> None:
    at = site(hold=0.2)
    at.source.tell(1, 2, 3, 4)
    at.wait_for(1, 2, 3, 4)
    before = dict(at.registry.servers)
    at.tell(1)
    at.tell(1, 2, 3)
    gevent.sleep(0.3)
    assert at.registry.servers == servers(1, 2, 3)
    assert all(at.registry.servers[id] is before[id] for id in at.registry.servers)


def test_the_rover_is_woken_when_its_registry_fills_again(site: Any) -> None:
    at = site()
    at.source.tell(1)
    at.wait_for(1)
    assert at.registry.woken == 1
    at.source.tell(1, 2)
    at.wait_for(1, 2)
    assert at.registry.woken == 1
    at.registry.servers.clear()
    at.source.tell(1, 2, 3)
    wait_until(lambda: "web3" in at.registry.servers)
    assert at.registry.woken == 2


def test_many_changes_are_applied_as_a_few(
    site: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pace = 0.1
    monkeypatch.setattr(feeder_module, "PACE", pace)
    at = site()
    began = monotonic()
    with caplog.at_level(logging.INFO, "gevent_rover.discovery"):
        for number in range(400):
            at.source.tell(*range(number + 1))
            gevent.sleep(0.001)
        at.wait_for(*range(400))
    took = monotonic() - began
    # Those that came together are logged together. Each as it comes would be four in a pace.
    batches = {each.created // (pace / 4) for each in caplog.records}
    assert 2 < len(batches) < 2 * took / pace + 2


def test_each_change_is_logged(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    at = site()
    with caplog.at_level(logging.INFO, "gevent_rover.discovery"):
        at.source.tell(1, 2)
        at.wait_for(1, 2)
        at.source.queue.put({"web1": server(7)})
        wait_until(lambda: at.registry.servers == {"web1": server(7)})
        at.source.tell(*range(100))
        wait_until(lambda: len(at.registry.servers) == 100)
        gevent.sleep(0.01)
    lines = [each.getMessage() for each in caplog.records]
    assert lines[:2] == [f"added 'web{n}': {server(n)!r}" for n in (1, 2)]
    assert lines[2:4] == [f"changed 'web1': {server(7)!r}", "removed 'web2'"]
    assert lines[-2:] == ["added 49 more", f"changed 'web1': {server(1)!r}"]


def test_an_entry_that_is_none_fails_the_source(site: Any) -> None:
    at = site()
    at.source.tell(1)
    at.wait_for(1)
    at.source.queue.put({"web1": server(1), "bad": {"host": "x", "port": 0}})
    wait_until(lambda: at.source.runs == 2)
    assert "invalid server 'bad': port must be" in repr(at.feeder)
    at.source.tell(1, 2)
    at.wait_for(1, 2)


def test_a_source_that_ends_is_not_asked_again() -> None:
    class Once:
        def run(self, apply: Apply) -> None:
            apply(servers(1))

    registry = Registry()
    with Feeder(registry, Once()) as feeder:
        wait_until(lambda: registry.servers == servers(1))
        gevent.sleep(0.02)
        assert feeder.started
    assert not feeder.started


def test_stop_ends_the_source_and_leaves_the_registry(site: Any) -> None:
    at = site()
    assert at.feeder.started
    at.source.tell(1)
    at.wait_for(1)
    at.feeder.stop()
    at.feeder.stop()
    assert (at.feeder.started, at.source.ended) == (False, 1)
    at.tell(1, 2)
    assert at.registry.servers == servers(1)
    at.feeder.start()
    at.wait_for(1, 2)
    assert repr(at.feeder) == "<Feeder started Told() servers=2>"


@pytest.mark.parametrize("bad", [0, -1, "30", None])
def test_a_bad_hold_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="hold must be a positive number of seconds"):
        Feeder(Registry(), Told(), hold=bad)


@pytest.mark.parametrize("fork", FORKS)
def test_a_child_has_a_stopped_feeder_and_the_registry_as_it_was(fork: str, site: Any) -> None:
    at = site()
    at.source.tell(1)
    at.wait_for(1)

    def look() -> Any:
        started = at.feeder.started
        at.tell(1, 2)
        return [started, at.source.abandoned, at.registry.servers == servers(1)]

    assert in_child(FORKS[fork], look) == [False, 1, True]
    assert (at.feeder.started, at.source.abandoned) == (True, 0)
    at.source.tell(1, 2)
    at.wait_for(1, 2)


def test_10_000_servers_are_applied_without_holding_the_hub(site: Any) -> None:
    at = site()
    sizes = [0]

    def tick() -> None:
        while True:
            sizes.append(len(at.registry.servers))
            gevent.sleep(0)

    ticking = gevent.spawn(tick)
    try:
        at.source.tell(*range(10_000))
        wait_until(lambda: len(at.registry.servers) == 10_000)
        at.source.tell(*range(5_000, 12_000))
        wait_until(lambda: len(at.registry.servers) == 7_000)
    finally:
        ticking.kill()
    # Some 1 ms of work each; benchmarks.speed.feeding measures it.
    steps = [abs(after - before) for before, after in itertools.pairwise(sizes)]
    assert 0 < max(steps) <= turns.AT_A_TIME


def test_feed_fills_the_pool_of_a_rover(
    closing: Closing, slot_server: Callable[..., SlotServer]
) -> None:
    source = Told()
    rover = closing(Rover(roving_interval=60))
    rover.on("error", lambda rover, error: None)
    pool = closing(SlotPool(rover, max_slots=5))
    rover.start()
    gevent.sleep(0.01)  # Its first tick has found no server.
    with feed(rover, source):
        source.queue.put({id: entry(slot_server()) for id in "abc"})
        pool.wait_ready(timeout=5)
    assert pool.size == 5
