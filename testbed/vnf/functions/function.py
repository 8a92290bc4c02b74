"""What every network function is: pure compiled code, its configuration, the size of its state.

    process(call) -> DROP or FORWARD

A `Call` is one packet with all that the function may know. The same call gives the same result on
every member of a replica group: there is no other clock, no random number, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np
from numba import types

from testbed.compiled import compiled
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
from testbed.vnf.state.records import Records, apply, new_records

MAX_PACKET_BYTES = 1500
"""Bytes of an IP packet that a buffer has room for."""


class Call(NamedTuple):
    """One packet for a function, its state before the packet, and where the function answers.

    packet   [room], bytes from the IP header on, `length` of them; the function may rewrite them,
             and make the packet longer up to `MAX_PACKET_BYTES`
    length   bytes of the packet
    reverse  1 on the chain's way back, 0 on its way there
    now_ns   the time of the primary in nanoseconds; it does not decrease
    records  the state before this packet, to be read alone
    effect   [513], of `new_effect`: where changes of the state and the verdict go (see `effect`),
             for dropped packets too
    config   [words of the function], what its maker put there
    """

    packet: Bytes
    length: int
    reverse: int
    now_ns: int
    records: Records
    effect: Words
    config: Words


Process: TypeAlias = Callable[[Call], int]

_BYTE, _WORD = np.zeros(1, np.uint8), np.zeros(1, np.int64)
CALL = numba.typeof(Call(_BYTE, 0, 0, 0, new_records(1, 1), _WORD, _WORD))
"""The type of `Call` in signatures of compiled functions."""

PROCESS_SIGNATURE = types.int64(CALL)
"""Every `process` is compiled with this signature, so that one machine runs any of them."""

PROCESS_TYPE = types.FunctionType(PROCESS_SIGNATURE)

compiled_process = compiled(PROCESS_SIGNATURE, _nrt=False)
"""Decorator of every `process`. It makes no array, and counts no references: to count those of a
call's eight arrays again at each use took 230 ns, as long as the rest of a packet.
"""


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
        config = self.function.config
        verdict = self.function.process(
            Call(buffer, len(packet), int(reverse), now_ns, self.records, effect, config)
        )
        end = HEADER_WORDS + int(effect[FILL])
        apply(self.records, effect, HEADER_WORDS, end, bucket)
        operations = tuple(effect[HEADER_WORDS:end].tolist())
        if verdict == FORWARD:
            return Step(buffer[: int(effect[LENGTH])].tobytes(), "", operations)
        return Step(None, self.function.reasons[int(effect[REASON])], operations)
