"""``python -m benchmarks.speed.versions OLD``: what a lease costs, beside another checkout's.

OLD is the folder of one (``git worktree add FOLDER COMMIT`` makes it). Both are measured in
turn, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.child import Child, python
from benchmarks.measure import Row, compare, in_turn
from benchmarks.report import about, heading, markdown

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_SERVERS = 4

#: What is measured, and how often in a round.
KINDS = {
    "acquire + release": 50_000,
    "request, 1 greenlet": 10_000,
    "request, 20 greenlets": 10_000,
}


def measure(old: Path, rounds: int, *, quick: bool) -> list[Row]:
    """Measure both, and return the rows: this checkout's figures against the old one's."""
    with python("speed.echo", _SERVERS) as echo:
        ports = echo.receive()
        with _version(_ROOT, ports) as new_child, _version(old, ports) as old_child:
            measures: dict[str, Callable[[], float]] = {}
            for kind, count in KINDS.items():
                for name, child in (("new", new_child), ("old", old_child)):
                    request = {"kind": kind, "count": 100 if quick else count}
                    measures[f"{kind}, {name}"] = partial(child.ask, request)
            figures = in_turn(rounds, measures)
    return [compare("versions", figures, f"{kind}, new", f"{kind}, old", 1.0) for kind in KINDS]


@contextmanager
def _version(folder: Path, ports: list[int]) -> Iterator[Child]:
    child = Child(
        sys.executable, str(_HERE / "version_child.py"), str(folder.resolve()), json.dumps(ports)
    )
    try:
        yield child
    finally:
        child.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.versions")
    parser.add_argument("old", type=Path, help="the folder of another checkout")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="tiny numbers: measures nothing")
    options = parser.parse_args()
    if not (options.old / "gevent_rover" / "__init__.py").is_file():
        parser.error(f"no checkout: {options.old}")
    rounds = 1 if options.quick else options.rounds
    rows = measure(options.old, rounds, quick=options.quick)
    print(heading(about("benchmarks.speed.versions", rounds)))
    lines: list[tuple[str, ...]] = [("what", "new ÷ old", "new (µs)", "old (µs)")]
    lines += [(row.what, str(row.ratio), str(row.figure), str(row.peer_figure)) for row in rows]
    print(markdown(lines))


if __name__ == "__main__":
    main()
