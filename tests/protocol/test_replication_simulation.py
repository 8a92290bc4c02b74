"""The guarantees under faults, and proof that the checks would notice if one did not hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.scenario.types import ReplicationMode
from testbed.vnf.replication.backup import Backup
from testbed.vnf.replication.primary import Primary
from testbed.vnf.replication.types import (
    Action,
    CopyReason,
    Delta,
    Drop,
    Emit,
    LogBatch,
    LogEntry,
    Stamp,
)
from testbed.vnf.state import apply_delta
from tests.protocol.checks import run_schedule, violations
from tests.protocol.simulation import (
    MS,
    Fault,
    Schedule,
    Simulation,
    Variant,
    draw_schedule,
)

PROTECTED_MODES: tuple[ReplicationMode, ...] = ("deft", "pipelined")
SCHEDULES = 2500
CONTROL_SCHEDULES = 400


def test_drawn_schedules_keep_all_guarantees() -> None:
    failed = {
        seed: found for seed in range(SCHEDULES) if (found := run_schedule(draw_schedule(seed)))
    }
    assert failed == {}


@pytest.mark.parametrize("mode", PROTECTED_MODES)
@pytest.mark.parametrize("fault", ["primary-crash", "primary-pause", "backup-crash"])
def test_a_fault_at_every_step_keeps_all_guarantees(mode: ReplicationMode, fault: Fault) -> None:
    plain = Schedule(seed=5, mode=mode, loss=0.1, repeat=0.1, packets=10)
    world = Simulation(plain).run()
    member = world.second if fault == "backup-crash" else world.first
    assert member.steps > 50
    for step in range(member.steps):
        schedule = replace(plain, fault=fault, fault_step=step)
        assert run_schedule(schedule) == [], schedule


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.builds(
        Schedule,
        seed=st.integers(0, 1 << 16),
        mode=st.sampled_from(PROTECTED_MODES),
        fault=st.sampled_from(["none", "primary-crash", "primary-pause", "backup-crash"]),
        fault_step=st.integers(0, 90),
        flows=st.integers(1, 3),
        packets=st.integers(1, 12),
        stamper_epochs=st.integers(1, 3),
        loss=st.floats(0, 0.4),
        repeat=st.floats(0, 0.4),
        delay_ns=st.integers(1, 20 * MS),
        batch_packets=st.integers(1, 10),
        batch_ns=st.sampled_from([0, MS, 6 * MS]),
        buffer_packets=st.integers(1, 20),
        no_cpu=st.floats(0, 0.3),
    )
)
def test_any_schedule_keeps_all_guarantees(schedule: Schedule) -> None:
    assert run_schedule(schedule) == []


def test_a_schedule_can_be_run_again() -> None:
    schedule = replace(draw_schedule(3), fault="primary-crash", fault_step=20)
    first, second = Simulation(schedule).run(), Simulation(schedule).run()
    assert first.sink == second.sink
    assert first.survivor().state == second.survivor().state


def test_faults_hit_and_promotions_emit_again() -> None:
    """The schedules do what they are for: most faults happen, and they leave work undone."""
    promoted = again = 0
    for seed in range(200):
        world = Simulation(draw_schedule(seed)).run()
        promoted += world.second.primary is not None
        again += len(world.sink) > len({emit.stamp for emit in world.sink})
    assert promoted > 80
    assert again > 20


class ReleasesEarly(Primary):
    """Control: does not wait for the acknowledgement."""

    early: tuple[Action, ...] = ()

    def on_packet(self, now_ns: int, stamp: Stamp, packet: bytes) -> list[Action]:
        actions = super().on_packet(now_ns, stamp, packet)
        early, self.early = self.early, ()
        return [*early, *actions]

    def _log(self, now_ns: int, stamp: Stamp, action: Emit | Drop, delta: Delta) -> bool:
        if isinstance(action, Emit):
            self.early = (*self.early, action)
        return super()._log(now_ns, stamp, action, delta)


class Accepts(Primary):
    """Control: processes copies that are to be refused."""

    refused: CopyReason

    def on_packet(self, now_ns: int, stamp: Stamp, packet: bytes) -> list[Action]:
        flow = self.inputs.flow(stamp.path, stamp.flow)
        if flow.refusal(stamp) != self.refused:
            return super().on_packet(now_ns, stamp, packet)
        actions: list[Action] = []
        self._handle(now_ns, flow, stamp, packet, None, actions)
        return actions


class NoDuplicateCheck(Accepts):
    """Control: a packet that comes twice is processed twice."""

    refused = "duplicate"


class NoStamperEpochCheck(Accepts):
    """Control: an old epoch's packet is processed after a new epoch's."""

    refused = "old-epoch"


class MarksApart(Backup):
    """Control: a batch's deltas are applied at once, its marks with the next batch."""

    late: tuple[LogEntry, ...] = ()

    def on_log(self, now_ns: int, batch: LogBatch) -> list[Action]:
        for entry in self.late:
            flow = self.inputs.flow(entry.stamp.path, entry.stamp.flow)
            flow.mark(entry.stamp, entry.output is not None)
            self.inputs.discard_handled(flow)
        self.late = ()
        return super().on_log(now_ns, batch)

    def _apply(self, entry: LogEntry) -> None:
        apply_delta(self._state, entry.delta)
        self.late = (*self.late, entry)
        self._unreleased[entry.index] = entry
        self._next_index += 1


class NoReEmission(Backup):
    """Control: what was committed is taken for released."""

    def _emit_again(self) -> list[Action]:
        super()._emit_again()
        return []


class NoGroupEpochCheck(Backup):
    """Control: follows the old primary after its own promotion."""

    def on_log(self, now_ns: int, batch: LogBatch) -> list[Action]:
        return super().on_log(now_ns, replace(batch, group_epoch=self.group_epoch))


class AppliesBeyondGap(Backup):
    """Control: applies what arrives, whether or not the log is complete before it."""

    def on_log(self, now_ns: int, batch: LogBatch) -> list[Action]:
        if batch.entries and batch.entries[0].index > self._next_index:
            self._forget(self._next_index)
            self._next_index = self._released = batch.entries[0].index
        return super().on_log(now_ns, batch)


class ForgetsAtAck(Backup):
    """Control: takes what it has acknowledged for released."""

    def _apply(self, entry: LogEntry) -> None:
        super()._apply(entry)
        self._forget(self._next_index)


@pytest.mark.parametrize(
    ("variant", "guarantee"),
    [
        (Variant(primary=ReleasesEarly), "G1"),
        (Variant(primary=NoDuplicateCheck), "G2"),
        (Variant(primary=NoStamperEpochCheck), "G1"),
        (Variant(backup=MarksApart), "G2"),
        (Variant(backup=NoReEmission), "committed and lost"),
        (Variant(backup=NoGroupEpochCheck), "G2"),
        (Variant(backup=AppliesBeyondGap), "G2"),
        (Variant(backup=ForgetsAtAck), "committed and lost"),
    ],
    ids=lambda value: "" if isinstance(value, str) else _name(value),
)
def test_a_rule_that_is_switched_off_is_noticed(variant: Variant, guarantee: str) -> None:
    found = _violations_of(variant)
    assert any(line.startswith(guarantee) for line in found)


def _violations_of(variant: Variant) -> Iterator[str]:
    for seed in range(CONTROL_SCHEDULES):
        yield from violations(Simulation(draw_schedule(seed), variant).run())


def _name(variant: Variant) -> str:
    changed = variant.primary if variant.primary is not Primary else variant.backup
    return changed.__name__
