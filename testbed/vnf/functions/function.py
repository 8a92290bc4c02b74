"""What every network function is: pure compiled code, its configuration, the size of its state.

    process(packet, length, reverse, now_ns, records, effect, config) -> DROP or FORWARD

The packet is in `packet[:length]`; the function may rewrite it there, and make it longer up to
`MAX_PACKET_BYTES`. `records` is the state before this packet, to be read alone; what changes goes
into `effect` (see `effect`), for dropped packets too. The same arguments give the same result on
every member of a replica group: there is no other clock, no random number, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numba
import numpy as np
from numba import types

from testbed.scenario.types import FunctionName
from testbed.vnf.functions.effect import (
    FILL,
    FORWARD,
    HEADER_WORDS,
    LENGTH,
    REASON,
    clear,
    new_effect,
)
from testbed.vnf.state.arrays import Bytes, Words
from testbed.vnf.state.records import RECORDS, Records, apply, new_records

MAX_PACKET_BYTES = 1500
"""Bytes of an IP packet that a buffer has room for."""

Process: TypeAlias = Callable[[Bytes, int, int, int, Records, Words, Words], int]

PROCESS_SIGNATURE = types.int64(
    numba.typeof(np.zeros(1, np.uint8)),
    types.int64,
    types.int64,
    types.int64,
    RECORDS,
    numba.typeof(np.zeros(1, np.int64)),
    numba.typeof(np.zeros(1, np.int64)),
)
"""Every `process` is compiled with this signature, so that one machine runs any of them."""

PROCESS_TYPE = types.FunctionType(PROCESS_SIGNATURE)


@dataclass(frozen=True, slots=True)
class Function:
    """A network function with its configuration.

    reasons      names of the reasons for which packets are dropped; their places are the codes
    capacity     records that its state has at most; value_words: words of a record's value
    """

    name: FunctionName
    process: Process
    config: Words
    reasons: tuple[str, ...]
    capacity: int
    value_words: int

    def new_state(self) -> Records:
        """An empty state."""
        return new_records(self.capacity, self.value_words)


Maker: TypeAlias = Callable[[Mapping[str, Any]], Function]
"""Makes a function from its configuration in a scenario; raises InputError for what it refuses."""


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one packet: `packet` is what goes on, None if it was dropped."""

    packet: bytes | None
    reason: str
    operations: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A function with a state of its own, for a packet at a time: no replication, no network."""

    function: Function
    records: Records = field(repr=False)

    @classmethod
    def of(cls, function: Function) -> Sandbox:
        """The function with an empty state."""
        return cls(function, function.new_state())

    def step(self, packet: bytes, now_ns: int = 0, reverse: bool = False, bucket: int = 0) -> Step:
        """Process a packet and apply what it changes."""
        buffer = np.zeros(max(MAX_PACKET_BYTES, len(packet)), np.uint8)
        buffer[: len(packet)] = np.frombuffer(packet, np.uint8)
        effect = new_effect()
        clear(effect)
        verdict = self.function.process(
            buffer, len(packet), int(reverse), now_ns, self.records, effect, self.function.config
        )
        end = HEADER_WORDS + int(effect[FILL])
        apply(self.records, effect, HEADER_WORDS, end, bucket)
        operations = tuple(effect[HEADER_WORDS:end].tolist())
        if verdict == FORWARD:
            return Step(buffer[: int(effect[LENGTH])].tobytes(), "", operations)
        return Step(None, self.function.reasons[int(effect[REASON])], operations)
