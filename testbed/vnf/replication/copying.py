"""Bytes in words and back, in the order of memory; the last word is padded with zeros."""

from __future__ import annotations

from typing import Any

from numba import types

from testbed.compiled import compiled
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.memory import address

_memmove: Any = types.ExternalFunction("memmove", types.intp(types.intp, types.intp, types.intp))


@compiled
def copy_to_words(source: Bytes, begin: int, target: Words, at: int, length: int) -> None:
    """Write `source[begin : begin + length]` into `target`, from word `at` on."""
    if length > 0:
        target[at + ((length - 1) >> 3)] = 0
        _memmove(address(target) + 8 * at, address(source) + begin, length)


@compiled
def copy_from_words(source: Words, at: int, target: Bytes, begin: int, length: int) -> None:
    """Undo `copy_to_words`."""
    if length > 0:
        _memmove(address(target) + begin, address(source) + 8 * at, length)
