"""Tables that never cut a number, however narrow the terminal is.

What does not fit side by side comes as several tables one below the other, each with the columns
that name a row. If not even one column fits beside those, each row is a paragraph.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Cell = str | Text
LEAST_TEXT = 16
"""A column of words is not folded to less than this."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column. One of `words` may be folded between words; numbers stand on the right."""

    title: str
    words: bool = False
    left: bool = False


def words(title: str) -> Column:
    """A column of text that may be folded."""
    return Column(title, words=True, left=True)


def names(title: str) -> Column:
    """A column of names, on the left."""
    return Column(title, left=True)


@dataclass(frozen=True, slots=True)
class FittedTable:
    """A table. The first `keys` columns name a row; `lines_after` are rows followed by a line.

    Cells are plain text (no markup) or `Text`; they may have several lines.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    keys: int = 1
    lines_after: frozenset[int] = frozenset()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """As many tables as are needed to fit into the width."""
        rest = range(self.keys, len(self.columns))
        alone = [self._table([each], console, options) for each in rest]
        if any(table is None for table in alone):
            yield from self._paragraphs()
            return
        chosen: list[int] = []
        fitting: Table | None = None
        for number in rest:
            table = self._table([*chosen, number], console, options)
            if table is None:
                assert fitting is not None
                yield fitting
                chosen, table = [], self._table([number], console, options)
            chosen, fitting = [*chosen, number], table
        if fitting is not None:
            yield fitting

    def _table(
        self, chosen: Sequence[int], console: Console, options: ConsoleOptions
    ) -> Table | None:
        """The table of the keys and some columns; None if it is wider than there is room."""
        numbers = [*range(self.keys), *chosen]
        texts = [[as_text(row[number]) for row in self.rows] for number in numbers]
        columns = [self.columns[number] for number in numbers]
        natural = [_natural(c, cells) for c, cells in zip(columns, texts, strict=True)]
        least = [_least(c, cells, n) for c, cells, n in zip(columns, texts, natural, strict=True)]
        table = self._made(columns, texts, least)
        spare = options.max_width - Measurement.get(console, options.update(width=10_000), table)[1]
        if spare < 0:
            return None
        return self._made(columns, texts, _widened(least, natural, spare))

    def _made(
        self, columns: Sequence[Column], texts: Sequence[Sequence[Text]], widths: Sequence[int]
    ) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for column, width in zip(columns, widths, strict=True):
            table.add_column(
                Text(_folded(column.title, width)),
                justify="left" if column.left else "right",
                width=width,
                no_wrap=not column.words,
                overflow="fold",
            )
        for number, cells in enumerate(zip(*texts, strict=True)):
            table.add_row(*cells, end_section=number in self.lines_after)
        return table

    def _paragraphs(self) -> Iterator[RenderableType]:
        for row in self.rows:
            key = Text(" ").join(as_text(cell) for cell in row[: self.keys])
            if key.plain.strip():
                yield Text(" ").join(key.split("\n"))
            for column, cell in zip(self.columns[self.keys :], row[self.keys :], strict=True):
                value = as_text(cell)
                if value.plain.strip():
                    title = " ".join(column.title.split("\n"))
                    flat = Text(" ").join(value.split("\n"))
                    yield Padding(Text.assemble((f"{title}: ", "dim"), flat), (0, 0, 0, 2))
        yield Text("")


def as_text(cell: Cell) -> Text:
    """A cell as text with its styles."""
    return cell if isinstance(cell, Text) else Text(cell)


def _natural(column: Column, cells: Sequence[Text]) -> int:
    lines = [line for cell in cells for line in cell.split("\n")]
    title = column.title.split("\n") if column.words else column.title.split()
    return max((each.cell_len for each in (*lines, *map(Text, title))), default=0)


def _folded(title: str, width: int) -> str:
    """A title over several lines, folded between words."""
    lines = title.split("\n")
    return "\n".join(
        line if Text(line).cell_len <= width else textwrap.fill(line, width) for line in lines
    )


def _least(column: Column, cells: Sequence[Text], natural: int) -> int:
    if not column.words:
        return natural
    found = [Text(word).cell_len for cell in cells for word in cell.plain.split()]
    return min(natural, max([LEAST_TEXT, *found]))


def _widened(least: Sequence[int], natural: Sequence[int], spare: int) -> list[int]:
    """Widths with the spare room given to columns of words, as much as each can use."""
    wanted = [n - at_least for n, at_least in zip(natural, least, strict=True)]
    total = sum(wanted)
    if total <= spare:
        return list(natural)
    return [w + spare * each // total for w, each in zip(least, wanted, strict=True)]
