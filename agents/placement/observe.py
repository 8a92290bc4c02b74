"""What a batch of placement problems shows: the twin's state, or the emulation's observations."""

from __future__ import annotations

from collections.abc import Sequence

from agents.placement.types import (
    NOTHING,
    PLACE,
    TASKS,
    Observations,
    Questions,
    empty_observations,
)
from testbed.compiled import compiled_view
from testbed.decisions.placement import PlacementObservation
from testbed.twin.kernel import load_factor_at
from testbed.twin.state import State, World


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


@compiled_view
def observe_all(world: World, state: State, asks: Questions, out: Observations) -> None:
    """Write into `out` what each environment's next decision sees: what Ledger.observe gives.

    Sums run in the ledger's order, so that they are equal to the last bit.
    """
    for b in range(state.plan.shape[0]):
        if asks.task[b] != NOTHING:
            _observe(world, state, asks, out, b)


@compiled_view
def _observe(world: World, state: State, asks: Questions, out: Observations, b: int) -> None:
    plans, p = world.plans, state.plan[b]
    r, index = asks.asked[b, 0], asks.asked[b, 1]
    known_ns = state.now_ns[b] - world.rates.detection_ns
    previous, spent_ns = plans.source[p, r], 0.0
    for f in range(index):
        node = state.primary[b, r, f]
        spent_ns += plans.delay_ns[previous, node]
        spent_ns += plans.service_ns[p, r, f] / plans.capacity_cores[node]
        previous = node
    destination = plans.destination[p, r]
    for n in range(plans.capacity_cores.shape[0]):
        out.alive[b, n] = plans.death_ns[p, n] > known_ns
        out.used_cores[b, n] = asks.used[b, n] / 1e9
        out.memory_free_bytes[b, n] = plans.memory_bytes[n] - asks.memory[b, n]
        out.capacity_cores[b, n] = plans.capacity_cores[n]
        out.held[b, n] = asks.held[b, n]
        out.delay_from_previous_ns[b, n] = plans.delay_ns[previous, n]
        out.delay_to_egress_ns[b, n] = plans.delay_ns[n, destination]
    out.task[b] = asks.task[b]
    out.primary[b] = state.primary[b, r, index] if asks.task[b] != PLACE else -1
    out.backup[b] = state.backup[b, r, index] if asks.task[b] != PLACE else -1
    out.previous[b] = previous
    out.destination[b] = destination
    out.function_index[b] = index
    out.functions[b] = plans.functions[p, r]
    rate = plans.rate_pps[p, r] * load_factor_at(plans, p, state.now_ns[b] * 1.0)
    out.rate_pps[b] = rate
    out.primary_cores[b] = rate * plans.service_ns[p, r, index] / 1e9
    out.backup_cores[b] = rate * plans.backup_service_ns[p, r, index] / 1e9
    out.memory_bytes[b] = plans.function_bytes[p, r, index]
    out.delay_bound_ns[b] = plans.bound_ns[p, r]
    out.delay_left_ns[b] = float(int(plans.bound_ns[p, r] - spent_ns))
    out.lifetime_s[b] = (plans.end_ns[p, r] - plans.start_ns[p, r]) / 1e9
