"""``python -m benchmarks.metrics``: what it costs a client to be seen.

CPU per request with instruments and without, in turns in the same process; and what a poll
of the status costs each of eight workers with 200 servers.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from benchmarks.metrics import gunicorn, looks, polls, requests
from benchmarks.report import about, arguments, heading, write
from benchmarks.speed.__main__ import table

_OUTPUT = Path(__file__).parent / "metrics.json"

SECTIONS = {
    "request": requests.measure,
    "gunicorn": gunicorn.measure,
    "looks": looks.measure,
    "polls": polls.measure,
}


def main() -> None:
    parser = arguments("benchmarks.metrics", __doc__, SECTIONS, _OUTPUT)
    parser.add_argument("--rounds", type=int, help="how many rounds (default: 15)")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 15)
    rows = [
        row
        for name, measure in SECTIONS.items()
        if not options.only or name in options.only
        for row in measure(rounds, quick=options.quick)
    ]
    report = about("benchmarks.metrics", rounds)
    report |= {each: version(each) for each in ("gunicorn", "prometheus_client")}
    print(heading(report))
    print(table(rows))
    write(options.output, report | {"rows": [row.as_json() for row in rows]})


if __name__ == "__main__":
    main()
