"""The digital twin's decisions in plain Python; what happens in a slot is in `twin_slots`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from testbed.scenario.types import NS_PER_S, Fault, Placement, Request
from tests.support.twin_slots import Chain, Group, Outcome, Slots


@dataclass(frozen=True)
class Seen:
    """What is shown when something is to be decided; names as in PlacementObservation."""

    now_ns: float
    task: str
    members: tuple[int, ...]
    request: int
    function_index: int
    rate_pps: float
    primary_cores: float
    backup_cores: float
    memory_bytes: int
    delay_left_ns: int
    lifetime_s: float
    placed: tuple[Placement, ...]
    alive: list[bool]
    capacity_cores: list[float]
    used_cores: list[float]
    memory_free_bytes: list[float]
    held: list[float]
    delay_from_previous_ns: list[float]
    delay_to_egress_ns: list[float]


Decide = Callable[[Seen], Placement | None]


@dataclass(frozen=True)
class Moving:
    """A primary is on its way to another node."""

    chain: Chain
    group: Group
    here: int
    node: int
    done_ns: float


class Reference(Slots):
    """One plan with a policy, from its first arrival to its end."""

    now_ns = 0.0
    quiet_ns = 0.0
    moving: Moving | None = None

    def run(self, decide: Decide) -> Outcome:
        """Let `decide` decide; a server that is found dead comes before arrivals of that time."""
        found: list[tuple[float, int, int, Fault | Request]] = []
        for number, fault in enumerate(self.plan.faults):
            detected_ns = fault.at_ns + self.constants.detection_ns
            if detected_ns < self.plan.duration_ns:
                found.append((detected_ns, 0, number, fault))
        for request in self.plan.requests:
            found.append((request.arrival_ns, 1, request.id, request))
        found.sort(key=lambda one: one[:3])
        self.high = [0 for _ in self.nodes]
        slots = math.ceil(self.plan.duration_ns / self.constants.slot_ns)
        while True:
            moved_ns = math.inf if self.moving is None else self.moving.done_ns
            at_ns = min(moved_ns, found[0][0] if found else math.inf)
            until = slots if at_ns == math.inf else int(at_ns // self.constants.slot_ns)
            if self._run_until_overload(min(slots, until), decide):
                continue  # a move may have begun
            if at_ns == math.inf:
                return self.out
            self._now(at_ns)
            if moved_ns == at_ns:
                self._moved()
                continue
            event = found.pop(0)[3]
            if isinstance(event, Fault):
                self._detected(event, decide)
            else:
                self._arrived(event, decide)

    def _now(self, at_ns: float) -> None:
        self.now_ns = at_ns
        drain_ns = self.constants.drain_ns
        stays = [chain.request.end_ns + drain_ns > at_ns for chain in self.chains]
        self.leaving += [c for c, stay in zip(self.chains, stays, strict=True) if not stay]
        self.chains = [c for c, stay in zip(self.chains, stays, strict=True) if stay]

    # ------------------------------------------------------------------------- what is moved

    def _run_until_overload(self, until: int, decide: Decide) -> bool:
        """Run slots up to number `until`, or to one after which it is asked what moves."""
        while self.slots_run < until:
            self.run_slots(self.slots_run + 1)
            node = self._overloaded()
            if node is not None:
                self._now(self.slots_run * self.constants.slot_ns)
                self._ask_moves(node, decide)
                return True
        return False

    def _overloaded(self) -> int | None:
        """The busiest server that has been above `move_above` for long enough."""
        slot_ns = self.constants.slot_ns
        end_ns = self.slots_run * slot_ns
        due = []
        for node in self.nodes:
            rho = self.queues[node].rho
            high = rho > self.constants.move_above and self.death_ns(node) > end_ns
            if end_ns < self.quiet_ns or self.moving is not None:
                high = False
            self.high[node] = self.high[node] + 1 if high else 0
            if high and self.high[node] * slot_ns >= self.constants.move_hold_ns:
                due.append((-rho, node))
        return min(due)[1] if due and end_ns < self.plan.duration_ns else None

    def _ask_moves(self, node: int, decide: Decide) -> None:
        """Ask about the primaries at a node, the most work first, until one moves."""
        self.quiet_ns = self.now_ns + self.constants.move_cool_ns
        found = [
            (chain, number, group)
            for chain in self.chains
            for number, group in enumerate(chain.groups)
            if group.primary == node
            and chain.request.start_ns <= self.now_ns < chain.request.end_ns
        ]
        found.sort(key=lambda one: -one[0].request.rate_pps * one[2].function.service_ns)
        for chain, number, group in found:
            members = (group.primary,) if group.backup is None else (group.primary, group.backup)
            seen = self.seen("move", chain.request, chain.groups[:number], members, self.chains)
            choice = decide(seen)
            if choice is not None and self._can_move(seen, group, choice.primary):
                self.moving = Moving(
                    chain, group, node, choice.primary, self._done_ns(group, choice)
                )
                return

    def _can_move(self, seen: Seen, group: Group, node: int) -> bool:
        if node == group.primary or self._held(group):
            return False
        return node == group.backup or self._admitted(seen, node, seen.primary_cores)

    def _done_ns(self, group: Group, choice: Placement) -> float:
        """A backup is there as soon as it has caught up."""
        if choice.primary == group.backup:
            return max(self.now_ns, group.joined_ns)
        return self.now_ns + self.constants.repair_ns

    def _moved(self) -> None:
        moving, self.moving = self.moving, None
        assert moving is not None
        group = moving.group
        alive = min(self.death_ns(moving.here), self.death_ns(moving.node)) > self.now_ns
        if alive and moving.chain in self.chains and group.primary == moving.here:
            if group.backup == moving.node:
                group.backup, group.joined_ns = moving.here, self.now_ns
            group.primary = moving.node

    # ------------------------------------------------------------------------- what is decided

    def _arrived(self, request: Request, decide: Decide) -> None:
        """Place a request function by function; one that is refused anywhere is rejected."""
        groups: list[Group] = []
        for name in request.functions:
            seen = self.seen("place", request, groups, (), [*self.chains, Chain(request, groups)])
            choice = decide(seen)
            if choice is None or not self._admitted(seen, choice.primary, seen.primary_cores):
                return self._rejected(request)
            backup = choice.backup
            if backup == choice.primary or self.plan.backups == 0:
                backup = None
            if backup is not None and not self._admitted(seen, backup, seen.backup_cores):
                backup = None
            if backup is None and self.plan.admission and self.plan.backups > 0:
                return self._rejected(request)
            groups.append(Group(self.plan.profiles[name], choice.primary, backup))
        self.out.requests[request.id].accepted = True
        self.out.placements[request.id] = tuple(Placement(g.primary, g.backup) for g in groups)
        self.chains.append(Chain(request, groups))

    def _rejected(self, request: Request) -> None:
        """Every packet that it would have sent costs as much as a lost one."""
        packets = 0.0
        for slot in range(math.ceil(self.plan.duration_ns / self.constants.slot_ns)):
            packets += self.packets(request, slot)
        cost = packets * self.weights.loss / self.weights.packets
        self.out.requests[request.id].cost = cost
        self.out.cost += cost

    def _detected(self, fault: Fault, decide: Decide) -> None:
        """Promote the backups of the primaries at a dead server, then ask for new backups."""
        wanting = []
        for chain in self.chains:
            for number, group in enumerate(chain.groups):
                if fault.node not in (group.primary, group.backup):
                    continue
                if group.primary == fault.node:
                    caught_up = group.backup is not None and group.joined_ns <= fault.at_ns
                    if not caught_up or self.death_ns(group.backup) <= self.now_ns:
                        group.backup = None  # nobody is left
                        continue
                    assert group.backup is not None
                    group.primary, group.backup = group.backup, None
                    group.lost_ns = fault.at_ns
                else:
                    group.backup = None
                    if self.waits_for_backup:
                        group.lost_ns = fault.at_ns
                if self.constants.replaces and chain.request.end_ns > self.now_ns:
                    wanting.append((chain, number, group))
        for chain, number, group in wanting:
            before = chain.groups[:number]
            seen = self.seen("backup", chain.request, before, (group.primary,), self.chains)
            choice = decide(seen)
            if choice is None or choice.backup is None or choice.backup == group.primary:
                continue
            if self.plan.backups == 0:
                continue
            if self._admitted(seen, choice.backup, seen.backup_cores):
                group.backup = choice.backup
                group.joined_ns = self.now_ns + self.constants.repair_ns
                self.out.backups.append((chain.request.id, number, choice.backup))

    def _admitted(self, seen: Seen, node: int, cores: float) -> bool:
        """A server that is known to be dead takes nothing; with admission none takes too much."""
        if not seen.alive[node]:
            return False
        if not self.plan.admission:
            return True
        enough = seen.used_cores[node] + cores <= seen.capacity_cores[node]
        return enough and seen.memory_bytes <= seen.memory_free_bytes[node]

    def seen(
        self,
        task: str,
        request: Request,
        before: Sequence[Group],
        members: tuple[int, ...],
        chains: Sequence[Chain],
    ) -> Seen:
        """What is shown for function number `len(before)`; `chains` is all that counts as used."""
        servers, load = self.plan.servers, self.load_factor(self.now_ns)
        used, held = [0.0] * len(servers), [0.0] * len(servers)
        memory = [float(server.memory_bytes) for server in servers]
        for chain in chains:
            rate = chain.request.rate_pps * load
            for group in chain.groups:
                costs = {group.primary: group.function.service_ns}
                if group.backup is not None:
                    costs[group.backup] = group.function.backup_service_ns
                for node, cost_ns in costs.items():
                    used[node] += rate * cost_ns / NS_PER_S
                    memory[node] -= group.function.memory_bytes
                    held[node] += chain.request is request
        here, spent_ns = request.source, 0.0
        for group in before:
            spent_ns += self.paths[here][group.primary][0]
            spent_ns += group.function.service_ns / servers[group.primary].cpu_cores
            here = group.primary
        profile = self.plan.profiles[request.functions[len(before)]]
        rate = request.rate_pps * load
        known_ns = self.now_ns - self.constants.detection_ns
        return Seen(
            now_ns=self.now_ns,
            task=task,
            members=members,
            request=request.id,
            function_index=len(before),
            rate_pps=rate,
            primary_cores=rate * profile.service_ns / NS_PER_S,
            backup_cores=rate * profile.backup_service_ns / NS_PER_S,
            memory_bytes=profile.memory_bytes,
            delay_left_ns=int(request.delay_bound_ns - spent_ns),
            lifetime_s=(request.end_ns - request.start_ns) / NS_PER_S,
            placed=tuple(Placement(group.primary, group.backup) for group in before),
            alive=[self.death_ns(node) > known_ns for node in self.nodes],
            capacity_cores=[server.cpu_cores for server in servers],
            used_cores=used,
            memory_free_bytes=memory,
            held=held,
            delay_from_previous_ns=[self.paths[here][node][0] for node in self.nodes],
            delay_to_egress_ns=[self.paths[node][request.destination][0] for node in self.nodes],
        )
