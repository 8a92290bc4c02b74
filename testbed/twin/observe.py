"""Many observations as arrays: what a batch of environments shows to a learning policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np

from testbed.scenario.placement import BoolArray, FloatArray, PlacementObservation
from testbed.twin.constants import Rates
from testbed.twin.kernel import alive_at, load_factor_at, mark_deaths, serving
from testbed.twin.pack import IntArray, PlanArrays


class Observations(NamedTuple):
    """B observations on N nodes; fields as in PlacementObservation, `delay_ns` shared.

    `previous` is the node from which packets come: the source, or the primary of the function
    before.
    """

    alive: BoolArray  # [B, N]
    capacity_cores: FloatArray  # [B, N]
    used_cores: FloatArray  # [B, N]
    memory_free_bytes: FloatArray  # [B, N]
    held: FloatArray  # [B, N]
    delay_from_previous_ns: FloatArray  # [B, N]
    delay_to_egress_ns: FloatArray  # [B, N]
    delay_ns: FloatArray  # [N, N]
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


def empty_observations(batch: int, delay_ns: FloatArray) -> Observations:
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
        per_node(), per_node(), delay_ns, ints(), ints(), ints(), ints(), floats(), floats(),
        floats(), floats(), floats(), floats(), floats(),
    )  # fmt: skip


def pack_observations(observations: Sequence[PlacementObservation]) -> Observations:
    """Observations on one substrate as arrays; ValueError if there is none."""
    if not observations:
        raise ValueError("observations = []: expected at least one")
    out = empty_observations(len(observations), observations[0].delay_ns)
    for b, seen in enumerate(observations):
        out.alive[b] = seen.alive
        out.capacity_cores[b] = seen.capacity_cores
        out.used_cores[b] = seen.used_cores
        out.memory_free_bytes[b] = seen.memory_free_bytes
        out.held[b] = seen.held
        out.delay_from_previous_ns[b] = seen.delay_from_previous_ns
        out.delay_to_egress_ns[b] = seen.delay_to_egress_ns
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


@numba.njit(cache=True)
def observe_one(
    plans: PlanArrays,
    p: int,
    r: int,
    placed: IntArray,
    primary: IntArray,
    backup: IntArray,
    rates: Rates,
    out: Observations,
    b: int,
) -> None:
    """Write into row `b` of `out` what Ledger.observe gives for the next function of request `r`.

    placed [R], primary [R, F], backup [R, F] as in `kernel.run_slots`. Sums run in the ledger's
    order, so that they are equal to the last bit.
    """
    now_ns = plans.arrival_ns[p, r] * 1.0
    factor = load_factor_at(plans, p, now_ns)
    nodes = plans.capacity_cores.shape[0]
    death_ns = np.empty(nodes, dtype=np.int64)
    mark_deaths(plans, p, now_ns, death_ns)
    alive_at(plans, p, now_ns, out.alive[b])
    out.used_cores[b, :] = 0.0
    out.held[b, :] = 0.0
    memory = np.zeros(nodes)
    for q in range(r + 1):
        if q < r and plans.end_ns[p, q] + rates.drain_ns <= now_ns:
            continue
        rate = plans.rate_pps[p, q] * factor
        for f in range(placed[q]):
            node, other = serving(primary[q, f], backup[q, f], death_ns)
            if node < 0:  # nobody is left: the ledger keeps the dead primary
                node, other = primary[q, f], -1
            out.used_cores[b, node] += rate * plans.service_ns[p, q, f]
            memory[node] += plans.function_bytes[p, q, f]
            if other >= 0:
                out.used_cores[b, other] += rate * plans.backup_service_ns[p, q, f]
                memory[other] += plans.function_bytes[p, q, f]
            if q == r:
                out.held[b, node] += 1.0
                if other >= 0:
                    out.held[b, other] += 1.0
    out.used_cores[b, :] /= 1e9
    out.memory_free_bytes[b, :] = plans.memory_bytes - memory
    out.capacity_cores[b, :] = plans.capacity_cores
    _observe_request(plans, p, r, placed[r], primary[r], factor, out, b)


@numba.njit(cache=True)
def _observe_request(
    plans: PlanArrays,
    p: int,
    r: int,
    index: int,
    primary: IntArray,
    factor: float,
    out: Observations,
    b: int,
) -> None:
    previous, spent_ns = plans.source[p, r], 0.0
    for f in range(index):
        node = primary[f]
        spent_ns += plans.delay_ns[previous, node]
        spent_ns += plans.service_ns[p, r, f] / plans.capacity_cores[node]
        previous = node
    destination = plans.destination[p, r]
    out.delay_from_previous_ns[b, :] = plans.delay_ns[previous]
    out.delay_to_egress_ns[b, :] = plans.delay_ns[:, destination]
    out.previous[b] = previous
    out.destination[b] = destination
    out.function_index[b] = index
    out.functions[b] = plans.functions[p, r]
    rate = plans.rate_pps[p, r] * factor
    out.rate_pps[b] = rate
    out.primary_cores[b] = rate * plans.service_ns[p, r, index] / 1e9
    out.backup_cores[b] = rate * plans.backup_service_ns[p, r, index] / 1e9
    out.memory_bytes[b] = plans.function_bytes[p, r, index]
    out.delay_bound_ns[b] = plans.bound_ns[p, r]
    out.delay_left_ns[b] = float(int(plans.bound_ns[p, r] - spent_ns))
    out.lifetime_s[b] = (plans.end_ns[p, r] - plans.start_ns[p, r]) / 1e9
