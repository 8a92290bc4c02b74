"""A primary and a backup in one place, and short names for what goes in and out of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from testbed.vnf.functions.base import Result, Verdict
from testbed.vnf.replication.backup import Backup
from testbed.vnf.replication.primary import Primary
from testbed.vnf.replication.types import (
    Action,
    Emit,
    LogBatch,
    LogEntry,
    ReplicationConfig,
    Send,
    Stamp,
    State,
)

CONFIG = ReplicationConfig(
    mode="pipelined",
    batch_packets=2,
    batch_ns=0,
    gap_timeout_ns=50,
    retransmit_ns=1000,
    buffer_packets=100,
)


def at(seq: int, epoch: int = 0, flow: int = 9) -> Stamp:
    return Stamp(4, flow, 7, epoch, seq)


class Group:
    """Machines with a function that counts, appends "'" and drops what begins with "drop"."""

    def __init__(self, protected: bool = True, **changes: Any) -> None:
        self.config = replace(CONFIG, **changes)
        self.state: State = {}
        self.copy: State = {}
        self.primary = Primary(self.config, self.state, self._count(self.state), 0, protected)
        self.backup = Backup(self.config, self.copy, self._count(self.copy))

    @staticmethod
    def _count(state: State) -> Any:
        def process(path: int, packet: bytes, now_ns: int) -> Result:
            assert path == 4
            count = state.get(b"count", 0)
            assert isinstance(count, int)
            delta = ((b"count", count + 1),)
            if packet.startswith(b"drop"):
                return Result(Verdict.DROP, None, delta, "asked for")
            if packet.startswith(b"large"):
                return Result(Verdict.FORWARD, packet + bytes(70_000), delta)
            return Result(Verdict.FORWARD, packet + b"'", delta)

        return process

    def packets(self, *seqs: int, now_ns: int = 0) -> list[Action]:
        return [a for seq in seqs for a in self.primary.on_packet(now_ns, at(seq), b"%d" % seq)]


def out(seq: int, packet: bytes, epoch: int = 0, flow: int = 9) -> Emit:
    return Emit(at(seq, epoch, flow), packet)


def entries(actions: list[Action]) -> list[LogEntry]:
    messages = [action.message for action in actions if isinstance(action, Send)]
    return [e for message in messages if isinstance(message, LogBatch) for e in message.entries]


def indices(actions: list[Action]) -> list[list[int]]:
    """The entries' indices in each log batch."""
    messages = [action.message for action in actions if isinstance(action, Send)]
    return [[e.index for e in m.entries] for m in messages if isinstance(m, LogBatch)]


def deliver(group: Group, actions: list[Action]) -> list[Action]:
    batches = [a.message for a in actions if isinstance(a, Send)]
    return [r for b in batches if isinstance(b, LogBatch) for r in group.backup.on_log(0, b)]
