"""A replica group in a seeded, simulated, adversarial world, with one fault in it.

A stamper sends numbered packets to a primary and its backup over a network that loses, repeats,
delays and overtakes; a sink notes what the group emits. One fault may happen at any protocol
step: before or between any two actions of the member that it hits. A schedule follows from its
values alone, so one that fails can be run again. What came of it is judged in `checks`.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from testbed.scenario.types import ReplicationMode
from testbed.vnf.functions.base import Result, Verdict
from testbed.vnf.replication.backup import Backup
from testbed.vnf.replication.codec import decode, encode
from testbed.vnf.replication.primary import Primary
from testbed.vnf.replication.types import (
    Ack,
    Action,
    Drop,
    Emit,
    LogBatch,
    LogEntry,
    Message,
    ReplicationConfig,
    Stamp,
    State,
)

Fault = Literal["none", "primary-crash", "primary-pause", "backup-crash"]

MS = 1_000_000
DETECTION_NS = 20 * MS
SETTLE_NS = 600 * MS


def count_packets(state: State, packet: bytes) -> Result:
    """A network function whose every output and some of whose verdicts depend on its state."""
    flow_key = b"flow" + packet[:8]
    of_flow = cast(int, state.get(flow_key, 0)) + 1
    total = cast(int, state.get(b"total", 0)) + 1
    delta = ((flow_key, of_flow), (b"total", total), (b"last", packet), (b"none", None))
    if total % 7 == 0 or zlib.crc32(packet) % 11 == 0:
        return Result(Verdict.DROP, None, delta)
    return Result(Verdict.FORWARD, packet + bytes((of_flow & 255, total & 255)), delta)


def packet_of(stamp: Stamp) -> bytes:
    """The input with this stamp: its flow in 8 bytes, then what makes it unique."""
    flow = stamp.path.to_bytes(4, "big") + stamp.flow.to_bytes(4, "big")
    return flow + stamp.epoch.to_bytes(2, "big") + stamp.seq.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything a run depends on; `fault_step` counts the steps of the member that is hit."""

    seed: int
    mode: ReplicationMode = "pipelined"
    fault: Fault = "none"
    fault_step: int = 0
    flows: int = 2
    packets: int = 12
    stamper_epochs: int = 1
    loss: float = 0.05
    repeat: float = 0.05
    delay_ns: int = 3 * MS
    batch_packets: int = 4
    batch_ns: int = 0
    buffer_packets: int = 64
    no_cpu: float = 0.0

    def config(self) -> ReplicationConfig:
        """The group's configuration; messages are small so that batches are split."""
        return ReplicationConfig(
            mode=self.mode,
            batch_packets=self.batch_packets,
            batch_ns=self.batch_ns,
            gap_timeout_ns=8 * MS,
            retransmit_ns=9 * MS,
            buffer_packets=self.buffer_packets,
            max_message_bytes=640,
        )


def draw_schedule(seed: int) -> Schedule:
    """A schedule from one number."""
    rng = random.Random(f"schedule {seed}")
    mode: ReplicationMode = rng.choice(("deft", "pipelined", "pipelined"))
    faults: tuple[Fault, ...] = ("primary-crash", "primary-crash", "primary-pause", "backup-crash")
    fault: Fault = rng.choice((*faults, "none"))
    if rng.random() < 0.05:
        mode, fault = "none", "none"
    return Schedule(
        seed=seed,
        mode=mode,
        fault=fault,
        fault_step=rng.randrange(70),
        flows=rng.choice((1, 2, 3)),
        packets=rng.choice((6, 10, 14)),
        stamper_epochs=rng.choice((1, 1, 2)),
        loss=rng.choice((0.0, 0.05, 0.2)),
        repeat=rng.choice((0.0, 0.1)),
        delay_ns=rng.choice((1, MS, 6 * MS)),
        batch_packets=rng.choice((1, 3, 8)),
        batch_ns=rng.choice((0, 0, 2 * MS)),
        buffer_packets=rng.choice((2, 5, 64)),
        no_cpu=rng.choice((0.0, 0.0, 0.1)),
    )


@dataclass(frozen=True, slots=True)
class Variant:
    """The machines under test; negative controls put in ones with a rule switched off."""

    primary: type[Primary] = Primary
    backup: type[Backup] = Backup


@dataclass(slots=True)
class Member:
    """A member of the group, and what the checks note about it."""

    name: str
    state: State = field(default_factory=dict)
    primary: Primary | None = None
    backup: Backup | None = None
    alive: bool = True
    asleep: bool = False
    steps: int = 0
    waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)
    applied: list[LogEntry] = field(default_factory=list)
    processed: list[bytes] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    in_time: set[Stamp] = field(default_factory=set)

    def process(self, path: int, packet: bytes, now_ns: int) -> Result:
        """The member's function; notes the packets in the order in which they take effect."""
        self.processed.append(packet)
        return count_packets(self.state, packet)


class Crashed(Exception):
    """The member that handles an event is gone in the middle of it."""


class Simulation:
    """One schedule, run once; then `checks.violations` judges it."""

    def __init__(self, schedule: Schedule, variant: Variant | None = None) -> None:
        variant = variant or Variant()
        self.schedule = schedule
        self.rng = random.Random(f"world {schedule.seed}")
        self.now_ns = 0
        self.calm = False
        self.events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self.inputs: list[Stamp] = []
        self.sink: list[Emit] = []
        self.faults: list[str] = []
        self.first, self.second = Member("first"), Member("second")
        config = schedule.config()
        protected = schedule.mode != "none"
        self.first.primary = variant.primary(
            config, self.first.state, self.first.process, protected=protected
        )
        self.second.backup = variant.backup(config, self.second.state, self.second.process)
        self.second.alive = protected

    def run(self) -> Simulation:
        """Run to the end: all packets sent, the fault dealt with, the network calm at last."""
        last_ns = self._plan_inputs()
        self._at(last_ns + 100 * MS, self._calm_down)
        end_ns = last_ns + 100 * MS + SETTLE_NS
        while self.events and self.events[0][0] <= end_ns:
            self.now_ns, _, action, arguments = heapq.heappop(self.events)
            action(*arguments)
        return self

    def survivor(self) -> Member:
        """The member that is the primary at the end."""
        return self.second if self.second.primary is not None else self.first

    # The world.

    def _at(self, time_ns: int, action: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self.events, (time_ns, self._next_number(), action, arguments))

    def _next_number(self) -> int:
        self._number = getattr(self, "_number", 0) + 1
        return self._number

    def _plan_inputs(self) -> int:
        plan, last_ns = self.schedule, 0
        for flow in range(plan.flows):
            time_ns = 0
            for epoch in range(plan.stamper_epochs):
                for seq in range(plan.packets):
                    time_ns += self.rng.randrange(2 * MS)
                    self._stamped(time_ns, Stamp(2 + flow % 2, flow, 7, epoch, seq))
                time_ns += self.rng.choice((0, 10 * MS))
            last_ns = max(last_ns, time_ns)
        return last_ns

    def _stamped(self, time_ns: int, stamp: Stamp) -> None:
        self.inputs.append(stamp)
        for member in (self.first, self.second):
            self._at(time_ns, self._transmit, self._packet_arrives, member, stamp)

    def _transmit(self, arrive: Callable[..., None], *arguments: Any) -> None:
        if not self.calm and self.rng.random() < self.schedule.loss:
            return
        copies = 2 if not self.calm and self.rng.random() < self.schedule.repeat else 1
        for _ in range(copies):
            delay_ns = 50_000 + self.rng.randrange(self.schedule.delay_ns)
            self._at(self.now_ns + delay_ns, arrive, *arguments)

    def _calm_down(self) -> None:
        """From now on the network is perfect; a last packet shows the end of each flow."""
        self.calm = True
        plan = self.schedule
        for flow in range(plan.flows):
            stamp = Stamp(2 + flow % 2, flow, 7, plan.stamper_epochs - 1, plan.packets)
            self._stamped(self.now_ns, stamp)

    # The members.

    def _event(self, member: Member, handle: Callable[..., None], *arguments: Any) -> None:
        """An event at a member: it may crash, sleep, or crash within what it does."""
        if not member.alive:
            return
        if member.asleep:
            member.waiting.append((handle, arguments))
            return
        try:
            self._step(member)
            handle(member, *arguments)
        except Crashed:
            return
        self._set_timer(member)

    def _step(self, member: Member) -> None:
        hit = self.second if self.schedule.fault == "backup-crash" else self.first
        if member is hit and member.steps == self.schedule.fault_step:
            self._fault(member)
        member.steps += 1
        if not member.alive:
            raise Crashed

    def _fault(self, member: Member) -> None:
        detected_ns = self.now_ns + DETECTION_NS
        if self.schedule.fault == "primary-pause":
            # It sleeps from the end of this step on; it may wake up before it is suspected.
            member.asleep = True
            self._at(self.now_ns + self.rng.randrange(5 * MS, 80 * MS), self._wake, member)
        elif self.schedule.fault != "none":
            member.alive = False
        if self.schedule.fault == "backup-crash":
            self._at(detected_ns, self._event, self.first, self._unprotect)
        elif self.schedule.fault != "none":
            self._at(detected_ns, self._event, self.second, self._promote)

    def _wake(self, member: Member) -> None:
        member.asleep = False
        waiting, member.waiting = member.waiting, []
        for handle, arguments in waiting:
            self._event(member, handle, *arguments)
        self._set_timer(member)

    def _promote(self, member: Member) -> None:
        assert member.backup is not None
        member.primary, actions = member.backup.promote(self.now_ns, 1)
        self._do(member, actions)

    def _unprotect(self, member: Member) -> None:
        assert member.primary is not None
        self._do(member, member.primary.unprotect(self.now_ns))

    def _packet_arrives(self, member: Member, stamp: Stamp) -> None:
        self._event(member, self._take_packet, stamp)

    def _take_packet(self, member: Member, stamp: Stamp) -> None:
        machine = member.primary or member.backup
        assert machine is not None
        no_cpu = not self.calm and self.rng.random() < self.schedule.no_cpu
        if no_cpu and not isinstance(machine, Primary):
            return
        epoch = machine.inputs.marks().get((stamp.path, stamp.flow), (-1, 0, 0))[0]
        if stamp.epoch >= epoch:
            member.in_time.add(stamp)
        if no_cpu and isinstance(machine, Primary):
            self._do(member, machine.on_lost_input(self.now_ns, stamp))
        else:
            self._do(member, machine.on_packet(self.now_ns, stamp, packet_of(stamp)))
        if self.rng.random() < 0.5:
            self._idle(member)
        else:
            self._at(self.now_ns + 300_000, self._event, member, self._idle)

    def _idle(self, member: Member) -> None:
        if member.primary is not None:
            self._do(member, member.primary.on_idle(self.now_ns))

    def _set_timer(self, member: Member) -> None:
        due_ns = member.primary.next_timer_ns() if member.primary else None
        if due_ns is not None:
            self._at(max(due_ns, self.now_ns), self._event, member, self._timer, due_ns)

    def _timer(self, member: Member, due_ns: int) -> None:
        assert member.primary is not None
        if member.primary.next_timer_ns() != due_ns:
            return
        self._do(member, member.primary.on_timer(self.now_ns))
        after_ns = member.primary.next_timer_ns()
        if after_ns is not None and after_ns <= self.now_ns:
            self.faults.append(f"timer: {member.name} is due again at once")

    def _message_arrives(self, member: Member, data: bytes) -> None:
        self._event(member, self._take_message, decode(data))

    def _take_message(self, member: Member, message: Message) -> None:
        if isinstance(message, Ack):
            if member.primary is not None:
                self._do(member, member.primary.on_ack(self.now_ns, message))
        elif member.backup is not None:
            # A promoted member gets the batches of the old primary too: it must refuse them.
            self._take_log(member, member.backup, message)

    def _take_log(self, member: Member, backup: Backup, batch: LogBatch) -> None:
        before = backup.next_index
        actions = backup.on_log(self.now_ns, batch)
        if member.primary is None:
            applied = range(before, backup.next_index)
            member.applied += [entry for entry in batch.entries if entry.index in applied]
        self._do(member, actions)

    def _do(self, member: Member, actions: list[Action]) -> None:
        peer = self.second if member is self.first else self.first
        for action in actions:
            self._step(member)
            if isinstance(action, Emit):
                self.sink.append(action)
            elif isinstance(action, Drop):
                member.drops.append(action)
            else:
                data = encode(action.message)
                if len(data) > self.schedule.config().max_message_bytes:
                    self.faults.append(f"size: a message of {len(data)} bytes")
                self._transmit(self._message_arrives, peer, data)
