"""What a function declares so that its instances in other groups learn what one has counted.

The records of scope MERGEABLE are exchanged as they are: every word of them only grows, so the
larger of two is the later one. A function names their keys, adds a note of what else is worth
telling, and says what follows from all that together (`testbed.vnf.exchange`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.vnf.functions.function import Function
from testbed.vnf.state.arrays import Words
from testbed.vnf.state.records import Records


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one group has counted: `values` [keys, value words] of its mergeable records.

    Records that are not there count as zeros. A note with a larger version is later.
    """

    values: Words
    note: bytes = b""
    version: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """How instances of a function share.

    keys   first words (the others are 0) of the keys that mergeable records can have; they follow
           from the configuration, which all instances have in common
    note   bytes that follow from a state and from its `values`; a generator, which yields after
           every piece of work that takes some 100 us, and packets are handled meanwhile
    view   what is known of all groups together, as JSON values, from the contribution of each
    """

    keys: Callable[[Function], Words]
    view: Callable[[Function, Mapping[str, Contribution]], dict[str, Any]]
    note: Callable[[Function, Records, Words], Generator[None, None, bytes]] | None = None
