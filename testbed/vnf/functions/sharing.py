"""Which records of a function belong to a flow alone, and which are shared, by the tag of the key.

The tag is the top byte of a key's first word, never 0 and at most 0x7F.

    tag          scope         whose it is
    0x01 - 0x3F  LOCAL         the flows of one bucket; it goes where the bucket goes
    0x40 - 0x5F  MERGEABLE     this instance's own contribution, which only grows; others merge it
                               with theirs in the background (`testbed.vnf.state.crdt`)
    0x60 - 0x7F  LINEARIZABLE  all instances alike: a packet whose effect has operations on such
                               records waits until they have their place among all others'

A function declares nothing else. It reads and writes shared records as it does its own; so an
operation on a linearizable record should be rare and small.

Operations on linearizable records take effect only if the records that they change are then still
what the function saw. Either way the packet is processed again afterwards, on the state of then,
until it asks for no such operation any more: only that effect counts. So what a function asks for
must be seen by it as done when it comes back: "give this NAT a block" finds the block owned, "this
source asked for this port" finds the pair noted.
"""

from __future__ import annotations

from enum import Enum

from testbed.vnf.state.records import Key

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
