"""Many observations as arrays: what a batch of environments shows to a learning policy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from testbed.compiled import compiled_view
from testbed.scenario.types import BoolArray, FloatArray
from testbed.twin.constants import Rates
from testbed.twin.kernel import load_factor_at
from testbed.twin.pack import IntArray, PlanArrays
from testbed.twin.state import NOTHING, PLACE, State


class Observations(NamedTuple):
    """B observations on N nodes, `delay_ns` shared; fields as in `decisions.placement`.

    `task` is the place of a Task in state.TASKS; `primary` and `backup` are the members that the
    group has (-1: none), and nodes of further backups show no free memory. `previous` is the node
    from which packets come: the source, or the primary of the function before.
    """

    alive: BoolArray  # [B, N]
    capacity_cores: FloatArray  # [B, N]
    used_cores: FloatArray  # [B, N]
    memory_free_bytes: FloatArray  # [B, N]
    held: FloatArray  # [B, N]
    delay_from_previous_ns: FloatArray  # [B, N]
    delay_to_egress_ns: FloatArray  # [B, N]
    delay_ns: FloatArray  # [N, N]
    admission: bool
    task: IntArray  # [B]
    primary: IntArray  # [B]
    backup: IntArray  # [B]
    previous: IntArray  # [B]
    destination: IntArray  # [B]
    function_index: IntArray  # [B]
    functions: IntArray  # [B], how many the chain has
    rate_pps: FloatArray  # [B]
    primary_cores: FloatArray  # [B]
    backup_cores: FloatArray  # [B]
    memory_bytes: FloatArray  # [B]
    delay_bound_ns: FloatArray  # [B]
    delay_left_ns: FloatArray  # [B]
    lifetime_s: FloatArray  # [B]


def empty_observations(batch: int, delay_ns: FloatArray, admission: bool) -> Observations:
    """Room for `batch` observations."""
    nodes = len(delay_ns)

    def per_node() -> FloatArray:
        return np.zeros((batch, nodes))

    def ints() -> IntArray:
        return np.zeros(batch, dtype=np.int64)

    def floats() -> FloatArray:
        return np.zeros(batch)

    return Observations(
        np.zeros((batch, nodes), dtype=np.bool_), per_node(), per_node(), per_node(), per_node(),
        per_node(), per_node(), delay_ns, admission, ints(), ints(), ints(), ints(), ints(),
        ints(), ints(), floats(), floats(), floats(), floats(), floats(), floats(), floats(),
    )  # fmt: skip


@compiled_view
def observe_all(plans: PlanArrays, state: State, rates: Rates, out: Observations) -> None:
    """Write into `out` what each environment's next decision sees: what Ledger.observe gives.

    Sums run in the ledger's order, so that they are equal to the last bit.
    """
    for b in range(state.plan.shape[0]):
        if state.task[b] != NOTHING:
            _observe(plans, state, rates, out, b)


@compiled_view
def _observe(plans: PlanArrays, state: State, rates: Rates, out: Observations, b: int) -> None:
    p = state.plan[b]
    r, index = state.asked[b, 0], state.asked[b, 1]
    known_ns = state.now_ns[b] - rates.detection_ns
    previous, spent_ns = plans.source[p, r], 0.0
    for f in range(index):
        node = state.primary[b, r, f]
        spent_ns += plans.delay_ns[previous, node]
        spent_ns += plans.service_ns[p, r, f] / plans.capacity_cores[node]
        previous = node
    destination = plans.destination[p, r]
    for n in range(plans.capacity_cores.shape[0]):
        out.alive[b, n] = plans.death_ns[p, n] > known_ns
        out.used_cores[b, n] = state.used[b, n] / 1e9
        out.memory_free_bytes[b, n] = plans.memory_bytes[n] - state.memory[b, n]
        out.capacity_cores[b, n] = plans.capacity_cores[n]
        out.held[b, n] = state.held[b, n]
        out.delay_from_previous_ns[b, n] = plans.delay_ns[previous, n]
        out.delay_to_egress_ns[b, n] = plans.delay_ns[n, destination]
    out.task[b] = state.task[b]
    out.primary[b] = state.primary[b, r, index] if state.task[b] != PLACE else -1
    out.backup[b] = state.backup[b, r, index] if state.task[b] != PLACE else -1
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
