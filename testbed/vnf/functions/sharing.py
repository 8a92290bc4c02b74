"""Which records of a function belong to a flow alone, and which are shared, by the tag of the key.

The tag is the top byte of a key's first word, never 0 and at most 0x7F.

    tag          scope         whose it is
    0x01 - 0x3F  LOCAL         the flows of one bucket; it goes where the bucket goes
    0x40 - 0x5F  MERGEABLE     this instance's own contribution, which only grows; others merge it
                               with theirs in the background (`testbed.vnf.crdt`)
    0x60 - 0x7F  LINEARIZABLE  all instances alike: a packet whose effect has an operation on such
                               a record waits until the operation has its place among all others'

A function declares nothing else. It reads and writes shared records as it does its own; so an
operation on a linearizable record should be rare and small.
"""

from __future__ import annotations

from enum import Enum

from testbed.vnf.records import Key

TAG_SHIFT = 56
FIRST_MERGEABLE, FIRST_LINEARIZABLE, LAST_TAG = 0x40, 0x60, 0x7F


class Scope(Enum):
    """Whose a record is."""

    LOCAL = "local"
    MERGEABLE = "mergeable"
    LINEARIZABLE = "linearizable"


def scope_of(key: Key | tuple[int, ...]) -> Scope:
    """The scope of the record with this key; raises ValueError for a tag of 0 or above 0x7F."""
    tag = key[0] >> TAG_SHIFT
    if not 0 < tag <= LAST_TAG:
        raise ValueError(f"key {key}: expected a tag from 1 to {LAST_TAG} in its top byte")
    if tag < FIRST_MERGEABLE:
        return Scope.LOCAL
    return Scope.MERGEABLE if tag < FIRST_LINEARIZABLE else Scope.LINEARIZABLE
