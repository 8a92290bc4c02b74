"""Observations as arrays: those of the emulation in the form in which the twin shows a batch."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.decisions.placement import PlacementObservation
from testbed.twin.observe import Observations, empty_observations
from testbed.twin.state import TASKS


def pack_observations(observations: Sequence[PlacementObservation]) -> Observations:
    """Observations on one substrate as arrays; ValueError if there is none."""
    if not observations:
        raise ValueError("observations = []: expected at least one")
    first = observations[0]
    out = empty_observations(len(observations), first.delay_ns, first.admission)
    for b, seen in enumerate(observations):
        out.alive[b] = seen.alive
        out.capacity_cores[b] = seen.capacity_cores
        out.used_cores[b] = seen.used_cores
        out.memory_free_bytes[b] = seen.memory_free_bytes
        out.held[b] = seen.held
        out.delay_from_previous_ns[b] = seen.delay_from_previous_ns
        out.delay_to_egress_ns[b] = seen.delay_to_egress_ns
        out.task[b] = TASKS.index(seen.task)
        members = (*seen.members, -1, -1)
        out.primary[b], out.backup[b] = members[:2]
        # A group has one member at a node: where a further backup is, there is room for no other.
        out.memory_free_bytes[b, list(seen.members[2:])] = 0.0
        out.previous[b] = seen.placed[-1].primary if seen.placed else seen.source
        out.destination[b] = seen.destination
        out.function_index[b] = seen.function_index
        out.functions[b] = len(seen.functions)
        out.rate_pps[b] = seen.rate_pps
        out.primary_cores[b] = seen.primary_cores
        out.backup_cores[b] = seen.backup_cores
        out.memory_bytes[b] = seen.memory_bytes
        out.delay_bound_ns[b] = seen.delay_bound_ns
        out.delay_left_ns[b] = seen.delay_left_ns
        out.lifetime_s[b] = seen.lifetime_s
    return out
