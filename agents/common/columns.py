"""The columns of what a network reads, by name: one table for each kind of row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Column(NamedTuple):
    """One number of a row.

    name     as in tests and in what is told about a model
    what     what is counted or measured
    scale    what 1 stands for, or how the number is made of it
    """

    name: str
    what: str
    scale: str


def names(table: Sequence[Column]) -> tuple[str, ...]:
    """The names of a table's columns, in their order."""
    return tuple(column.name for column in table)
