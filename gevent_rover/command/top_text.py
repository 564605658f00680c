"""What ``gevent-rover top`` shows at a moment, and the same as lines of text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from gevent_rover.command.console import table
from gevent_rover.command.top_cells import (
    Cell,
    Glyphs,
    Grid,
    chosen,
    pools_grid,
    servers_grid,
    totals_lines,
    workers_lines,
)
from gevent_rover.status.documents import Merged


@dataclass(frozen=True, slots=True)
class Frame:
    """What is shown at a moment."""

    #: Lines of cells, which stand above the tables.
    summary: Sequence[Sequence[Cell]]
    pools: Grid
    servers: Grid
    #: Servers that the filter leaves out.
    left_out: int
    glyphs: Glyphs


class Frames:
    """Makes frames of documents; where nobody answers any more, of the latest one there was.

    :param sort: the name of the column by which servers are sorted.
    :param filter: servers that don't contain it are left out.
    """

    def __init__(self, sort: str, filter: str, glyphs: Glyphs) -> None:
        self._sort = sort
        self._filter = filter
        self._glyphs = glyphs
        self._latest: Merged | None = None
        self._latest_at = 0.0

    def frame(self, document: Merged, now: float) -> Frame:
        """Return what is shown now.

        :param now: seconds since the epoch.
        """
        glyphs = self._glyphs
        clock = time.strftime("%H:%M:%S", time.localtime(now))
        first, *silent = workers_lines(document, glyphs)
        summary = [[(clock, ""), *first], *silent]
        if document["totals"]["workers"]:
            self._latest, self._latest_at = document, now
        elif self._latest is None:
            summary.append([("nobody has answered yet", "bold red")])
        else:
            since = time.strftime("%H:%M:%S", time.localtime(self._latest_at))
            text = f"nobody has answered since {since}: what follows is from then"
            summary.append([(text, "bold red")])
        shown = self._latest or document
        rows = chosen(shown["servers"], self._sort, self._filter)
        return Frame(
            summary=[*summary, *totals_lines(shown)],
            pools=pools_grid(shown["pools"], glyphs, now),
            servers=servers_grid(rows, glyphs, now),
            left_out=len(shown["servers"]) - len(rows),
            glyphs=glyphs,
        )


def lines_of(frame: Frame) -> list[str]:
    """Return a frame as lines, the tables as wide as they have to be."""
    lines = ["  ".join(text for text, _ in line) for line in frame.summary]
    if frame.pools.rows:
        lines += ["", *_table(frame.pools)]
    if frame.servers.rows:
        lines += ["", *_table(frame.servers)]
    if frame.left_out:
        lines.append(left_out(frame))
    return lines


def left_out(frame: Frame) -> str:
    """Return how many servers a filter leaves out, in words."""
    return f"{frame.glyphs.more} {frame.left_out:,} left out by the filter"


def _table(grid: Grid) -> list[str]:
    header = [column.title for column in grid.columns]
    widths = [
        max(len(column.title), *(len(row[index][0]) for row in grid.rows))
        for index, column in enumerate(grid.columns)
    ]
    rows = [
        [
            text.rjust(width) if column.right else text
            for (text, _), column, width in zip(row, grid.columns, widths, strict=True)
        ]
        for row in [[(title, "") for title in header], *grid.rows]
    ]
    return table(rows[0], rows[1:])
