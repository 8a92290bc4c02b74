"""What must hold after a run of a simulated replica group, whatever the network and the fault did.

G1 output commit, G2 exactly-once effect, G4 order within a flow; what is committed reaches the
sink; no input is lost in silence; nothing waits for ever.
"""

from __future__ import annotations

from collections import Counter

from testbed.vnf.replication.types import State
from testbed.vnf.state import apply_delta
from tests.protocol.simulation import (
    Member,
    Schedule,
    Simulation,
    Variant,
    count_packets,
    packet_of,
)

LOSSES = ("gap", "input-buffer-full", "no-cpu", "too-large")
"""Reasons of a member that itself declares an input lost."""

ENDS = ("verdict", "declared-lost", *LOSSES)
"""Reasons of drops that end an input, and not just one copy of it."""


def violations(world: Simulation) -> list[str]:
    """What the run broke, each line beginning with the guarantee's name; empty if nothing."""
    survivor = world.survivor()
    accepted = [packet_of(e.stamp) for e in survivor.applied if not e.lost] + survivor.processed
    state, outputs = reference_run(world, accepted)
    found = list(world.faults)
    if max(Counter(accepted).values(), default=0) > 1:
        found.append("G2: a packet took effect twice")
    if state != survivor.state:
        found.append("G2: the state is not that of a sequential run")
    found += _check_output(world, outputs)
    found += _check_fates(world, survivor, set(accepted))
    found += _check_members(world, survivor)
    if survivor is world.first:
        # Without a promotion each input that is not emitted is told once.
        told = Counter(drop.stamp for drop in survivor.drops if drop.reason in ENDS)
        emitted = len(outputs)
        if max(told.values(), default=0) > 1 or len(accepted) - emitted != sum(
            drop.reason == "verdict" for drop in survivor.drops
        ):
            found.append("fates: an end was told twice or not at all")
    return found


def reference_run(
    world: Simulation, accepted: list[bytes]
) -> tuple[State, dict[tuple[int, int, int, int], bytes]]:
    """State, and outputs by (path, flow, epoch, seq), of the bare function over `accepted`."""
    state: State = {}
    outputs: dict[tuple[int, int, int, int], bytes] = {}
    stamps = {packet_of(stamp): stamp for stamp in world.inputs}
    counts: Counter[tuple[int, int, int]] = Counter()
    for packet in accepted:
        result = count_packets(state, packet)
        apply_delta(state, result.delta)
        if result.packet is not None:
            stamp = stamps[packet]
            flow = (stamp.path, stamp.flow, stamp.epoch)
            outputs[(*flow, counts[flow])] = result.packet
            counts[flow] += 1
    return state, outputs


def _check_output(world: Simulation, outputs: dict[tuple[int, int, int, int], bytes]) -> list[str]:
    found = []
    seen: dict[tuple[int, int, int, int], bytes] = {}
    last: dict[tuple[int, int], tuple[int, int]] = {}
    for emit in world.sink:
        stamp = emit.stamp
        identity = (stamp.path, stamp.flow, stamp.epoch, stamp.seq)
        if outputs.get(identity) != emit.packet:
            found.append(f"G1: {identity} was emitted and is not in the surviving state")
        if identity in seen:
            continue
        seen[identity] = emit.packet
        before = last.get(identity[:2], (-1, -1))
        follows = before[1] + 1 if before[0] == stamp.epoch else 0
        if stamp.epoch < before[0] or stamp.seq != follows:
            found.append(f"G4: {identity} came to the sink after {before}")
        last[identity[:2]] = (stamp.epoch, stamp.seq)
    lost = outputs.keys() - seen.keys()
    return found + [f"committed and lost: {identity}" for identity in sorted(lost)]


def _check_fates(world: Simulation, survivor: Member, accepted: set[bytes]) -> list[str]:
    """Each input is emitted, dropped by verdict or declared lost; never two of these."""
    found = []
    declared = [entry.stamp for entry in survivor.applied if entry.lost]
    refused = {drop.stamp for drop in survivor.drops if drop.reason == "old-epoch"}
    declared += [drop.stamp for drop in survivor.drops if drop.reason in LOSSES]
    lost = set(declared)
    if len(declared) != len(lost):
        found.append("fates: an input was declared lost twice")
    for stamp in world.inputs:
        done = packet_of(stamp) in accepted
        if done and stamp in lost:
            found.append(f"fates: {stamp} was processed and declared lost")
        if not done and stamp not in lost and stamp not in refused:
            switched = any(
                entry.stamp.flow == stamp.flow and entry.stamp.epoch > stamp.epoch
                for entry in survivor.applied
            )
            in_charge = world.first if switched else survivor
            last_epoch = stamp.epoch == world.schedule.stamper_epochs - 1
            # The last packets of an epoch can vanish in the network: nothing shows that they were.
            if last_epoch or stamp in in_charge.in_time:
                found.append(f"fates: {stamp} was lost in silence")
    return found


def _check_members(world: Simulation, survivor: Member) -> list[str]:
    """At the end nothing waits, and a backup that lives equals its primary."""
    found = []
    primary = survivor.primary
    assert primary is not None
    if primary.unacknowledged or primary.inputs.packets or primary.inputs.notes:
        found.append("liveness: something waits for ever")
    backup = world.second.backup
    if world.schedule.mode != "none" and world.schedule.fault == "none":
        assert backup is not None
        if backup.inputs.marks() != primary.inputs.marks() or world.second.state != survivor.state:
            found.append("backup: its marks or its state differ from the primary's")
    return found


def run_schedule(schedule: Schedule, variant: Variant | None = None) -> list[str]:
    """Run and check one schedule."""
    return violations(Simulation(schedule, variant).run())
