"""What is known of each group's contribution: a CRDT, by parts. Pure.

Of two values of a word the larger is the later one, of two notes that with the larger version (and
of equal versions, which say the same unless somebody lies, the larger bytes): so parts may come
late, twice and in any order (see `testbed.vnf.state.crdt` for the laws).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from testbed.vnf.exchange.part_messages import PART_RECORDS, values_in
from testbed.vnf.functions.share import Contribution
from testbed.vnf.state.arrays import Words


class Known:
    """Contributions by group; each has `records` records of `value_words` words, and a note."""

    def __init__(self, records: int, value_words: int) -> None:
        self.parts = -(-records // PART_RECORDS)
        """Parts with records; the note is part number `parts`."""
        self._records = records
        self._value_words = value_words
        self._values: dict[str, Words] = {}
        self._notes: dict[str, tuple[int, bytes]] = {}

    def rows_of(self, number: int) -> slice:
        """The records in a part."""
        return slice(number * PART_RECORDS, min((number + 1) * PART_RECORDS, self._records))

    def merge(self, group: str, number: int, version: int, content: bytes) -> None:
        """Take in a part; raises ValueError for one that does not fit."""
        if number == self.parts:
            said = (version, content)
            self._notes[group] = max(said, self._notes.get(group, said))
            return
        rows = self.rows_of(number)
        values = values_in(content, self._value_words)
        if not 0 <= number < self.parts or len(values) != rows.stop - rows.start:
            raise ValueError(f"part {number} with {len(values)} records does not fit")
        if group not in self._values:
            self._values[group] = np.zeros((self._records, self._value_words), np.int64)
        known = self._values[group][rows]
        np.maximum(known, values, out=known)

    def contributions(self) -> Mapping[str, Contribution]:
        """What is known, by group, in the order of their names."""
        nothing = np.zeros((self._records, self._value_words), np.int64)
        return {
            group: Contribution(self._values.get(group, nothing), note, version)
            for group in sorted({*self._values, *self._notes})
            for version, note in [self._notes.get(group, (0, b""))]
        }
