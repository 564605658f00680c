"""What all the commands share: arguments, progress, Markdown tables, JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any


def arguments(
    module: str, description: str | None, names: Collection[str], output: Path
) -> argparse.ArgumentParser:
    """Return a parser of the arguments that every command has.

    :param names: what ``--only`` may choose.
    :param output: the file that the figures go to by default.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument(
        "--only",
        choices=names,
        action="append",
        metavar="NAME",
        help=f"only this part ({', '.join(names)}); may be repeated",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny numbers: shows that it works, measures nothing"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=output,
        metavar="PATH",
        help="where to write the figures (default: %(default)s)",
    )
    return parser


def about(module: str, rounds: int) -> dict[str, Any]:
    """Return when, where and with what command the figures were measured."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
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


def heading(about: dict[str, Any]) -> str:
    """Return the line above a table: when and where it was measured."""
    return f"{about['date']}, {about['machine']}, {about['python']}, gevent {about['gevent']}\n"


def show(progress: str) -> None:
    if sys.stderr.isatty():
        print(f"{progress:78}", end="\r", file=sys.stderr, flush=True)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return a table, the first line of which is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    whole = [lines[0], rule, *lines[1:]]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in whole)


def write(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON, a row a line, with four significant digits: more would be noise."""
    path.write_text(_text(_round(report)) + "\n")


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _round(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_round(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _text(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(map(_line, value)) + "\n]"
    if isinstance(value, dict) and any(isinstance(each, (dict, list)) for each in value.values()):
        parts = [f"{_line(name)}: {_text(each)}" for name, each in value.items()]
        return "{\n" + ",\n".join(parts) + "\n}"
    return _line(value)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
