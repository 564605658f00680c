"""What the balance benchmarks print and write: progress, Markdown tables, JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import _about


def about(module: str, rounds: int) -> dict[str, Any]:
    """Return when, where and with what command the figures were measured."""
    return {**_about(rounds), "command": " ".join([f"python -m {module}", *sys.argv[1:]])}


def show(progress: str) -> None:
    if sys.stderr.isatty():
        print(f"{progress:78}", end="\r", file=sys.stderr, flush=True)


def markdown(lines: list[list[str]]) -> str:
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
