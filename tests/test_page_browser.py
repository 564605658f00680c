"""The status page in a real browser: what it shows, how it's used, and what it costs."""

from __future__ import annotations

import copy
import json
import os
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from browsing import ROOT, STATES, Browser, Script, Site, closing_all, needed, until

from gevent_rover import Rover, SlotPool
from gevent_rover.policy.histogram import BOUNDS, quantile
from gevent_rover.status import snapshot

pytestmark = [pytest.mark.integration, pytest.mark.docs]

#: Seconds in which the page shows what a worker knows.
SHOWN_IN: Final = 2.0

#: How often that is tried: the machine may have other things to do.
TRIES: Final = 3

#: Where the pictures of the docs go, if they are to be made.
PICTURES: Final = os.environ.get("ROVER_PICTURES")

HOSTILE: Final = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><b onclick=alert(1)>&lt;",
    "\u202egnirts",
    "long " * 100,
]

Json = dict[str, Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    needed("selenium", "axe_core_python")
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(autouse=True)
def _seen_anew(browser: Browser) -> Iterator[None]:
    """Begin with a wide and light page; see that the console stays empty."""
    browser.look()
    browser.console()
    yield
    told = browser.console()
    # That nobody listens is said by the browser, whatever a page does about it.
    assert not [line for line in told if "net::ERR_CONNECTION_REFUSED" not in line]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    names = [f"web{number}" for number in range(1, 7)]
    site = Site(tmp_path_factory.mktemp("site"), names, workers=3)
    yield site
    site.close()


class Said:
    """A page that shows what a test says: an app, and the file with its workers' lines.

    :param ids: of the servers that each worker has.
    """

    def __init__(self, folder: Path, ids: list[str], workers: int = 1) -> None:
        self._file = folder / "lines"
        rover = Rover({id: {"host": "10.0.0.1", "port": i} for i, id in enumerate(ids, 1)})
        with SlotPool(rover, max_slots=10) as pool:
            seen: Any = snapshot(rover, pool)
        self.workers: list[Json] = [copy.deepcopy(seen) for _ in range(workers)]
        for number, worker in enumerate(self.workers, 1):
            worker["worker"] = {"id": f"{number}-a", "pid": number, "host": "app1"}
            worker["pool"]["closed"] = False
        self.extra: list[str] = []
        self.say(0)
        self.app = Script("lines", file=str(self._file))
        self.url: str = self.app.ready["url"]

    def say(self, seconds: float = 1.0) -> None:
        """Let so many seconds pass for the workers, and say how they are."""
        for worker in self.workers:
            worker["time"] += seconds
        lines = [json.dumps({"where": "somewhere", "snapshot": each}) for each in self.workers]
        self.text = "\n".join([*lines, *self.extra]) + "\n"
        new = self._file.with_suffix(".new")
        new.write_text(self.text)
        new.rename(self._file)

    def server(self, id: str, worker: int = 0) -> Json:
        """Return what a worker says of a server; it may be changed."""
        found: Json = next(s for s in self.workers[worker]["servers"] if s["id"] == id)
        return found

    def close(self) -> None:
        self.app.stop()


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Callable[..., Said]]:
    with closing_all() as closing:
        yield lambda *args, **options: closing(Said(tmp_path, *args, **options))


def number(text: str) -> float:
    """Return a number as the page writes it."""
    return float(text.replace(",", "").split()[0])


# What it shows


@pytest.mark.parametrize(
    ("action", "arguments", "undo", "undo_arguments", "state"),
    [
        ("die", {}, "revive", {}, "unreachable"),
        ("take", {"seconds": 0.05}, "take", {"seconds": 0.0015}, "slow"),
        ("fail", {}, "heal", {}, "set aside"),
    ],
    ids=["dead", "slow", "failing"],
)
def test_a_server_in_trouble_shows_within_two_seconds_and_so_does_its_recovery(
    browser: Browser,
    site: Site,
    action: str,
    arguments: Json,
    undo: str,
    undo_arguments: Json,
    state: str,
) -> None:
    browser.open(site.page.url)
    until(lambda: browser.row("web3").get("state") == "up")

    def shown(state: str) -> float:
        known = site.known("web3", state)
        until(lambda: browser.row("web3")["state"].startswith(state), what=f"for {state}")
        return time.time() - known

    took = []
    for _ in range(TRIES):
        site.servers.do(action, name="web3", **arguments)
        took.append(shown(state))
        row = browser.row("web3")
        if state != "slow":
            assert row["error"]
            assert row["since"]
        if state == "unreachable":
            assert row["error"].startswith("ConnectionRefusedError")
            assert row["idle"] == row["leased"] == "0"
            assert browser.run("return document.title").startswith("1 unreachable")
        site.servers.do(undo, name="web3", **undo_arguments)
        took.append(shown("up"))
        if max(took[-2:]) < SHOWN_IN:
            return
    pytest.fail(f"it took {took} s")


def test_what_the_workers_count_is_shown_added_up(browser: Browser, site: Site) -> None:
    browser.open(site.page.url)
    until(lambda: len(browser.pools()) == 3)
    browser.wait_for_update()
    *pools, foot = browser.rows("pools")
    for name in ("leases", "failures", "idle", "leased"):
        assert number(foot[name]) == sum(number(row[name]) for row in pools), name
    assert foot["size"].endswith(" of 36")
    for row in browser.rows("servers"):
        p50, p99 = row["p50"].strip("()"), row["p99"].strip("()")
        assert p50.endswith(" ms")
        assert 0.5 < number(p50) < number(p99)

    def squares() -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = browser.run(
            """
            return [...document.querySelectorAll("#servers svg.slots")].map((svg) => [
                [...svg.children].map((path) => path.getAttribute("d")).join("").split("M").length,
                svg.getAttribute("aria-label")]);
            """
        )
        return [(parts - 1, label) for parts, label in found]

    # Each slot is a square, and who can't see them is told the same.
    until(lambda: sum(count for count, _ in squares()) == 36)
    for count, label in squares():
        assert label.startswith("slots 0 ")
        assert label.count(",") + 1 == count


def test_quantiles_are_of_the_last_seconds_and_of_all_there_was_if_these_had_none(
    browser: Browser, said: Callable[..., Said]
) -> None:
    page = said(["web1"], workers=2)
    before = [[0] * (len(BOUNDS) + 1) for _ in page.workers]
    before[0][25], before[1][40] = 1000, 5
    now = copy.deepcopy(before)
    now[0][12], now[0][14], now[1][14], now[1][17] = 30, 10, 40, 2

    def tell(counts: list[list[int]], seconds: float) -> None:
        for index, worker in enumerate(counts):
            sparse = [[i, count] for i, count in enumerate(worker) if count]
            page.server("web1", index).update(lease_times=sparse, leases=sum(worker))
        page.say(seconds)

    def shown(counts: list[int], share: float) -> str:
        milliseconds = (quantile(counts, share) or 0.0) * 1000
        return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"

    tell(before, 0)
    browser.open(page.url)
    tell(now, 1)
    newest = [a + b - c - d for a, b, c, d in zip(*now, *before, strict=True)]
    until(lambda: browser.row("web1")["leases"] == "1,087")
    row = browser.row("web1")
    assert (row["p50"], row["p99"]) == (shown(newest, 0.5), shown(newest, 0.99))
    tell(now, 60)
    everything = [a + b for a, b in zip(*now, strict=True)]
    until(lambda: browser.row("web1")["p50"].startswith("("))
    row = browser.row("web1")
    assert row["p50"] == f"({shown(everything, 0.5)})"
    assert row["p99"] == f"({shown(everything, 0.99)})"


def test_many_slots_are_cut_and_counted_and_states_of_few_workers_too(
    browser: Browser, said: Callable[..., Said]
) -> None:
    page = said(["web1", "web2"], workers=2)
    for worker in (0, 1):
        slots = [[2 * slot + worker, "leased" if slot % 3 else "idle"] for slot in range(50)]
        page.server("web1", worker).update(slots=slots)
    page.server("web2", 1).update(state="unreachable", error="refused", error_since=1, error_at=2)
    page.extra = ['{"where": "unix:/run/gone.sock", "error": "no answer within 0.5 s"}']
    page.say()
    browser.open(page.url)
    assert browser.row("web1")["slots"] == "+40"
    assert browser.row("web2")["state"] == "unreachable 1/2"
    assert browser.text("#workers") == "3 workers, 1 doesn’t answer: unix:/run/gone.sock"
    assert "no answer within 0.5 s" in [row["state"] for row in browser.pools()]


def test_no_total_falls_whatever_comes_and_goes(
    browser: Browser, said: Callable[..., Said]
) -> None:
    page = said(["web1", "web2"], workers=2)
    servers = page.workers[1]["servers"]
    page.server("web1", 0)["leases"] = 100

    def shows(leases: int) -> None:
        # Another server's counter says when this answer is shown.
        page.server("web2", 0)["leases"] += 1
        page.say()
        mark = str(page.server("web2", 0)["leases"])
        until(lambda: browser.row("web2").get("leases") == mark)
        assert browser.row("web1")["leases"] == str(leases)

    page.say()
    browser.open(page.url)
    servers[0]["leases"] = 50
    shows(150)
    page.workers[1]["servers"] = []  # It left the registry there,
    shows(150)
    page.workers[1]["servers"] = servers  # and is back, with what it had,
    shows(150)
    servers[0]["leases"] = 5  # or without.
    shows(155)
    gone = page.workers.pop()  # A worker ends,
    shows(155)
    gone["servers"][0]["leases"] = 6  # or was only missed.
    gone["time"] = page.workers[0]["time"]
    page.workers.append(gone)
    shows(156)


# What comes from outside


def test_ids_are_text_whatever_they_are(browser: Browser, site: Site) -> None:
    browser.open(site.page.url)
    port = site.servers.ready["ports"]["web1"]
    worker = site.workers[0]
    for id in HOSTILE:
        worker.do("add", id=id, port=port)
    worker.do("offer", port=port)
    until(lambda: {*HOSTILE, "(unknown)"} <= {*browser.ids()})
    assert browser.run("return document.querySelectorAll('script').length") == 1
    assert browser.run("return document.querySelectorAll('img, [onclick], b').length") == 0
    for id in HOSTILE:
        worker.do("drop", id=id)
    until(lambda: not {*HOSTILE} & {*browser.ids()})


def test_a_line_that_makes_no_sense_costs_itself_alone(
    browser: Browser, said: Callable[..., Said]
) -> None:
    page = said(["web1"])
    whole = copy.deepcopy(page.workers[0])
    wrong: list[Any] = [
        "__proto__",
        "constructor",
        ["1", "2"],
        [3, 2],
        None,
        True,
        -1,
        1e999,
        "x" * 10,
        [],
        [[]],
        {},
        {"id": {}},
        [["a", "b"], 3],
    ]
    for at, value in enumerate(wrong):
        for part in ("worker", "rover", "pool", "servers", "bounds", "time", "version"):
            line = {**whole, "worker": {"id": f"{part} {at}"}, part: value}
            page.extra.append(
                json.dumps({"where": 3, "snapshot": line}).replace("Infinity", "1e999")
            )
        for part in whole["servers"][0]:
            line = copy.deepcopy(whole)
            line["worker"] = {"id": f"{part} {at}", "surprise": 1}
            line["servers"] = [{**line["servers"][0], "id": f"s{at}", part: value}, value]
            page.extra.append(json.dumps({"snapshot": line}).replace("Infinity", "1e999"))
    page.extra += ["nonsense", "{", "[]", "null", '{"where": {}}', '{"snapshot": []}', "\0", "  "]
    page.say()
    browser.open(page.url)
    for _ in range(2):
        page.say()
        browser.wait_for_update()
        assert browser.row("web1")["state"] == "up"
    assert "1 on app1" in [row["worker"] for row in browser.pools()]
    assert "its line isn't JSON" in [row["state"] for row in browser.pools()]


# How it's used


def test_the_keyboard_alone_sorts_and_filters_and_updates_leave_the_focus(
    browser: Browser, site: Site
) -> None:
    from selenium.webdriver import Keys

    browser.open(site.page.url)
    until(lambda: len(browser.ids()) >= 6)
    ids = [id for id in browser.ids() if id.startswith("web")]
    head = "return document.querySelector('#servers [data-column=%s]').getAttribute('aria-sort')"
    assert browser.run(head % "id") == "ascending"
    browser.tab_to("Server")
    browser.press(Keys.ENTER)
    assert browser.run(head % "id") == "descending"
    assert [id for id in browser.ids() if id in ids] == ids[::-1]
    browser.tab_to("Leases")
    browser.press(Keys.SPACE)
    assert browser.run(head % "id") is None
    assert browser.run(head % "leases") == "descending"
    leases = [number(row["leases"]) for row in browser.rows("servers")]
    assert leases == sorted(leases, reverse=True)
    for _ in range(2):
        browser.wait_for_update()
        assert browser.focused() == "Leases"

    browser.press("/")
    assert browser.focused() == "filter"
    browser.press("WEB3")
    assert browser.ids() == ["web3"]
    assert browser.text("#shown").startswith("1 of ")
    browser.wait_for_update()
    assert browser.focused() == "filter"
    assert browser.ids() == ["web3"]
    browser.press(Keys.ESCAPE)
    assert {*ids} <= {*browser.ids()}

    site.servers.do("die", name="web3")
    until(lambda: browser.row("web3")["state"].startswith("unreachable"))
    browser.tab_to("unreachable")
    browser.press(Keys.SPACE)
    assert browser.ids() == ["web3"]
    browser.wait_for_update()
    assert browser.focused() == "unreachable"
    # A reload keeps all of it.
    browser.driver.refresh()
    until(lambda: browser.ids() == ["web3"])
    assert browser.run(head % "leases") == "descending"
    site.servers.do("revive", name="web3")
    until(lambda: browser.ids() == [])
    assert browser.text("#servers + p") == "No server is like that."
    browser.tab_to("clear")
    browser.press(Keys.ENTER)
    assert {*ids} <= {*browser.ids()}
    assert browser.focused() == "filter"


def test_a_row_keeps_its_element_and_the_focus_while_the_order_changes(
    browser: Browser, said: Callable[..., Said]
) -> None:
    from selenium.webdriver import Keys

    page = said(["a", "b", "c"])
    long = "TimeoutError: " + "no answer within a second, " * 20
    for leases, id in enumerate("abc"):
        page.server(id).update(leases=leases, error=long, error_since=1, error_at=2)
    page.say()
    browser.open(page.url + "#sort=-leases")
    assert browser.ids() == ["c", "b", "a"]
    browser.tab_to(long.strip())
    # All of it is to be read, not only the beginning.
    assert browser.run("return document.getElementById('tip').hidden") is False
    assert browser.text("#tip") == long
    browser.run("document.activeElement.closest('tr').mine = true")
    for order in ("bca", "abc", "cab"):
        for leases, id in enumerate(reversed(order)):
            page.server(id)["leases"] += 100 * (leases + 1) ** 2
        page.say()
        expected = [s["id"] for s in page.workers[0]["servers"]]
        expected.sort(key=lambda id: -page.server(id)["leases"])
        until(partial(lambda order: browser.ids() == order, expected), what=f"for {expected}")
        focused = "const row = document.activeElement.closest('tr'); return [row?.mine, %s]"
        assert browser.run(focused % "row?.cells[0].textContent") == [True, "c"]
    browser.press(Keys.ESCAPE)
    assert browser.run("return document.getElementById('tip').hidden") is True


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_meets_wcag_wide_and_narrow(
    browser: Browser, said: Callable[..., Said], scheme: str
) -> None:
    page = said(["up 2", *STATES, "a-server-whose-id-is-far-too-long-for-the-place-it-has"])
    for at, state in enumerate(STATES):
        page.server(state).update(
            state=state, slots=[[0, "idle"], [1, "leased"], [2, "preparing"], [3, "retired"]]
        )
        if at % 2 == 0:
            page.server(state).update(error="refused " * 30, error_since=1e9, error_at=1e9)
        page.server(state).update(lease_times=[[12, 10]], leases=10, failures=1)
    page.extra = ['{"where": "unix:/run/gone.sock", "error": "no answer within 0.5 s"}']
    page.say()
    browser.look(scheme)
    browser.open(page.url)
    browser.run("document.querySelector('details').open = true")
    assert browser.violations() == []
    browser.look(scheme, 360, 800)
    browser.wait_for_update()
    assert browser.violations() == []
    assert browser.run("return document.documentElement.scrollWidth") <= 360
    region = browser.run(
        """
        const region = document.querySelector(".scroll");
        region.focus();
        region.scrollLeft = 1000;
        return [document.activeElement === region, region.scrollLeft > 300,
            document.getElementById(region.getAttribute("aria-labelledby")).textContent];
        """
    )
    assert region == [True, True, "Servers"]


# When there is no answer


def test_without_an_answer_the_page_says_so_and_keeps_what_it_has_and_asks_on(
    browser: Browser, site: Site
) -> None:
    browser.open(site.page.url)
    until(lambda: browser.row("web1").get("p50", "–") != "–")
    assert browser.text("#banner") == ""
    banner = "const node = document.getElementById('banner'); return [node.textContent, %s]"
    browser.run(
        "window.told = 0; new MutationObserver((all) => told += all.length)"
        ".observe(document.getElementById('banner'), {childList: true, subtree: true})"
    )
    site.page.stop()
    until(lambda: browser.text("#banner").startswith("No answer since "))
    rows = browser.rows("servers")
    assert len(rows) >= 6
    assert browser.run(banner % "node.getAttribute('role')")[1] == "status"
    assert browser.run("return document.body.hasAttribute('data-stale')")
    assert browser.violations() == []
    until(lambda: browser.run("return document.querySelector('.gap').getAttribute('d')"))
    assert browser.rows("servers") == rows
    site.page.start()
    until(lambda: browser.text("#banner") == "", SHOWN_IN + 1)
    # Said once when it went, and once when it came back: no screen reader repeats it.
    assert browser.run("return told") == 2
    browser.wait_for_update()
    assert not browser.run("return document.body.hasAttribute('data-stale')")
    assert browser.run("return document.querySelector('.gap').getAttribute('d')")


def test_a_worker_that_is_killed_takes_nothing_from_the_totals(
    browser: Browser, site: Site
) -> None:
    browser.open(site.page.url)
    until(lambda: len(browser.pools()) == 3)

    def totals() -> list[float]:
        rows = browser.rows("servers")
        sums = [number(row["leases"]) for row in rows if row["id"].startswith("web")]
        return [number(browser.text("#panel-leases .note")), *sums]

    before = totals()
    victim = site.workers.pop()
    victim.kill()
    site.add_worker()
    deadline = time.monotonic() + 3
    came_to = set()
    while time.monotonic() < deadline:
        now = totals()
        assert all(a >= b for a, b in zip(now, before, strict=True)), (before, now)
        before = now
        came_to.add(browser.text("#workers"))
        time.sleep(0.05)
    assert "3 workers" in came_to
    pids = {row["worker"].split()[0] for row in browser.pools()}
    assert pids == {str(worker.pid) for worker in site.workers}


# What it costs


def test_200_servers_in_8_workers_take_little_of_the_browser(
    browser: Browser, said: Callable[..., Said]
) -> None:
    page = said([f"web{i}" for i in range(200)], workers=8)
    done = threading.Event()

    def live() -> None:
        while not done.wait(0.4):
            for at, worker in enumerate(page.workers):
                for server in worker["servers"]:
                    server["leases"] += 7 + at
                    counts = 3 + server["leases"] % 5
                    server["lease_times"] = [[i, server["leases"] * counts] for i in range(8, 22)]
                    state = "leased" if server["leases"] % 3 else "idle"
                    server["slots"] = [[at, state], [at + 8, "idle"]]
            page.say(0.4)

    living = threading.Thread(target=live)
    living.start()
    try:
        browser.open(page.url)
        browser.wait_for_update()
        browser.run(
            """
            window.costs = {read: [], show: []};
            new PerformanceObserver((list) => {
                for (const entry of list.getEntries()) costs[entry.name].push(entry.duration);
            }).observe({type: "measure"});
            """
        )
        # All that the main thread does: layout, paint and the collector, too.
        before = browser.seconds_of_cpu()
        browser.wait_for_update(4)
        all_of_it = (browser.seconds_of_cpu() - before) / 4 * 1000
        costs = browser.run("return costs")
        # What no page could do without: to parse an answer.
        costs["parse"] = browser.run(
            """
            return Array.from({length: 9}, () => {
                const began = performance.now();
                for (const line of arguments[0].trim().split("\\n")) JSON.parse(line);
                return performance.now() - began;
            });
            """,
            page.text,
        )
    finally:
        done.set()
        living.join()
    read, show, parse = (statistics.median(costs[name]) for name in ("read", "show", "parse"))
    print(
        f"read {read:.1f} ms, show {show:.1f} ms, all of an update {all_of_it:.1f} ms of CPU;"
        f" to parse it {parse:.1f} ms"
    )
    assert len(browser.ids()) == 200
    assert read / parse < 12
    assert show / parse < 12


# Pictures


@pytest.mark.timeout(150)
def test_pictures_for_the_docs(browser: Browser, tmp_path: Path) -> None:
    folder = ROOT / PICTURES if PICTURES else tmp_path
    # With ROVER_PICTURES it takes its time: then the plots have something to show.
    minute = 60 if PICTURES else 0.5
    names = [f"web{number}" for number in range(1, 8)]
    with closing_all() as closing:
        site: Site = closing(Site(tmp_path, names, workers=4, greenlets=8))

        def let_pass(seconds: float) -> None:
            """Let time pass, with some bursts of requests."""
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                site.workers[int(left) % 4].do("lease", count=25)
                time.sleep(min(left, 2.5))

        def take(name: str, scheme: str, width: int, height: int) -> None:
            browser.look(scheme, width, height)
            browser.wait_for_update()
            browser.picture(folder / f"status-{name}.png")
            picture = (folder / f"status-{name}.png").read_bytes()
            assert struct.unpack(">II", picture[16:24]) == (width, height)
            assert 10_000 < len(picture) < 200_000

        browser.open(site.page.url)
        until(lambda: browser.row("web1").get("p50", "–") != "–")
        let_pass(0.4 * minute)
        site.servers.do("take", name="web6", seconds=0.03)
        until(lambda: browser.row("web6")["state"].startswith("slow"))
        let_pass(0.2 * minute)
        site.servers.do("die", name="web3")
        until(lambda: browser.row("web3")["state"].startswith("unreachable"))
        take("death", "light", 1440, 770)
        let_pass(0.25 * minute)
        take("light", "light", 1440, 770)
        take("dark", "dark", 1440, 770)
        take("narrow", "light", 360, 1200)
