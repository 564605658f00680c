"""``python -m benchmarks.speed``: measure, print a table, write it as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.measure import Row
from benchmarks.report import about, arguments, heading, markdown
from benchmarks.speed import attempts, choosing, fills, lags, leases, memory, requests, servers

_HERE = Path(__file__).parent

SECTIONS = {
    "attempts": attempts.measure,
    "server": servers.measure,
    "lease": leases.measure,
    "choose": choosing.measure,
    "request": requests.measure,
    "fill": fills.measure,
    "memory": memory.measure,
    "lag": lags.measure,
}


def main() -> None:
    parser = arguments("benchmarks.speed", __doc__, SECTIONS, _HERE / "results.json")
    parser.add_argument("--rounds", type=int, help="how many rounds (default: 5)")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    rows = [
        row
        for name, measure in SECTIONS.items()
        if not options.only or name in options.only
        for row in measure(rounds, quick=options.quick)
    ]
    report = about("benchmarks.speed", rounds)
    print(heading(report))
    print(table(rows))
    report |= {"rows": [row.as_json() for row in rows]}
    options.output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def table(rows: list[Row]) -> str:
    """Return the table, in Markdown: ratios first."""
    lines: list[tuple[str, ...]] = [("what", "peer", "ratio", "ours", "peer's", "to reach", "")]
    for row in rows:
        lines.append(
            (
                row.what + (f" ({row.note})" if row.note else ""),
                row.peer,
                f"{row.ratio}×" if row.ratio else "",
                f"{row.figure} {row.unit}" if row.figure else "",
                f"{row.peer_figure} {row.unit}" if row.peer_figure else "",
                f"≤ {row.target:g}" + ("×" if row.compared == "ratio" else f" {row.unit}"),
                row.outcome,
            )
        )
    return markdown(lines)


if __name__ == "__main__":
    main()
