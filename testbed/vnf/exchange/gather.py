"""Copies records out of a state, between two packets; compiled."""

from __future__ import annotations

import numba
import numpy as np
from numba import types

from testbed.compiled import compiled
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import RECORDS, Records, find

_WORDS = numba.typeof(np.zeros(1, np.int64))
_ROWS = numba.typeof(np.zeros((1, 1), np.int64))


@compiled(types.void(RECORDS, _WORDS, _ROWS))
def gather(records: Records, firsts: Words, out: Words) -> None:
    """The values of the records with the keys (first, 0, 0, 0, 0) to `out`; zeros for the others.

    `out` is [len(firsts), value words].
    """
    for number in range(len(firsts)):
        first = firsts[number]
        zero = first & 0
        row = find(records, (first, zero, zero, zero, zero))
        for word in range(out.shape[1]):
            out[number, word] = records.values[row, word] if row >= 0 else 0
