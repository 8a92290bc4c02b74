"""Which servers take a member of the group that is asked about."""

from __future__ import annotations

from testbed.compiled import compiled_view
from testbed.twin.constants import Rates
from testbed.twin.kernel import load_factor_at
from testbed.twin.pack import PlanArrays
from testbed.twin.state import State


@compiled_view
def admitted(
    plans: PlanArrays, state: State, rates: Rates, b: int, node: int, demand: float
) -> bool:
    """Whether a server that is not known to be dead can be given more (`demand` as in `used`)."""
    p = state.plan[b]
    if plans.death_ns[p, node] <= state.now_ns[b] - rates.detection_ns:
        return False
    if not plans.admission:
        return True
    r, f = state.asked[b, 0], state.asked[b, 1]
    fits = plans.memory_bytes[node] - state.memory[b, node] >= plans.function_bytes[p, r, f]
    used_cores = state.used[b, node] / 1e9 + demand / 1e9
    return fits and used_cores <= plans.capacity_cores[node]


@compiled_view
def joins(plans: PlanArrays, state: State, rates: Rates, b: int, node: int) -> bool:
    """Whether a backup of the group that is asked about can be at `node`."""
    p = state.plan[b]
    r, f = state.asked[b, 0], state.asked[b, 1]
    rate = plans.rate_pps[p, r] * load_factor_at(plans, p, state.now_ns[b] * 1.0)
    demand = rate * plans.backup_service_ns[p, r, f]
    if node < 0 or node == state.primary[b, r, f] or plans.backups == 0:
        return False
    return admitted(plans, state, rates, b, node, demand)
