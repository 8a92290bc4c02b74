"""The digital twin's model in plain Python, to be checked against the documentation by eye.

Nothing here is fast. Time is cut into slots. What happens in a slot (an arrival, a server that is
found dead) happens at its exact time, but counts for the whole slot, and who serves a group in a
slot is who does in its middle. Slot by slot requests offer work to servers, servers are queues
with a bound, and the packets of a request pass its chain. This file has what happens in a slot,
`twin_reference` what is decided between slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from testbed.scenario.types import NS_PER_S, FunctionProfile, Placement, Request, RunPlan
from testbed.twin.constants import CostWeights, TwinConstants
from tests.support.twin_textbook import (
    QUANTILES,
    gamma_quantiles,
    outage_moments,
    overlap,
    paths,
    relax,
    steady_state,
)

NEVER_NS = math.inf
BINS, LOW_S, HIGH_S = 4000, 1e-4, 1e2


@dataclass
class Group:
    """The primary and the backup of one function of a request."""

    function: FunctionProfile
    primary: int
    backup: int | None
    joined_ns: float = 0.0  # from then on the backup takes part
    lost_ns: float = NEVER_NS  # the last loss of a member that was detected and makes outputs wait


@dataclass
class Chain:
    """A request that was accepted and has not left."""

    request: Request
    groups: list[Group]


@dataclass
class Queue:
    """A server in a slot."""

    rho: float = 0.0
    wait_s: float = 0.0
    variance: float = 0.0
    loss: float = 0.0


@dataclass
class Totals:
    """What the packets of a request went through, over all slots."""

    accepted: bool = False
    packets: float = 0.0
    delivered: float = 0.0
    in_bound: float = 0.0
    latency_s: float = 0.0
    cost: float = 0.0


@dataclass
class Outcome:
    """A run; lists by slot and server.

    `placements` are those of accepted requests as they began, `backups` the new ones that joined:
    (request, function, node).
    """

    requests: dict[int, Totals]
    placements: dict[int, tuple[Placement, ...]] = field(default_factory=dict)
    backups: list[tuple[int, int, int]] = field(default_factory=list)
    utilisation: list[list[float]] = field(default_factory=list)
    wait_s: list[list[float]] = field(default_factory=list)
    overload_s: float = 0.0
    cost: float = 0.0
    histogram: list[float] = field(default_factory=lambda: [0.0] * BINS)


class Slots:
    """What the chains that are placed go through, slot by slot."""

    def __init__(self, plan: RunPlan, constants: TwinConstants, weights: CostWeights) -> None:
        self.plan, self.constants, self.weights = plan, constants, weights
        self.paths = paths(plan.topology)
        self.nodes = range(len(plan.servers))
        self.queues = [Queue() for _ in self.nodes]
        self.chains: list[Chain] = []
        self.leaving: list[Chain] = []  # they are gone, but may have sent in the next slot to run
        self.slots_run = 0
        self.out = Outcome({request.id: Totals() for request in plan.requests})

    def run_slots(self, until: int) -> None:
        """Run all slots up to number `until`."""
        while self.slots_run < until:
            self._run_slot(self.slots_run)
            self.slots_run += 1

    def _run_slot(self, slot: int) -> None:
        offered: list[list[tuple[float, float]]] = [[] for _ in self.nodes]
        sending, self.leaving = [*self.chains, *self.leaving], []
        for chain in sending:
            self._offer(chain, slot, offered)
        for node in self.nodes:
            self._serve(self.queues[node], offered[node])
        for chain in sending:
            packets = self.packets(chain.request, slot)
            if packets > 0.0:
                self._pass(chain, slot, packets)
        self.out.utilisation.append([queue.rho for queue in self.queues])
        self.out.wait_s.append([queue.wait_s for queue in self.queues])

    def _offer(self, chain: Chain, slot: int, offered: list[list[tuple[float, float]]]) -> None:
        """Note (packets/s, service time in s) at each server that serves a request in a slot.

        What an earlier hop drops does not arrive later: by what it dropped in the slot before.
        """
        servers = self.plan.servers
        rate = self.packets(chain.request, slot) / self._slot_s
        for group in chain.groups:
            primary, backup = self._serving(group, slot)
            if primary is None or rate == 0.0:
                return
            service_s = self._service_ns(group) / NS_PER_S / servers[primary].cpu_cores
            offered[primary].append((rate, service_s))
            if backup is not None:
                service_s = group.function.backup_service_ns / NS_PER_S / servers[backup].cpu_cores
                offered[backup].append((rate, service_s))
            if self._held(group):
                return
            rate *= 1.0 - self.queues[primary].loss

    def _serve(self, queue: Queue, offered: list[tuple[float, float]]) -> None:
        """A server's wait and drops in a slot, and what its load costs."""
        bound_s, weights = self.constants.queue_ns / NS_PER_S, self.weights
        queue.rho = rho = sum(rate * service_s for rate, service_s in offered)
        sigma2 = sum(rate * service_s**2 for rate, service_s in offered)
        third = sum(rate * service_s**3 for rate, service_s in offered)
        steady_s, queue.variance, dropped = steady_state(rho, sigma2, third, bound_s)
        queue.wait_s = relax(queue.wait_s, steady_s, rho, sigma2, self._slot_s)
        filled = min(1.0, queue.wait_s / steady_s) if steady_s > 0.0 else 0.0
        queue.loss = dropped * filled**2  # a queue that is still filling drops little
        if rho >= self.constants.overload_utilisation:
            self.out.overload_s += self._slot_s
            self.out.cost += weights.overload * self._slot_s / weights.packets
        above = max(0.0, rho - weights.headroom_from)
        self.out.cost += weights.headroom * above * self._slot_s / weights.packets

    def _pass(self, chain: Chain, slot: int, packets: float) -> None:
        """The packets of a request pass its chain in a slot."""
        request, weights, totals = chain.request, self.weights, self.out.requests[chain.request.id]
        fixed_s, wait_s, variance, kept = self._latency(chain, slot)
        shortest_s = self.paths[request.source][request.destination][0] / NS_PER_S
        slow_s = fixed_s + wait_s + weights.deviation * math.sqrt(variance) - shortest_s
        bound_s = request.delay_bound_ns / NS_PER_S
        late = 0.5 * slow_s / bound_s + 0.5 * slow_s / weights.reference_s
        each = min(late, weights.loss)
        cost = packets * (kept * each + (1.0 - kept) * weights.loss) / weights.packets
        self.out.cost += cost
        totals.cost += cost
        totals.packets += packets
        totals.delivered += packets * kept
        totals.latency_s += packets * kept * (fixed_s + wait_s)
        for quantile_s in gamma_quantiles(wait_s, variance):
            latency_s = fixed_s + quantile_s
            place = math.log(max(latency_s, LOW_S) / LOW_S) / math.log(HIGH_S / LOW_S)
            self.out.histogram[min(BINS - 1, int(BINS * place))] += packets * kept / QUANTILES
            if latency_s <= bound_s:
                totals.in_bound += packets * kept / QUANTILES

    def _latency(self, chain: Chain, slot: int) -> tuple[float, float, float, float]:
        """(what every packet takes, mean and variance of the wait, share delivered) in a slot."""
        constants, request = self.constants, chain.request
        fixed_ns, variance, wait_s, switches = constants.edge_overhead_ns, 0.0, 0.0, 0.0
        kept, here = 1.0, request.source
        for group in chain.groups:
            primary, backup = self._serving(group, slot)
            if primary is None or self._held(group):
                return 0.0, 0.0, 0.0, 0.0
            fixed_ns += self._way_ns(request, here, primary)
            fixed_ns += self._service_ns(group) / self.plan.servers[primary].cpu_cores
            switches += self._switches(here, primary)
            if backup is not None and constants.commit_round_trips > 0:
                round_trip_ns = 2.0 * self.paths[primary][backup][0]
                fixed_ns += constants.commit_round_trips * round_trip_ns
                fixed_ns += constants.commit_overhead_ns
                both_ways = 2.0 * constants.commit_round_trips
                switches += both_ways * self._switches(primary, backup)
            queue, (outage_s, outage_variance) = self.queues[primary], self._outage(group, slot)
            wait_s += queue.wait_s + outage_s
            variance += queue.variance + outage_variance
            kept *= 1.0 - queue.loss
            here = primary
        fixed_ns += self._way_ns(request, here, request.destination)
        switches += self._switches(here, request.destination)
        wait_s += switches * constants.link_overhead_ns / NS_PER_S
        variance += switches * (constants.link_jitter_ns / NS_PER_S) ** 2
        return fixed_ns / NS_PER_S, wait_s, variance, kept

    def _service_ns(self, group: Group) -> float:
        return group.function.service_ns + self.constants.service_overhead_ns

    def _switches(self, a: int, b: int) -> float:
        """That a frame passes from `a` to `b`: the one where it starts, and one after each link."""
        return self.paths[a][b][2] + 1.0

    def _way_ns(self, request: Request, a: int, b: int) -> float:
        delay_ns, ns_per_byte, _ = self.paths[a][b]
        return delay_ns + request.l3_bytes * ns_per_byte + self.constants.hop_overhead_ns

    def _outage(self, group: Group, slot: int) -> tuple[float, float]:
        """Packets wait from a loss to its detection, and with `holds` until a backup has joined.

        A primary waits for the commits of a backup that has died, where there are commits.
        The losses are the last one that was detected, and the first of the members that are left.
        """
        left = [self.death_ns(group.primary)]
        lasts_ns = self.constants.detection_ns
        if self.constants.holds:
            lasts_ns += self.constants.repair_ns
        if self.waits_for_backup and group.backup is not None:
            left.append(self.death_ns(group.backup))
        from_s, to_s = slot * self._slot_s, (slot + 1) * self._slot_s
        losses_s = [loss_ns / NS_PER_S for loss_ns in (group.lost_ns, min(left))]
        begun_s = [loss_s for loss_s in losses_s if loss_s < to_s]
        return outage_moments(begun_s, lasts_ns / NS_PER_S, from_s, to_s)

    @property
    def waits_for_backup(self) -> bool:
        """Whether the death of a backup makes packets wait."""
        return self.constants.holds or self.constants.commit_round_trips > 0.0

    def _held(self, group: Group) -> bool:
        """Outputs wait, here for ever, while a group has no backup and none is on its way."""
        return self.constants.holds and group.backup is None

    def _serving(self, group: Group, slot: int) -> tuple[int | None, int | None]:
        """Who is primary and who is backup in the middle of a slot.

        Before a death is detected the backup, if it has caught up, already counts as primary; what
        packets wait until it is one is `_outage`.
        """
        at_ns = (slot + 0.5) * self.constants.slot_ns
        primary_died_ns, backup = self.death_ns(group.primary), group.backup
        if backup is not None and (group.joined_ns > at_ns or self.death_ns(backup) <= at_ns):
            backup = None
        if primary_died_ns > at_ns:
            return group.primary, backup
        if backup is not None and group.joined_ns > primary_died_ns:
            backup = None
        return backup, None

    # ---------------------------------------------------------------------------- what is given

    @property
    def _slot_s(self) -> float:
        return self.constants.slot_ns / NS_PER_S

    def packets(self, request: Request, slot: int) -> float:
        """How many packets a request sends in a slot, at the load factor of the slot's middle."""
        slot_ns = self.constants.slot_ns
        sends_ns = overlap(slot * slot_ns, (slot + 1) * slot_ns, request.start_ns, request.end_ns)
        return request.rate_pps * self.load_factor((slot + 0.5) * slot_ns) * sends_ns / NS_PER_S

    def load_factor(self, at_ns: float) -> float:
        """What all rates are multiplied by at a time."""
        factor = 1.0
        for step_ns, value in self.plan.load_steps:
            if step_ns <= at_ns:
                factor = value
        return factor

    def death_ns(self, node: int | None) -> float:
        """When the server at a node dies."""
        return min((f.at_ns for f in self.plan.faults if f.node == node), default=NEVER_NS)
