"""The columns of what a network reads, by name: one table for each kind of row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Column(NamedTuple):
    """One number of a row.

    name     as in tests and in what is told about a model
    unit     what 1 stands for
    meaning  what is counted or measured
    """

    name: str
    unit: str
    meaning: str


def names(table: Sequence[Column]) -> tuple[str, ...]:
    """The names of a table's columns, in their order."""
    return tuple(column.name for column in table)
