"""``gevent-rover top`` on a terminal, with rich: a screen that stays in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Final, cast

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gevent_rover.command.stream import Stream
from gevent_rover.command.top_cells import Cell, Grid
from gevent_rover.command.top_text import Frame, left_out

# Cells between columns.
_GAP: Final = 2

# Columns that are left out where there is no room for them, the first ones first.
_DISPENSABLE: Final = (
    *("leases", "rejected", "timeouts", "address", "idle", "p50", "wait_p99", "workers", "since"),
    *("failures", "slots", "max_slots", "leased", "error", "waiting", "pool", "p99", "size"),
    "rate",
)

# Columns that may be cut off, and how narrow each may be before others are left out.
_ELASTIC: Final = {"id": 10, "pool": 8, "address": 10, "slots": 6, "error": 26}


class Screen:
    """Draws frames on a terminal, over each other; gives it back as it was at the end.

    A context manager. It has no thread and no greenlet of its own.
    """

    def __init__(self, stream: Stream) -> None:
        self._console = Console(
            file=cast(IO[str], stream), force_terminal=True, markup=False, emoji=False
        )
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._live.stop()

    def show(self, frame: Frame) -> None:
        """Draw a frame, as much of it as there is room for."""
        width, height = self._console.size
        self._live.update(fitted(frame, width, height), refresh=True)


def fitted(frame: Frame, width: int, height: int) -> RenderableType:
    """Return a frame with the rows and columns that there is room for."""
    lines: list[RenderableType] = [_line(cells) for cells in frame.summary]
    room = height - len(lines) - bool(frame.left_out)
    # The pools get a third of it, the servers what is left.
    for grid, share in ((frame.pools, room // 3), (frame.servers, room)):
        share = min(share, room)
        if not grid.rows or share < 1:
            continue
        # An empty line, the header, the rows; and how many more there are.
        fits = len(grid.rows) + 2 <= share
        shown = len(grid.rows) if fits else max(0, share - 3)
        if shown:
            lines += [Text(), _table(grid, grid.rows[:shown], width)]
            room -= 2 + shown
        if not fits:
            lines.append(_line([(f"{frame.glyphs.more} {len(grid.rows) - shown:,} more", "dim")]))
            room -= 1
    if frame.left_out:
        lines.append(_line([(left_out(frame), "dim")]))
    return Group(*lines)


def _line(cells: Sequence[Cell]) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    for index, (text, style) in enumerate(cells):
        line.append("  " * bool(index))
        line.append(text, style=style)
    return line


def _table(grid: Grid, rows: Sequence[Sequence[Cell]], width: int) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    columns = _widths(grid, rows, width)
    for index, cells in columns.items():
        column = grid.columns[index]
        table.add_column(
            column.title,
            width=cells,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if column.right else "left",
        )
    for row in rows:
        table.add_row(*(Text(*row[index]) for index in columns))
    return table


def _widths(grid: Grid, rows: Sequence[Sequence[Cell]], width: int) -> dict[int, int]:
    """Return the columns that there is room for, by index, and the cells that each gets."""
    widths = {}
    for index, column in enumerate(grid.columns):
        widest = max((cell_len(row[index][0]) for row in rows), default=0)
        if widest or column.name not in _DISPENSABLE:  # "latest error", where there is none
            widths[index] = max(widest, cell_len(column.title))
    least = {
        index: min(cells, _ELASTIC.get(grid.columns[index].name, cells))
        for index, cells in widths.items()
    }
    width += _GAP  # there is none behind the last one
    for name in _DISPENSABLE:
        if sum(least.values()) + _GAP * len(least) <= width:
            break
        least = {index: cells for index, cells in least.items() if grid.columns[index].name != name}
    widths = {index: widths[index] for index in least}
    elastic = [index for index in widths if grid.columns[index].name in _ELASTIC]
    while elastic and sum(widths.values()) + _GAP * len(widths) > width:
        # The one with most to spare; below the least if it must be.
        widest = max(elastic, key=lambda index: (widths[index] - least[index], widths[index]))
        if widths[widest] <= 1:
            break
        widths[widest] -= 1
    return widths
