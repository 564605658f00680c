"""Which connection the default choice leases: decisions alone, without a connection."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from gevent_rover import Entry, LeastLoaded, Server, Slot
from gevent_rover.policy.health import Health
from gevent_rover.policy.idle_group import FEW_CLIENTS, clients_of, scatter, spread_of
from gevent_rover.policy.ranking import Ranking
from gevent_rover.policy.server_health import SET_ASIDE_AT_MOST
from gevent_rover.policy.trials import BETWEEN_TRIALS

SERVER: Server = {"host": "192.0.2.1", "port": 1}


class Client:
    """A pool's decisions, and a clock."""

    def __init__(self, *slots: str) -> None:
        self.choice = LeastLoaded()
        self.health = Health()
        self.ranking: Ranking[Entry] = Ranking(1000, self.choice)
        self.now = 1000.0
        self.entries = {name: self.add(name) for name in slots}
        self.health.servers = len({name[0] for name in slots})

    def add(self, name: str) -> Entry:
        """Take in a connection: "a3" is slot 3 of server a."""
        entry = Entry(Slot(int(name[1:]), name[0], SERVER), self.health.of(name[0]))
        self.ranking.add(entry)
        self.ranking.make_idle(entry)
        return entry

    def lease(self) -> Entry:
        entry = self.ranking.lease(self.now)
        assert entry is not None
        return entry

    def name_leased(self) -> str:
        return name_of(self.lease())

    def give_back(self, entry: Entry) -> None:
        self.ranking.give_back(entry, self.now, "answered")

    def request(self, seconds: float = 0.1, *, failed: bool = False) -> str:
        """Make a request that takes so long, and return whose connection it got."""
        entry = self.lease()
        self.now += seconds
        self.ranking.give_back(entry, self.now, "failed" if failed else "answered")
        return str(entry.server_id)

    def requests(self, latencies: dict[str, float], times: int) -> Counter[str]:
        """Make requests one after the other; count them by server."""
        found: Counter[str] = Counter()
        for _ in range(times):
            entry = self.lease()
            assert entry.server_id is not None
            found[entry.server_id] += 1
            self.now += latencies[entry.server_id]
            self.give_back(entry)
        return found


def name_of(entry: Entry) -> str:
    return f"{entry.server_id}{int(entry.slot)}"


def test_new_connections_are_leased_by_slot() -> None:
    client = Client("a5", "b0", "c12", "d3")
    assert [client.name_leased() for _ in range(4)] == ["b0", "d3", "a5", "c12"]
    assert client.ranking.lease(client.now) is None
    assert len(client.choice) == 0


def test_requests_go_where_fewest_of_this_clients_are_in_flight() -> None:
    client = Client("a0", "a1", "a2", "b3", "b4", "c5")
    assert [client.lease().server_id for _ in range(6)] == ["a", "b", "c", "a", "b", "a"]


def test_among_equals_the_one_used_longest_ago_is_leased() -> None:
    client = Client("a0", "b0", "c0", "d0")
    assert [client.request() for _ in range(12)] == list("abcd") * 3


def test_where_few_clients_share_the_servers_these_take_turns_however_many_connections() -> None:
    client = Client("a0", "a1", "a2", "b0")
    assert client.requests({"a": 0.1, "b": 0.1}, 30) == {"a": 15, "b": 15}


def test_where_many_do_the_connections_take_turns_so_a_stride_keeps_its_weight() -> None:
    client = Client("a50", "a51", "b50")
    assert client.requests({"a": 0.1, "b": 0.1}, 30) == {"a": 20, "b": 10}


def test_the_slots_tell_how_many_clients_share_the_servers() -> None:
    assert clients_of(connections=20, highest=59, servers=10) == 30
    assert clients_of(connections=10, highest=9, servers=4) == 4
    assert clients_of(connections=0, highest=0, servers=0) == 0


def test_a_slow_server_is_left_alone_while_others_are_free() -> None:
    client = Client("a0", "b0", "c0", "d0")
    latencies = {"a": 0.4, "b": 0.1, "c": 0.1, "d": 0.1}
    client.requests(latencies, 100)
    assert client.requests(latencies, 1000)["a"] <= 1000 / BETWEEN_TRIALS + 1


def test_it_is_used_once_the_others_have_as_many_more_requests_in_flight() -> None:
    client = Client("a0", *(f"{id}{slot}" for id in "bcd" for slot in range(8)))
    client.requests({"a": 0.4, "b": 0.1, "c": 0.1, "d": 0.1}, 100)
    assert client.health.of("a").slow
    leased = [client.lease().server_id for _ in range(24)]
    slowness = client.health.of("a").slowness
    assert leased.index("a") == pytest.approx(3 * slowness, abs=4)


def test_an_answer_that_comes_faster_gains_a_server_nothing() -> None:
    random = Random(1)
    client = Client(*(f"{id}{slot}" for id in "abcde" for slot in range(4)))
    busy: list[tuple[float, int, Entry]] = []
    found: Counter[str] = Counter()
    for number in range(4000):
        client.now += random.expovariate(60)
        for until, _, entry in [each for each in sorted(busy) if each[0] <= client.now]:
            now, client.now = client.now, until
            client.give_back(entry)
            client.now = now
        busy = [each for each in busy if each[0] > client.now]
        entry = client.lease()
        assert entry.server_id is not None
        found[entry.server_id] += number > 500
        takes = 0.001 if entry.server_id == "a" else random.uniform(0.05, 0.15)
        busy.append((client.now + takes, number, entry))
    assert found["a"] <= 1.2 * found.total() / 5


def test_a_connection_that_rests_is_leased_rather_than_none() -> None:
    client = Client("a0", "b0", "c0", "d0")
    client.requests({"a": 0.001, "b": 0.1, "c": 0.1, "d": 0.1}, 200)
    assert client.health.of("a").fast
    while client.request(0.001) != "a":
        pass
    leased = {client.name_leased() for _ in range(4)}
    assert leased == {"a0", "b0", "c0", "d0"}


def test_a_connection_that_rests_is_leased_rather_than_one_of_a_server_set_aside() -> None:
    client = Client("a0", "b0", "c0", "d0")
    client.requests({"a": 0.001, "b": 0.1, "c": 0.1, "d": 0.1}, 200)  # a is fast: it rests.
    while any(client.health.of(id).failures < 3 for id in "bcd"):
        entry = client.lease()
        answers = entry.server_id == "a"
        client.now += 0.001 if answers else 0
        client.ranking.give_back(entry, client.now, "answered" if answers else "failed")
    assert [client.request(0.001) for _ in range(9)] == ["a"] * 9


@pytest.mark.parametrize("rests", [True, False])
def test_one_that_ended_is_forgotten_also_while_it_rests(rests: bool) -> None:
    client = Client("a0", "b0", "c0", "d0")
    client.requests({"a": 0.001 if rests else 0.1, "b": 0.1, "c": 0.1, "d": 0.1}, 200)
    while client.request(0.001 if rests else 0.1) != "a":
        pass
    client.ranking.remove(client.entries["a0"])
    assert len(client.choice) == 3
    assert {client.name_leased() for _ in range(3)} == {"b0", "c0", "d0"}
    assert client.ranking.lease(client.now) is None


def fail(client: Client, id: str) -> None:
    """Have the leases of a server fail until it's set aside."""
    while not client.health.of(id).is_set_aside(client.now):
        entry = client.lease()
        failed = entry.server_id == id
        client.now += 0.001 if failed else 0.1
        client.ranking.give_back(entry, client.now, "failed" if failed else "answered")


def test_a_server_that_is_set_aside_comes_after_all_others() -> None:
    client = Client("a0", "a1", "b0", "c0")
    fail(client, "a")
    assert {client.lease().server_id for _ in range(2)} == {"b", "c"}
    assert client.lease().server_id == "a"  # A rank, never a refusal.


def test_it_gets_one_trial_at_a_time_when_its_time_is_over() -> None:
    client = Client("a0", "a1", "b0", "b1", "c0", "c1")
    fail(client, "a")
    client.now += SET_ASIDE_AT_MOST
    leased = [client.lease().server_id for _ in range(5)]
    assert leased.count("a") == 1


def test_a_server_that_works_again_gets_its_share_again() -> None:
    client = Client("a0", "b0", "c0", "d0")
    fail(client, "a")
    client.now += SET_ASIDE_AT_MOST
    client.requests(dict.fromkeys("abcd", 0.1), 8)
    assert client.requests(dict.fromkeys("abcd", 0.1), 40)["a"] == 10


def test_if_all_are_set_aside_all_are_leased() -> None:
    client = Client("a0", "b0")
    for _ in range(20):
        client.request(failed=True)
    assert {client.name_leased(), client.name_leased()} == {"a0", "b0"}


def test_a_slow_server_that_recovered_gets_its_share_again() -> None:
    client = Client("a0", "b0", "c0", "d0")
    client.requests({"a": 0.4, "b": 0.1, "c": 0.1, "d": 0.1}, 60)
    assert client.health.of("a").slow
    client.requests(dict.fromkeys("abcd", 0.1), 2000)
    assert client.requests(dict.fromkeys("abcd", 0.1), 40)["a"] == 10


def test_few_trials_are_made_however_many_servers_are_slow() -> None:
    ids = [chr(ord("a") + number) for number in range(20)]
    client = Client(*(f"{id}{slot}" for id in ids for slot in range(2)))
    latencies = dict.fromkeys(ids, 0.1) | dict.fromkeys(ids[:12], 0.5)
    client.requests(latencies, 1000)
    found = client.requests(latencies, 3000)
    assert sum(found[id] for id in ids[:12]) <= 3000 / BETWEEN_TRIALS * 2


def test_the_rest_is_forgotten_with_a_fork() -> None:
    client = Client("a0", "b0")
    client.lease()
    client.ranking.clear()
    client.health.forget_leases()
    assert len(client.choice) == 0
    assert client.ranking.lease(client.now) is None
    assert [record.leased for record in client.health.records()] == [0, 0]


# The order of the slots


def test_few_clients_or_few_requests_give_the_order_of_the_slots_no_weight() -> None:
    assert spread_of(connections=10, in_flight=5, clients=4, servers=4) == 0
    assert spread_of(connections=20, in_flight=0.1, clients=30, servers=10) == 0


def test_with_many_clients_and_requests_it_decides() -> None:
    assert spread_of(connections=20, in_flight=3, clients=30, servers=10) > 20 * 10
    assert spread_of(connections=20, in_flight=3, clients=FEW_CLIENTS, servers=10) == 0


def test_all_clients_agree_which_slots_come_first_then() -> None:
    slots = range(0, 60, 3)
    clients = [Client(*(f"{'abcdefghij'[slot % 10]}{slot}" for slot in slots)) for _ in range(2)]
    order = sorted(slots, key=scatter)
    for client in clients:
        held = [client.lease() for _ in range(4)]
        for _ in range(200):
            client.give_back(held.pop(0))
            held.append(client.lease())
        assert sorted(int(entry.slot) for entry in held) != sorted(slots)[:4]
        used = {int(entry.slot) for entry in held}
        assert used <= set(order[:12])


@pytest.mark.parametrize("seed", range(20))
def test_at_random_it_leases_each_idle_one_once_and_loses_none(seed: int) -> None:
    random = Random(seed)
    client = Client()
    idle: set[Entry] = set()
    leased: list[Entry] = []
    for number in range(2000):
        client.now += random.expovariate(20)
        act = random.random()
        if act < 0.1:
            idle.add(client.add(f"{random.choice('abcdef')}{number}"))
        elif act < 0.5:
            entry = client.ranking.lease(client.now)
            assert (entry is not None) == bool(idle)
            if entry is not None:
                idle.remove(entry)
                leased.append(entry)
        elif act < 0.9 and leased:
            entry = leased.pop(random.randrange(len(leased)))
            outcome = random.choice(("answered", "answered", "failed", "unknown"))
            client.ranking.give_back(entry, client.now, outcome)  # type: ignore[arg-type]
            idle.add(entry)
        elif act < 0.95 and leased:
            entry = leased.pop()
            client.ranking.remove(entry, client.now, "failed")
        elif idle:
            entry = random.choice(sorted(idle, key=lambda entry: entry.order))
            idle.remove(entry)
            client.ranking.remove(entry)
        assert len(client.choice) == len(idle)
    while idle:
        idle.remove(client.lease())
    assert client.ranking.lease(client.now) is None
