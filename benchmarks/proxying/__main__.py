"""``python -m benchmarks.proxying``: the front and the relay beside HAProxy and socat.

What redis-benchmark gets through each of them, on a core of its own; what an idle pair of
connections takes of its memory; how late a front's hub is among thousands of those; and
which servers the requests go to when one of four is slow.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from time import monotonic

from benchmarks.loopback import descriptors
from benchmarks.proxying import balance, lag, memory, throughput
from benchmarks.proxying.processes import cpu_of, cpu_of_all, where
from benchmarks.proxying.rows import (
    Row,
    balance_rows,
    lag_rows,
    memory_rows,
    tables,
    throughput_rows,
)
from benchmarks.proxying.setup import QUICK, Setup
from benchmarks.report import about, arguments, heading, show, write

_OUTPUT = Path(__file__).parent / "proxying.json"

SECTIONS = ("throughput", "memory", "lag", "balance")

#: How each program says its version.
_VERSIONS = {"haproxy": "-v", "socat": "-V", "redis-server": "--version"}


def measure(setup: Setup, section: str, rounds: int) -> list[Row]:
    """Return the rows of a section."""
    with ExitStack() as stack:
        if section == "throughput":
            return throughput_rows(throughput.measure(setup, rounds, stack))
        if section == "memory":
            return memory_rows(memory.measure(setup, rounds))
        if section == "lag":
            return lag_rows(lag.measure(setup, rounds))
        return balance_rows(balance.measure(setup, rounds, stack))


def versions() -> dict[str, str]:
    """Return what the programs say of themselves."""
    found = {}
    for program, option in _VERSIONS.items():
        path = where(program)
        if path is not None:
            said = subprocess.run([path, option], capture_output=True, text=True, check=False)
            lines = [line for line in said.stdout.splitlines() if "ersion" in line or "v=" in line]
            found[program] = lines[0] if lines else ""
    return found


def main() -> None:
    parser = arguments("benchmarks.proxying", __doc__, SECTIONS, _OUTPUT)
    parser.add_argument("--rounds", type=int, help="how many rounds (default: 5)")
    options = parser.parse_args()
    setup = QUICK if options.quick else Setup()
    rounds = options.rounds or (1 if options.quick else 5)
    descriptors(0)  # As many as possible, for all that is started here, too.
    began, mine, everybody = monotonic(), cpu_of(os.getpid()), cpu_of_all()
    rows = []
    for section in SECTIONS:
        if not options.only or section in options.only:
            rows += measure(setup, section, rounds)
    show("")
    others = cpu_of_all() - everybody - (cpu_of(os.getpid()) - mine)
    cores = len(os.sched_getaffinity(0))
    share = 100 * max(0.0, others) / (monotonic() - began) / cores
    report = about("benchmarks.proxying", rounds)
    report |= {"programs": versions(), "cpu of others": share, "setup": asdict(setup)}
    print(heading(report))
    print(tables(rows))
    print(f"\nOther processes took {share:.0f} % of the cores.")
    write(options.output, report | {"rows": rows})


if __name__ == "__main__":
    main()
