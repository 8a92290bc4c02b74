"""The twin's compiled core: slot after slot, what every server and every request goes through.

In a slot rates are constant. Servers are queues with a bound (`queueing`); a chain's latency is
path delay and transmission from hop to hop, the wait and service at each primary, and the round
trip to the backup before the output is released (output commit). Not modelled: queueing at links.

Numba's cache on disk sees changes of the file that a function is in, not of what it calls: after
a change here, remove testbed/twin/__pycache__.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from testbed.scenario.placement import BoolArray, FloatArray
from testbed.twin.constants import Rates
from testbed.twin.pack import NEVER_NS, IntArray, PlanArrays
from testbed.twin.queueing import relax, steady_state

NS = 1e-9
HISTOGRAM_LOW_S = 1e-4
HISTOGRAM_HIGH_S = 1e2
HISTOGRAM_BINS = 4000
PACKETS, DELIVERED, LATENCY_S, IN_BOUND, COST = range(5)
"""Columns of the totals of a request; LATENCY_S and IN_BOUND count delivered packets."""
TOTALS = 5


@numba.njit(cache=True, inline="always")
def load_factor_at(plans: PlanArrays, p: int, at_ns: float) -> float:
    """The factor on every rate of plan `p` at a time."""
    factor = 1.0
    for s in range(plans.step_ns.shape[1]):
        if plans.step_ns[p, s] <= at_ns:
            factor = plans.step_factor[p, s]
    return factor


@numba.njit(cache=True, inline="always")
def mark_deaths(plans: PlanArrays, p: int, at_ns: float, death_ns: IntArray) -> None:
    """Write into `death_ns` [N] when each server died, NEVER_NS if not by `at_ns`."""
    death_ns[:] = NEVER_NS
    for k in range(plans.fault_ns.shape[1]):
        at = plans.fault_ns[p, k]
        if at <= at_ns:
            node = plans.fault_node[p, k]
            death_ns[node] = min(death_ns[node], at)


@numba.njit(cache=True, inline="always")
def serving(primary: int, backup: int, death_ns: IntArray) -> tuple[int, int]:
    """The (primary, backup) that a group has now; -1 for none. A lost member is not replaced."""
    backup_alive = backup >= 0 and death_ns[backup] == NEVER_NS
    if primary >= 0 and death_ns[primary] == NEVER_NS:
        return primary, backup if backup_alive else -1
    return backup if backup_alive else -1, -1


@numba.njit(cache=True, inline="always")
def active_share(plans: PlanArrays, p: int, r: int, from_ns: float, to_ns: float) -> float:
    """The share of a slot in which request `r` sends packets."""
    overlap: float = min(to_ns, plans.end_ns[p, r] * 1.0) - max(from_ns, plans.start_ns[p, r] * 1.0)
    return max(0.0, overlap) / (to_ns - from_ns)


@numba.njit(cache=True, inline="always")
def outage_moments(
    death_ns: int, from_ns: float, to_ns: float, detection_s: float
) -> tuple[float, float]:
    """Mean (s) and mean square (s^2) of what packets of a slot wait for a failover to end."""
    until_s = death_ns * NS + detection_s
    first_s = max(from_ns, death_ns * 1.0) * NS
    last_s = min(to_ns * NS, until_s)
    if last_s <= first_s:
        return 0.0, 0.0
    most, least, slot_s = until_s - first_s, until_s - last_s, (to_ns - from_ns) * NS
    mean = (most * most - least * least) / (2.0 * slot_s)
    square = (most * most * most - least * least * least) / (3.0 * slot_s)
    return mean, square


@numba.njit(cache=True, inline="always")
def _offer(
    plans: PlanArrays,
    p: int,
    r: int,
    count: int,
    rate: float,
    primary: IntArray,
    backup: IntArray,
    death_ns: IntArray,
    loss: FloatArray,
    load: FloatArray,
) -> None:
    """Add the work of the first `count` functions of a request to `load` [3, N].

    Rows: rate x service^(1, 2, 3). What an earlier hop drops does not arrive later.
    """
    for f in range(count):
        node, other = serving(primary[f], backup[f], death_ns)
        if node < 0:
            return
        service = plans.service_ns[p, r, f] * NS / plans.capacity_cores[node]
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
        rate *= 1.0 - loss[node]


@numba.njit(cache=True, inline="always")
def _serve(
    load: FloatArray,
    rates: Rates,
    wait_before: FloatArray,
    wait: FloatArray,
    loss: FloatArray,
    variance: FloatArray,
) -> tuple[float, float]:
    """Fill wait, loss and variance [N] of a slot; returns (overload in server-seconds, cost)."""
    overload_s, cost = 0.0, 0.0
    for n in range(wait.shape[0]):
        rho, sigma2 = load[0, n], load[1, n]
        steady, spread, dropped = steady_state(rho, sigma2, load[2, n], rates.queue_s)
        wait[n] = relax(wait_before[n], steady, rho, sigma2, rates.slot_s)
        variance[n] = spread
        # A queue that is still filling drops little: the boundary is far away.
        filled = min(1.0, wait[n] / steady) if steady > 0.0 else 0.0
        loss[n] = dropped * filled * filled
        if rho >= rates.overload_utilisation:
            overload_s += rates.slot_s
        cost += rates.headroom * max(0.0, rho - rates.headroom_from) * rates.slot_s
    return overload_s, cost / rates.packets


@numba.njit(cache=True, inline="always")
def _chain(
    plans: PlanArrays,
    p: int,
    r: int,
    count: int,
    primary: IntArray,
    backup: IntArray,
    death_ns: IntArray,
    rates: Rates,
    wait: FloatArray,
    loss: FloatArray,
    variance: FloatArray,
    from_ns: float,
) -> tuple[float, float, float, float]:
    """(fixed latency s, mean wait s, variance s^2, delivered share) of a request in a slot."""
    fixed, waiting, spread, share = 0.0, 0.0, 0.0, 1.0
    here, size = plans.source[p, r], plans.l3_bytes[p, r]
    for f in range(count):
        node, other = serving(primary[f], backup[f], death_ns)
        if node < 0:
            return fixed, waiting, spread, 0.0
        fixed += (plans.delay_ns[here, node] + size * plans.transmit_ns_per_byte[here, node]) * NS
        fixed += rates.hop_overhead_s
        fixed += plans.service_ns[p, r, f] * NS / plans.capacity_cores[node]
        waiting += wait[node]
        spread += variance[node]
        share *= 1.0 - loss[node]
        if other >= 0 and rates.commit_round_trips > 0.0:
            fixed += rates.commit_round_trips * 2.0 * plans.delay_ns[node, other] * NS
            fixed += rates.commit_overhead_s
        if node != primary[f]:
            to_ns = from_ns + rates.slot_s / NS
            mean, square = outage_moments(death_ns[primary[f]], from_ns, to_ns, rates.detection_s)
            waiting += mean
            spread += square - mean * mean
        here = node
    end = plans.destination[p, r]
    fixed += (plans.delay_ns[here, end] + size * plans.transmit_ns_per_byte[here, end]) * NS
    return fixed + rates.hop_overhead_s, waiting, spread, share


@numba.njit(cache=True, inline="always")
def packet_cost(plans: PlanArrays, p: int, r: int, latency_s: float, rates: Rates) -> float:
    """What a delivered packet costs that takes `latency_s` (with its deviations)."""
    shortest_s = plans.delay_ns[plans.source[p, r], plans.destination[p, r]] * NS
    extra_s = latency_s - shortest_s
    cost: float = 0.5 * extra_s / (plans.bound_ns[p, r] * NS) + 0.5 * extra_s / rates.reference_s
    return cost


@numba.njit(cache=True)
def rejection_cost(plans: PlanArrays, p: int, r: int, rates: Rates) -> float:
    """What a rejected request costs: as if each of its packets were lost."""
    packets = 0.0
    for k in range(slots_of(plans, p, rates)):
        from_ns = k * rates.slot_s / NS
        to_ns = from_ns + rates.slot_s / NS
        factor = load_factor_at(plans, p, 0.5 * (from_ns + to_ns))
        share = active_share(plans, p, r, from_ns, to_ns)
        packets += plans.rate_pps[p, r] * factor * share * rates.slot_s
    return rates.loss * packets / rates.packets


@numba.njit(cache=True)
def slots_of(plans: PlanArrays, p: int, rates: Rates) -> int:
    """How many slots plan `p` has."""
    count: int = math.ceil(plans.duration_ns[p] * NS / rates.slot_s - 1e-9)
    return count


@numba.njit(cache=True)
def run_slots(
    plans: PlanArrays,
    p: int,
    first: int,
    placed: IntArray,
    primary: IntArray,
    backup: IntArray,
    rates: Rates,
    wait: FloatArray,
    loss: FloatArray,
    slot_cost: FloatArray,
    record: bool,
    demand: FloatArray,
    totals: FloatArray,
    normal: FloatArray,
    histogram: FloatArray,
) -> float:
    """Run plan `p` from slot `first` to its end; returns the overload in server-seconds.

    placed [R]: how many functions of each request have been placed (0: none, or rejected);
    primary, backup [R, F]: their nodes, -1 for no backup. wait, loss [S, N] and slot_cost [S]
    are read before `first` and written from there on. With `record`, demand [S, N], totals
    [R, TOTALS] and histogram [HISTOGRAM_BINS] (packets by latency) are filled as well; `normal`
    holds the standard normal quantiles that stand for a slot's packets.
    """
    nodes = plans.capacity_cores.shape[0]
    death_ns = np.empty(nodes, dtype=np.int64)
    load, variance = np.empty((3, nodes)), np.empty(nodes)
    nothing = np.zeros(nodes)
    overload_s = 0.0
    for k in range(first, slots_of(plans, p, rates)):
        from_ns = k * rates.slot_s / NS
        to_ns = from_ns + rates.slot_s / NS
        middle_ns = 0.5 * (from_ns + to_ns)
        factor = load_factor_at(plans, p, middle_ns)
        mark_deaths(plans, p, middle_ns, death_ns)
        before, lost = (wait[k - 1], loss[k - 1]) if k > 0 else (nothing, nothing)
        load[:] = 0.0
        for r in range(plans.requests[p]):
            share = active_share(plans, p, r, from_ns, to_ns) if placed[r] > 0 else 0.0
            if share > 0.0:
                rate = plans.rate_pps[p, r] * factor * share
                _offer(plans, p, r, placed[r], rate, primary[r], backup[r], death_ns, lost, load)
        slot_overload_s, cost = _serve(load, rates, before, wait[k], loss[k], variance)
        overload_s += slot_overload_s
        for r in range(plans.requests[p]):
            share = active_share(plans, p, r, from_ns, to_ns) if placed[r] > 0 else 0.0
            if share <= 0.0:
                continue
            packets = plans.rate_pps[p, r] * factor * share * rates.slot_s
            fixed, waiting, spread, kept = _chain(
                plans, p, r, placed[r], primary[r], backup[r], death_ns, rates, wait[k], loss[k],
                variance, from_ns,
            )  # fmt: skip
            slow_s = fixed + waiting + rates.deviation * math.sqrt(spread)
            each = kept * packet_cost(plans, p, r, slow_s, rates) + (1.0 - kept) * rates.loss
            cost += packets * each / rates.packets
            if record:
                totals[r, PACKETS] += packets
                totals[r, DELIVERED] += packets * kept
                totals[r, LATENCY_S] += packets * kept * (fixed + waiting)
                totals[r, COST] += packets * each / rates.packets
                bound_s = plans.bound_ns[p, r] * NS
                totals[r, IN_BOUND] += _spread(
                    fixed, waiting, spread, packets * kept, bound_s, normal, histogram
                )
        slot_cost[k] = cost
        if record:
            demand[k] = load[0]
    return overload_s


@numba.njit(cache=True, inline="always")
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


def unused() -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """What to pass for demand, totals, normal and histogram when nothing is recorded."""
    return np.zeros((1, 1)), np.zeros((1, TOTALS)), np.zeros(1), np.zeros(1)


@numba.njit(cache=True, inline="always")
def alive_at(plans: PlanArrays, p: int, at_ns: float, alive: BoolArray) -> None:
    """Write into `alive` [N] which servers are up."""
    alive[:] = True
    for k in range(plans.fault_ns.shape[1]):
        if plans.fault_ns[p, k] <= at_ns:
            alive[plans.fault_node[p, k]] = False
