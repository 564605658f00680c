"""``python -m benchmarks.workers``: how the pools of real gunicorn workers spread the load.

The example in ``examples/gunicorn``, with workers that gunicorn forks in turn, four
servers, and clients that keep their connections. Each start is a new gunicorn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import gevent

from benchmarks.child import python
from benchmarks.report import about, arguments, heading, show, write
from benchmarks.workers.load import Load
from benchmarks.workers.parameters import PARTS, PEERS, QUICK, SECTIONS, Part, Setup
from benchmarks.workers.rows import Starts, others, rows_of, table
from benchmarks.workers.site import Servers, served

_OUTPUT = Path(__file__).parent / "workers.json"


def measure(setup: Setup, parts: Sequence[Part], rounds: int) -> dict[Part, dict[str, Starts]]:
    """Return what each start of each peer measured."""
    figures: dict[Part, dict[str, Starts]] = {part: {peer: [] for peer in PEERS} for part in parts}
    with python("workers.servers", setup.servers, setup.server_workers) as child:
        servers = Servers(child)
        for number in range(rounds):
            for peer in PEERS:
                with served(peer, servers, setup) as site:
                    is_settled = False
                    for part in parts:
                        show(f"start {number + 1}/{rounds}: {peer}, {part.section} {part.what}")
                        if part.section != "unsettled" and not is_settled:
                            gevent.sleep(setup.settle)
                            is_settled = True
                        found = Load(site, servers, part, setup).figures(number)
                        figures[part][peer].append(found)
    show("")
    return figures


def main() -> None:
    parser = arguments("benchmarks.workers", __doc__, SECTIONS, _OUTPUT)
    parser.add_argument("--rounds", type=int, help="how many starts (default: 10)")
    options = parser.parse_args()
    setup = QUICK if options.quick else Setup()
    rounds = options.rounds or (1 if options.quick else 10)
    parts = [part for part in PARTS if part.section in (options.only or SECTIONS)]
    rows = rows_of(measure(setup, parts, rounds))
    report = about("benchmarks.workers", rounds) | {"gunicorn": version("gunicorn")}
    print(heading(report))
    print(table(rows))
    print(others(rows))
    write(options.output, report | {"setup": asdict(setup), "rows": rows})


if __name__ == "__main__":
    main()
