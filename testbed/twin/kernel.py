"""The twin's compiled core: one slot, what every server and every request goes through in it.

In a slot rates are constant. Servers are queues with a bound (`queueing`); a chain's latency is
path delay and transmission from hop to hop, the wait and service at each primary, and the round
trip to the backup before the output is released (output commit). Not modelled: queueing at links.
"""

from __future__ import annotations

import math

import numpy as np

from testbed.compiled import compiled, compiled_view
from testbed.scenario.types import FloatArray
from testbed.twin.constants import Rates
from testbed.twin.pack import IntArray, PlanArrays
from testbed.twin.queueing import relax, steady_state
from testbed.twin.state import State, World

NS = 1e-9
NS_PER_S = 1e9
"""Times in ns come from seconds by this: with it the bounds of slots are whole numbers, and what
happens just at one, or in the middle, is on the side that its time says."""
HISTOGRAM_LOW_S = 1e-4
HISTOGRAM_HIGH_S = 1e2
HISTOGRAM_BINS = 4000
PACKETS, DELIVERED, LATENCY_S, IN_BOUND, COST = range(5)
"""Columns of the totals of a request; LATENCY_S and IN_BOUND count delivered packets."""
TOTALS = 5


@compiled_view
def load_factor_at(plans: PlanArrays, p: int, at_ns: float) -> float:
    """The factor on every rate of plan `p` at a time."""
    factor = 1.0
    for s in range(plans.step_ns.shape[1]):
        if plans.step_ns[p, s] <= at_ns:
            factor = plans.step_factor[p, s]
    return factor


@compiled_view
def slots_of(plans: PlanArrays, p: int, rates: Rates) -> int:
    """How many slots plan `p` has."""
    count: int = math.ceil(plans.duration_ns[p] * NS / rates.slot_s - 1e-9)
    return count


@compiled
def slot_factors(plans: PlanArrays, rates: Rates, slots: int) -> FloatArray:
    """The load factor of each slot of each plan, in its middle; [P, S]."""
    out = np.empty((plans.requests.shape[0], slots))
    slot_ns = rates.slot_s * NS_PER_S
    for p in range(out.shape[0]):
        for k in range(slots):
            out[p, k] = load_factor_at(plans, p, (k + 0.5) * slot_ns)
    return out


@compiled_view
def serving(
    state: State, deaths_ns: IntArray, b: int, r: int, f: int, at_ns: float, calm: bool
) -> tuple[int, int]:
    """The (primary, backup) that a group has at a time; -1 for none. `calm`: nothing has died.

    A backup counts as primary from the primary's death on, if it had caught up by then.
    """
    primary, backup = state.primary[b, r, f], state.backup[b, r, f]
    if calm:
        return primary, backup
    joined_ns = state.joined_ns[b, r, f]
    if backup >= 0 and (joined_ns > at_ns or deaths_ns[backup] <= at_ns):
        backup = -1
    if deaths_ns[primary] > at_ns:
        return primary, backup
    return backup if joined_ns <= deaths_ns[primary] else -1, -1


@compiled_view
def held(state: State, rates: Rates, b: int, r: int, f: int) -> bool:
    """Whether a group's outputs wait for a backup that nobody has chosen: they are lost here.

    Those of a group that never had a backup wait too.
    """
    return rates.holds and state.backup[b, r, f] < 0


@compiled_view
def gone(plans: PlanArrays, rates: Rates, p: int, r: int, at_ns: int) -> bool:
    """Whether a request's instances are removed by a time: they drain after its last packet."""
    over: bool = plans.end_ns[p, r] + rates.drain_ns <= at_ns
    return over


@compiled_view
def active_share(plans: PlanArrays, p: int, r: int, from_ns: float, to_ns: float) -> float:
    """The share of a slot in which request `r` sends packets."""
    overlap: float = min(to_ns, plans.end_ns[p, r] * 1.0) - max(from_ns, plans.start_ns[p, r] * 1.0)
    return max(0.0, overlap) / (to_ns - from_ns)


@compiled_view
def outage_moments(
    death_ns: float, until_ns: float, from_ns: float, to_ns: float
) -> tuple[float, float]:
    """Mean (s) and mean square (s^2) of what packets of a slot wait for a failover to end."""
    first_s = max(from_ns, death_ns) * NS
    last_s = min(to_ns, until_ns) * NS
    if last_s <= first_s:
        return 0.0, 0.0
    most, least = until_ns * NS - first_s, until_ns * NS - last_s
    slot_s = (to_ns - from_ns) * NS
    mean = (most * most - least * least) / (2.0 * slot_s)
    square = (most * most * most - least * least * least) / (3.0 * slot_s)
    return mean, square


@compiled_view
def _offer(
    plans: PlanArrays,
    state: State,
    rates: Rates,
    b: int,
    r: int,
    rate: float,
    at_ns: float,
    calm: bool,
    load: FloatArray,
) -> None:
    """Add the work of a request to `load` [3, N]: rate x service^(1, 2, 3).

    What an earlier hop drops or holds does not arrive later; drops are those of the slot before.
    """
    p = state.plan[b]
    deaths_ns = plans.death_ns[p]
    for f in range(state.placed[b, r]):
        node, other = serving(state, deaths_ns, b, r, f, at_ns, calm)
        if node < 0:
            return
        service = plans.service_ns[p, r, f] * NS + rates.service_overhead_s
        service /= plans.capacity_cores[node]
        work = rate * service
        load[0, node] += work
        load[1, node] += work * service
        load[2, node] += work * service * service
        if other >= 0:
            service = plans.backup_service_ns[p, r, f] * NS / plans.capacity_cores[other]
            work = rate * service
            load[0, other] += work
            load[1, other] += work * service
            load[2, other] += work * service * service
        if held(state, rates, b, r, f):
            return
        rate *= 1.0 - state.loss[b, node]


@compiled_view
def _serve(
    state: State, b: int, rates: Rates, load: FloatArray, variance: FloatArray
) -> tuple[float, float]:
    """Carry wait and loss of every server over a slot; (overload in server-seconds, cost)."""
    overload_s, cost = 0.0, 0.0
    wait, loss = state.wait_s[b], state.loss[b]
    for n in range(wait.shape[0]):
        rho, sigma2 = load[0, n], load[1, n]
        if rho == 0.0 and wait[n] == 0.0:
            variance[n] = loss[n] = 0.0
            continue
        steady, variance[n], dropped = steady_state(rho, sigma2, load[2, n], rates.queue_s)
        wait[n] = relax(wait[n], steady, rho, sigma2, rates.slot_s)
        # A queue that is still filling drops little: the boundary is far away.
        filled = min(1.0, wait[n] / steady) if steady > 0.0 else 0.0
        loss[n] = dropped * filled * filled
        if rho >= rates.overload_utilisation:
            overload_s += rates.slot_s
            cost += rates.overload * rates.slot_s
        cost += rates.headroom * max(0.0, rho - rates.headroom_from) * rates.slot_s
    return overload_s, cost / rates.packets


@compiled_view
def _chain(
    plans: PlanArrays,
    state: State,
    rates: Rates,
    b: int,
    r: int,
    from_ns: float,
    to_ns: float,
    calm: bool,
    variance: FloatArray,
) -> tuple[float, float, float, float]:
    """(fixed latency s, mean wait s, variance s^2, delivered share) of a request in a slot."""
    p = state.plan[b]
    deaths_ns = plans.death_ns[p]
    fixed, waiting, spread, share = rates.edge_overhead_s, 0.0, 0.0, 1.0
    here, size, switches = plans.source[p, r], plans.l3_bytes[p, r], 0.0
    for f in range(state.placed[b, r]):
        node, other = serving(state, deaths_ns, b, r, f, 0.5 * (from_ns + to_ns), calm)
        if node < 0 or held(state, rates, b, r, f):
            return fixed, waiting, spread, 0.0
        fixed += (plans.delay_ns[here, node] + size * plans.transmit_ns_per_byte[here, node]) * NS
        fixed += rates.hop_overhead_s
        switches += plans.links[here, node] + 1.0
        service = plans.service_ns[p, r, f] * NS + rates.service_overhead_s
        fixed += service / plans.capacity_cores[node]
        waiting += state.wait_s[b, node]
        spread += variance[node]
        share *= 1.0 - state.loss[b, node]
        if other >= 0 and rates.commit_round_trips > 0.0:
            trips = 2.0 * rates.commit_round_trips
            fixed += trips * plans.delay_ns[node, other] * NS + rates.commit_overhead_s
            switches += trips * (plans.links[node, other] + 1.0)
        if not calm:
            mean, square = _outage(plans, state, rates, b, r, f, from_ns, to_ns)
            waiting += mean
            spread += square - mean * mean
        here = node
    end = plans.destination[p, r]
    fixed += (plans.delay_ns[here, end] + size * plans.transmit_ns_per_byte[here, end]) * NS
    switches += plans.links[here, end] + 1.0
    waiting += switches * rates.link_overhead_s
    spread += switches * rates.link_jitter_s * rates.link_jitter_s
    return fixed + rates.hop_overhead_s, waiting, spread, share


@compiled_view
def _outage(
    plans: PlanArrays,
    state: State,
    rates: Rates,
    b: int,
    r: int,
    f: int,
    from_ns: float,
    to_ns: float,
) -> tuple[float, float]:
    """Moments of what packets wait in a slot because their group lost a member.

    They wait from a loss to its detection (a primary whose backup has died waits for commits until
    it is told), with `holds` until a new backup has joined; who waits when the group loses another
    member waits for the end of that. The losses are the last one that was detected, and the first
    of the members that the group has.
    """
    deaths_ns = plans.death_ns[state.plan[b]]
    backup = state.backup[b, r, f]
    died_ns, next_ns = state.died_ns[b, r, f], deaths_ns[state.primary[b, r, f]]
    if backup >= 0 and (rates.holds or rates.commit_round_trips > 0.0):
        next_ns = min(next_ns, deaths_ns[backup])
    waits_ns = rates.detection_ns + (rates.repair_ns if rates.holds else 0)
    mean, square = 0.0, 0.0
    if died_ns <= next_ns < to_ns and next_ns <= died_ns + waits_ns:
        return outage_moments(died_ns * 1.0, (next_ns + waits_ns) * 1.0, from_ns, to_ns)
    for lost_ns in (died_ns, next_ns):
        if lost_ns < to_ns:
            end_ns = (lost_ns + waits_ns) * 1.0
            of_one = outage_moments(lost_ns * 1.0, end_ns, from_ns, to_ns)
            mean += of_one[0]
            square += of_one[1]
    return mean, square


@compiled_view
def packet_cost(plans: PlanArrays, p: int, r: int, latency_s: float, rates: Rates) -> float:
    """What a delivered packet costs that takes `latency_s` (with its deviations)."""
    shortest_s = plans.delay_ns[plans.source[p, r], plans.destination[p, r]] * NS
    cost: float = min((latency_s - shortest_s) * wait_cost(plans, p, r, rates), rates.loss)
    return cost


@compiled_view
def wait_cost(plans: PlanArrays, p: int, r: int, rates: Rates) -> float:
    """What a second of a packet's latency costs."""
    cost: float = 0.5 / (plans.bound_ns[p, r] * NS) + 0.5 / rates.reference_s
    return cost


@compiled_view
def rejection_cost(world: World, p: int, r: int) -> float:
    """What a rejected request costs: as if each of its packets were lost."""
    plans, factor, rates = world.plans, world.factor, world.rates
    slot_ns = rates.slot_s * NS_PER_S
    packets = 0.0
    first = int(plans.start_ns[p, r] / slot_ns)
    for k in range(first, min(int(plans.end_ns[p, r] / slot_ns) + 1, factor.shape[1])):
        share = active_share(plans, p, r, k * slot_ns, (k + 1) * slot_ns)
        packets += plans.rate_pps[p, r] * factor[p, k] * share * rates.slot_s
    return rates.loss * packets / rates.packets


@compiled_view
def run_slot(world: World, state: State, b: int) -> None:
    """Run the next slot of environment `b` with all that is placed in it; see `State.cost`."""
    plans, factor, rates, record = world.plans, world.factor, world.rates, world.record
    recording = record.normal.shape[0] > 0
    p, k = state.plan[b], state.slot[b]
    slot_ns = rates.slot_s * NS_PER_S
    from_ns, to_ns = k * slot_ns, (k + 1) * slot_ns
    middle_ns = 0.5 * (from_ns + to_ns)
    calm = plans.fault_ns[p, 0] >= to_ns
    load = state.load[b]
    load[:] = 0.0
    variance = load[3]
    for i in range(state.active_count[b]):
        r = state.active[b, i]
        share = active_share(plans, p, r, from_ns, to_ns)
        if share > 0.0:
            rate = plans.rate_pps[p, r] * factor[p, k] * share
            _offer(plans, state, rates, b, r, rate, middle_ns, calm, load)
    overload_s, cost = _serve(state, b, rates, load, variance)
    for i in range(state.active_count[b]):
        r = state.active[b, i]
        share = active_share(plans, p, r, from_ns, to_ns)
        if share <= 0.0:
            continue
        packets = plans.rate_pps[p, r] * factor[p, k] * share * rates.slot_s
        fixed, waiting, spread, kept = _chain(
            plans, state, rates, b, r, from_ns, to_ns, calm, variance
        )
        slow_s = fixed + waiting + rates.deviation * math.sqrt(spread)
        each = kept * packet_cost(plans, p, r, slow_s, rates) + (1.0 - kept) * rates.loss
        cost += packets * each / rates.packets
        if recording:
            totals = record.totals[b, r]
            totals[PACKETS] += packets
            totals[DELIVERED] += packets * kept
            totals[LATENCY_S] += packets * kept * (fixed + waiting)
            totals[COST] += packets * each / rates.packets
            bound_s = plans.bound_ns[p, r] * NS
            totals[IN_BOUND] += _spread(
                fixed, waiting, spread, packets * kept, bound_s, record.normal, record.histogram[b]
            )
    if recording:
        for n in range(load.shape[1]):
            record.demand[b, k, n] = load[0, n]
            record.wait_s[b, k, n] = state.wait_s[b, n]
        record.overload_s[b] += overload_s
        record.cost[b] += cost
    state.cost[b, k] = cost
    state.slot[b] = k + 1


@compiled_view
def _spread(
    fixed_s: float,
    waiting_s: float,
    variance: float,
    packets: float,
    bound_s: float,
    normal: FloatArray,
    histogram: FloatArray,
) -> float:
    """Add a slot's packets to the histogram; returns how many are within the bound.

    The wait is taken as gamma-distributed with the mean and variance given; its quantiles are
    those of Wilson and Hilferty (1931).
    """
    scale = HISTOGRAM_BINS / math.log(HISTOGRAM_HIGH_S / HISTOGRAM_LOW_S)
    within = 0.0
    each = packets / normal.shape[0]
    for i in range(normal.shape[0]):
        wait_s = waiting_s
        if waiting_s > 0.0 and variance > 0.0:
            shape = waiting_s * waiting_s / variance
            root = 1.0 - 1.0 / (9.0 * shape) + normal[i] / (3.0 * math.sqrt(shape))
            wait_s = waiting_s * max(0.0, root * root * root)
        latency_s = fixed_s + wait_s
        bin_ = int(scale * math.log(max(latency_s, HISTOGRAM_LOW_S) / HISTOGRAM_LOW_S))
        histogram[min(bin_, HISTOGRAM_BINS - 1)] += each
        if latency_s <= bound_s:
            within += each
    return within
