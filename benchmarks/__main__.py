"""``python -m benchmarks``: measure, print a table, write it as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import attempts, fills, lags, leases, memory, servers
from benchmarks.measure import Row

SECTIONS = {
    "attempts": attempts.measure,
    "server": servers.measure,
    "lease": leases.measure,
    "fill": fills.measure,
    "memory": memory.measure,
    "lag": lags.measure,
}
_RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, help="how many rounds (default: 5)")
    parser.add_argument(
        "--only",
        choices=SECTIONS,
        action="append",
        metavar="NAME",
        help=f"only this section ({', '.join(SECTIONS)}); may be repeated",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round of tiny numbers: shows that it works, measures nothing",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=_RESULTS,
        metavar="PATH",
        help="where to write the figures (default: %(default)s)",
    )
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    rows = [
        row
        for name, measure in SECTIONS.items()
        if not options.only or name in options.only
        for row in measure(rounds, quick=options.quick)
    ]
    about = _about(rounds)
    print(f"{about['date']}, {about['machine']}, {about['python']}, gevent {about['gevent']}\n")
    print(table(rows))
    report = {**about, "rows": [row.as_json() for row in rows]}
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
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def _about(rounds: int) -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gevent": version("gevent"),
        "rounds": rounds,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
