"""What the replication machines take in and give out. Nothing here does I/O.

Times are nanoseconds on CLOCK_MONOTONIC, handed in by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from testbed.scenario.types import ReplicationMode
from testbed.vnf.functions.base import Result
from testbed.vnf.state import Delta, Key, State, Value

__all__ = [
    "Ack",
    "Action",
    "Delta",
    "Drop",
    "DropReason",
    "Emit",
    "Key",
    "LogBatch",
    "LogEntry",
    "Message",
    "ProcessFn",
    "ReplicationConfig",
    "Result",
    "Send",
    "Stamp",
    "State",
    "Value",
]

ProcessFn: TypeAlias = Callable[[int, bytes, int], Result]
"""(path, packet, now_ns) -> Result. Reads the member's state, never changes it."""

LossReason = Literal["gap", "input-buffer-full", "no-cpu", "too-large", "declared-lost"]
"""Why an input was declared lost in the log; "declared-lost": by the primary before this one."""

CopyReason = Literal["duplicate", "old-epoch", "beyond-window", "copy-buffer-full"]
"""Why a copy of a packet was refused at once; no log entry stands for it."""

DropReason = Literal[
    "verdict",
    "gap",
    "input-buffer-full",
    "no-cpu",
    "too-large",
    "declared-lost",
    "duplicate",
    "old-epoch",
    "beyond-window",
    "copy-buffer-full",
]


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where a packet stands in its flow: `seq` counts from 0 in each `epoch` of its stamper.

    path < 2**24, flow < 2**32, bucket < 2**16, epoch < 2**16, seq < 2**64.
    """

    path: int
    flow: int
    bucket: int
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What became of one input packet; `stamp` is the input's.

    `output` is the packet that goes on and `out_seq` its sequence number; both are None if the
    function dropped the packet or it was declared lost (`lost`, with an empty `delta`).
    """

    index: int
    stamp: Stamp
    lost: bool
    out_seq: int | None
    output: bytes | None
    delta: Delta


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Primary to backup: consecutive entries; the outputs of all below `released` have gone out."""

    group_epoch: int
    entries: tuple[LogEntry, ...]
    released: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Backup to primary: all entries below `index` are applied."""

    group_epoch: int
    index: int


Message: TypeAlias = LogBatch | Ack


@dataclass(frozen=True, slots=True)
class Send:
    """Send `message` to the other member; it may be lost, repeated or overtaken."""

    message: Message


@dataclass(frozen=True, slots=True)
class Emit:
    """Send `packet` on; `stamp.seq` is the output sequence number of its path and flow."""

    stamp: Stamp
    packet: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """The input packet with this stamp goes no further.

    A `CopyReason` is about one copy, at once. The other reasons are the fate of the input: given
    when its log entry is committed, once, and perhaps once more after a promotion, as `Emit` is.
    """

    stamp: Stamp
    reason: DropReason


Action: TypeAlias = Send | Emit | Drop
"""Actions are carried out in the order given: a batch that says "released" follows the Emits."""


@dataclass(frozen=True, slots=True)
class ReplicationConfig:
    """How a group replicates. Raises ValueError for a value out of range.

    batch_packets      a batch is sent when it has this many entries; messages hold no more
    batch_ns           ... or when its first entry is this old; 0 in mode "pipelined": when the
                       input runs empty; 0 in mode "deft": see `primary.DEFT_BATCH_NS`
    gap_timeout_ns     a packet that is missed this long is declared lost
    retransmit_ns      entries that are unacknowledged this long are sent again
    buffer_packets     bound of the input buffer, and of the entries that wait for the backup
    max_message_bytes  bound of an encoded message
    """

    mode: ReplicationMode
    batch_packets: int
    batch_ns: int
    gap_timeout_ns: int
    retransmit_ns: int
    buffer_packets: int
    max_message_bytes: int = 60_000

    def __post_init__(self) -> None:
        if self.mode not in get_args(ReplicationMode):
            raise ValueError(f"mode = {self.mode!r}: expected one of {get_args(ReplicationMode)}")
        least = {
            "batch_packets": 1,
            "batch_ns": 0,
            "gap_timeout_ns": 1,
            "retransmit_ns": 1,
            "buffer_packets": 1,
            "max_message_bytes": 256,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"{name} = {value!r}: expected an integer of at least {low}")
