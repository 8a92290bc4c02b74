"""What a decision is paid for: what the slots to come are expected to cost, as far as is placed.

An episode's cost is paid slot by slot as time passes, long after the decisions that caused it.
With the outlook a decision is paid for at once: its reward is by how much it changes the expected
cost, and a slot that is run pays only the difference from what was expected of it. The rewards of
an episode add up to the same sum. This is potential-based shaping (Ng, Harada and Russell, 1999)
with the outlook as potential; it may know load steps and faults to come, since an observation does
not show it.

The estimate of a server's slot is made of a few sums over what it serves: demand, demand x service
time, and packets by what their waiting costs. It has no memory of queues; the twin has.
"""

from __future__ import annotations

from agents.placement.types import COST, LOAD, SQUARE, WEIGHT, Questions
from testbed.compiled import compiled_sum, compiled_view
from testbed.twin.constants import Rates
from testbed.twin.kernel import wait_cost
from testbed.twin.pack import NEVER_NS
from testbed.twin.state import State, World


@compiled_sum
def _expect(
    world: World,
    state: State,
    asks: Questions,
    b: int,
    node: int,
    request: int,
    service_ns: float,
    weight: float,
    fixed: float,
    from_ns: int,
    to_ns: int,
    sign: float,
) -> float:
    """Add (sign 1) or take away (-1) a member at `node` from the outlook; the change of its sum.

    The member serves `request` between two times; `weight` is what a packet's wait of a second
    costs there, `fixed` what a packet costs anyway.
    """
    plans, factor, rates, p = world.plans, world.factor, world.rates, state.plan[b]
    start_ns = max(from_ns, plans.start_ns[p, request])
    end_ns = min(to_ns, plans.end_ns[p, request])
    if start_ns >= end_ns:
        return 0.0
    slot_ns = rates.slot_s * 1e9
    first, last = int(start_ns / slot_ns), int((end_ns - 1) / slot_ns)
    service_s = service_ns * 1e-9 / plans.capacity_cores[node]
    ahead, outlook = asks.ahead[b, node], asks.outlook[b]
    rate = sign * plans.rate_pps[p, request]
    total = 0.0
    for k in range(first, min(last + 1, outlook.shape[0])):
        share = (min((k + 1) * slot_ns, end_ns * 1.0) - max(k * slot_ns, start_ns * 1.0)) / slot_ns
        packets = rate * factor[p, k] * share
        ahead[LOAD, k] += packets * service_s
        ahead[SQUARE, k] += packets * service_s * service_s
        ahead[WEIGHT, k] += packets * weight
        after = _slot_cost(ahead[LOAD, k], ahead[SQUARE, k], ahead[WEIGHT, k], rates)
        change = (after - ahead[COST, k] + packets * fixed) * rates.slot_s / rates.packets
        ahead[COST, k] = after
        outlook[k] += change
        total += change
    return total


@compiled_sum
def _slot_cost(rho: float, sigma2: float, weight: float, rates: Rates) -> float:
    """What a second of a server costs, in packets; see CostWeights for the parts."""
    bound_s = rates.queue_s
    # The wait of M/G/1, bent to half the bound at capacity and to the bound far above it.
    slack = abs(1.0 - rho)
    below_s = 0.5 * sigma2 / (slack + sigma2 / bound_s + 1e-12)
    over = rho > 1.0
    wait_s = bound_s - below_s if over else below_s
    cost = weight * (wait_s + rates.deviation * below_s)
    cost += rates.headroom * max(0.0, rho - rates.headroom_from)
    if rho >= rates.overload_utilisation:
        cost += rates.overload
    if over:
        # Weight is per second of wait: a lost packet costs as much as rates.loss of reference_s.
        cost += rates.loss * weight * rates.reference_s * (1.0 - 1.0 / rho)
    return cost


@compiled_view
def expect_members(
    world: World, state: State, asks: Questions, b: int, from_ns: int, sign: float
) -> float:
    """Add the group that is asked about to the outlook from a time on; sign -1: take it away."""
    plans, rates, p = world.plans, world.rates, state.plan[b]
    r, f = asks.asked[b, 0], asks.asked[b, 1]
    node, backup = state.primary[b, r, f], state.backup[b, r, f]
    weight = wait_cost(plans, p, r, rates)
    previous = plans.source[p, r] if f == 0 else state.primary[b, r, f - 1]
    end = plans.destination[p, r]
    detour_ns = plans.delay_ns[previous, node] + plans.delay_ns[node, end]
    detour_ns -= plans.delay_ns[previous, end]
    service_ns = plans.service_ns[p, r, f]
    fixed_s = detour_ns * 1e-9 + rates.hop_overhead_s
    fixed_s += service_ns * 1e-9 / plans.capacity_cores[node]
    deaths_ns = plans.death_ns[p]
    total = 0.0
    if backup >= 0:
        commit_s = rates.commit_round_trips * 2.0 * plans.delay_ns[node, backup] * 1e-9
        fixed_s += commit_s + (rates.commit_overhead_s if rates.commit_round_trips > 0.0 else 0.0)
    fixed = min(weight * fixed_s, rates.loss)
    if backup >= 0:
        together_ns = min(deaths_ns[node], deaths_ns[backup])
        total += _expect(
            world, state, asks, b, backup, r, plans.backup_service_ns[p, r, f], 0.0, 0.0,
            from_ns, together_ns, sign,
        )  # fmt: skip
        if deaths_ns[node] < deaths_ns[backup]:  # it takes over
            total += _expect(
                world, state, asks, b, backup, r, service_ns, weight, fixed,
                max(from_ns, deaths_ns[node]), deaths_ns[backup], sign,
            )  # fmt: skip
    total += _expect(
        world, state, asks, b, node, r, service_ns, weight, fixed,
        from_ns, deaths_ns[node], sign,
    )  # fmt: skip
    lost_ns = max(deaths_ns[node], deaths_ns[backup] if backup >= 0 else 0)
    if rates.holds and backup < 0:
        lost_ns = 0
    if lost_ns < NEVER_NS:
        total += _expect(
            world, state, asks, b, node, r, 0.0, 0.0, rates.loss,
            max(from_ns, lost_ns), NEVER_NS, sign,
        )  # fmt: skip
    return total


@compiled_view
def expect_backup(world: World, state: State, asks: Questions, b: int) -> float:
    """Add the new backup of the group that is asked about to the outlook, once it has caught up."""
    plans, p = world.plans, state.plan[b]
    r, f = asks.asked[b, 0], asks.asked[b, 1]
    backup = state.backup[b, r, f]
    together_ns = min(plans.death_ns[p, state.primary[b, r, f]], plans.death_ns[p, backup])
    return _expect(
        world, state, asks, b, backup, r, plans.backup_service_ns[p, r, f], 0.0, 0.0,
        state.joined_ns[b, r, f], together_ns, 1.0,
    )  # fmt: skip
