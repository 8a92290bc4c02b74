"""The heuristics and solvers: what each chooses, and what none of them ever does."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from agents.placement.baselines.chain_cost import StaticCost
from agents.placement.baselines.hindsight import Hindsight, solve_hindsight
from agents.placement.baselines.milp import MilpPolicy
from agents.placement.on_twin import play
from agents.placement.policies import BOUNDS, HEURISTICS, make_policy
from testbed.decisions.placement import Ledger, PlacementObservation, refusal
from testbed.scenario.errors import InputError
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.problems.deciding import POLICIES
from testbed.scenario.types import NS_PER_S, Fault, Placement, Request, RunPlan
from testbed.twin.constants import CostWeights, TwinConstants
from tests.support.twin_support import MS, PROFILES, line_plan, make_request, observe, random_plan

CAREFUL = HEURISTICS
"""All that look at capacity: all but `deft`."""
ONLINE = ("deft", *CAREFUL)


def decide(name: str, seen: PlacementObservation) -> Placement | None:
    return make_policy(name, 1, None, line_plan(())).decide(seen)


def random_states(name: str) -> list[tuple[PlacementObservation, Placement | None]]:
    """What a policy saw and chose on random plans, and for every task in each of those states."""
    found: list[tuple[PlacementObservation, Placement | None]] = []
    for seed in range(3):
        plan = random_plan(seed)
        policy = make_policy(name, 1, None, plan)
        rng = np.random.default_rng(seed)

        def decide(seen: PlacementObservation) -> Placement | None:
            choice = policy.decide(seen)  # noqa: B023
            found.append((seen, choice))
            nodes = rng.choice(len(seen.alive), 2, replace=False)  # noqa: B023
            members = tuple(int(node) for node in nodes)
            for task in ("backup", "move"):
                asked = dataclasses.replace(seen, task=task, members=members)
                found.append((asked, policy.decide(asked)))  # noqa: B023
            return choice

        play([plan], [decide])
    return found


@pytest.mark.parametrize("name", ONLINE)
def test_no_policy_uses_the_dead_or_a_node_twice(name: str) -> None:
    states = random_states(name)
    assert len(states) > 150
    for seen, choice in states:
        if choice is None:
            assert seen.task == "move"
            continue
        assert len(set(choice.nodes)) == len(choice.nodes)
        if seen.task == "backup":
            assert choice.primary == seen.members[0]
            assert choice.backup is not None
        new = {"backup": (choice.backup,), "move": (choice.primary,), "place": choice.nodes}
        added = new[seen.task]
        assert all(node is None or seen.alive[node] for node in added)
        assert not set(added) & set(seen.members)


@pytest.mark.parametrize("name", CAREFUL)
def test_capacity_is_kept_while_any_server_has_it(name: str) -> None:
    checked = 0
    for seen, choice in random_states(name):
        if choice is None or (name == "milp" and seen.task == "place"):
            continue  # the solver weighs the whole chain; see below
        for node, cores in ((choice.primary, seen.primary_cores), (choice.backup, None)):
            if node is None or node in seen.members:
                continue
            needed = seen.backup_cores if cores is None else cores
            others = seen.alive.copy()
            others[[*seen.members, *(() if cores is not None else (choice.primary,))]] = False
            if ((seen.used_cores + needed <= seen.capacity_cores) & others).any():
                assert seen.used_cores[node] + needed <= seen.capacity_cores[node]
                checked += 1
    assert checked > 100


@pytest.mark.parametrize("name", CAREFUL)
def test_a_server_without_memory_is_left_out(name: str) -> None:
    request = make_request(functions=("nat",))
    memory = np.array([1e6, 1e9, 1e6, 1e9])
    choice = decide(name, observe(request, memory_free_bytes=memory))
    assert choice is not None
    assert set(choice.nodes) == {1, 3}
    assert decide(name, observe(request, memory_free_bytes=np.full(4, 1e6))) is None
    alone = np.array([1e6, 1e6, 1e9, 1e6])
    assert decide(name, observe(request, memory_free_bytes=alone)) == Placement(2, None)


@pytest.mark.parametrize("name", CAREFUL)
def test_a_primary_moves_only_to_where_there_is_room(name: str) -> None:
    seen = observe(used={0: 2.0, 1: 0.1, 2: 0.1, 3: 0.99}, task="move", members=(0, 1))
    choice = decide(name, seen)
    assert choice == Placement(2, 1)
    full = observe(used={0: 2.0, 2: 0.99, 3: 0.99}, task="move", members=(0, 1))
    assert decide(name, full) is None


def test_deft_moves_nothing() -> None:
    assert decide("deft", observe(task="move", members=(0, 1))) is None


def test_random_draws_every_pair_and_can_be_repeated() -> None:
    states = [observe(make_request(number)) for number in range(200)]
    drawn = [decide("random", seen) for seen in states]
    assert drawn == [decide("random", seen) for seen in states]
    assert len(set(drawn)) == 12
    assert drawn != [make_policy("random", 2, None).decide(seen) for seen in states]
    full = [decide("random", observe(make_request(n), used={0: 0.99, 2: 0.99})) for n in range(20)]
    assert {choice.primary for choice in full if choice} == {1, 3}


def test_round_robin_goes_on_where_it_stopped() -> None:
    policy = make_policy("round-robin", 1, None)
    assert policy.decide(observe()) == Placement(0, 1)
    assert policy.decide(observe(used={2: 0.9})) == Placement(3, 0)
    assert policy.decide(observe(dead=(2,))) == Placement(1, 3)


def test_first_fit_fills_servers_in_order() -> None:
    assert decide("first-fit", observe()) == Placement(0, 1)
    assert decide("first-fit", observe(used={0: 0.78})) == Placement(1, 0)
    assert decide("first-fit", observe(used={0: 0.8, 1: 0.79})) == Placement(2, 3)


def test_best_fit_takes_the_least_utilisation() -> None:
    # 0.06 cores on 0.5 of 1.0, and on 0.2 of 0.3: the larger server has more left relatively.
    seen = observe(cores=(1.0, 0.3, 1.0, 1.0), used={0: 0.5, 1: 0.2, 2: 0.7, 3: 0.6})
    assert decide("best-fit", seen) == Placement(0, 3)


def test_pl_rank_weighs_free_cores_against_distance() -> None:
    # From 1 to 2 on a line of four: the sums of distances to both ends are 15, 5, 5 and 15 ms, and
    # the mean distances to all 7.5, 5, 5 and 7.5 ms, so an end node needs 4.5 times the free cores.
    request = make_request(source=1, destination=2)
    assert decide("pl-rank", observe(request, cores=(4.0, 1.0, 0.9, 4.0))) == Placement(1, 0)
    assert decide("pl-rank", observe(request, cores=(5.0, 1.0, 0.9, 4.0))) == Placement(0, 1)


def test_greedy_falls_back_to_servers_with_room_before_full_ones() -> None:
    request = make_request(source=1, destination=1)
    full = {0: 0.97, 1: 0.97, 2: 0.9, 3: 0.85}
    assert decide("greedy-delay", observe(request, used=full)) == Placement(2, 1)


def static_cost(seen: PlacementObservation, placements: tuple[Placement, ...]) -> float:
    """The cost that `milp` minimises, computed the slow way."""
    weights, rounds = CostWeights(), TwinConstants().commit_round_trips
    price = seen.rate_pps * (0.5 / seen.delay_bound_ns + 0.5 / (weights.reference_s * NS_PER_S))
    used, latency_ns, here = seen.used_cores.copy(), 0.0, seen.source
    for name, placement in zip(seen.functions, placements, strict=True):
        profile = PROFILES[name]
        latency_ns += seen.delay_ns[here, placement.primary]
        latency_ns += profile.service_ns / seen.capacity_cores[placement.primary]
        latency_ns += 2 * rounds * seen.delay_ns[placement.primary, placement.backup]
        used[placement.primary] += seen.rate_pps * profile.service_ns / NS_PER_S
        used[placement.backup] += seen.rate_pps * profile.backup_service_ns / NS_PER_S
        here = placement.primary
    latency_ns += seen.delay_ns[here, seen.destination]
    load = used / seen.capacity_cores
    if (load > 1.0).any():
        return float("inf")
    crowding = weights.headroom * np.maximum(load - weights.headroom_from, 0.0).sum()
    return float(price * latency_ns + crowding)


@pytest.mark.parametrize("seed", range(6))
def test_milp_finds_what_trying_all_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    request = make_request(
        functions=("nat", "idps", "fw")[: 2 + seed % 2],
        source=int(rng.integers(4)),
        destination=int(rng.integers(4)),
        rate_pps=float(rng.uniform(50, 500)),
    )
    cores = tuple(rng.uniform(0.3, 1.2, 4).tolist())
    used = {node: float(rng.uniform(0.0, 0.6)) * cores[node] for node in range(4)}
    seen = observe(request, cores=cores, used=used, admission=True)
    pairs = [Placement(a, b) for a, b in itertools.permutations(range(4), 2)]
    tried = itertools.product(pairs, repeat=len(request.functions))
    least = min(static_cost(seen, placements) for placements in tried)
    policy = MilpPolicy(line_plan(()).profiles)
    placed: tuple[Placement, ...] = ()
    for _ in request.functions:
        choice = policy.decide(observe(request, placed, cores, used, admission=True))
        assert choice is not None
        placed = (*placed, choice)
    assert static_cost(seen, placed) == pytest.approx(least, rel=1e-6)


def test_milp_solves_a_chain_once_and_again_if_the_state_is_another() -> None:
    policy = MilpPolicy(line_plan(()).profiles)
    request = make_request(source=1, destination=1, functions=("nat", "fw"))
    first = policy.decide(observe(request))
    assert first is not None and first.primary == 1
    second = policy.decide(observe(request, (first,)))
    assert second is not None and second.primary == 1
    # The server that the solution names for the second function has died meanwhile.
    other = policy.decide(observe(request, (first,), dead=(1,)))
    assert other is not None and 1 not in other.nodes
    # Asked about the first function again, it solves again: the request's ends are others.
    afar = policy.decide(observe(make_request(source=3, destination=3)))
    assert afar is not None and afar.primary == 3


def test_milp_rejects_under_admission_and_overloads_without() -> None:
    full = {node: 0.99 for node in range(4)}
    assert decide("milp", observe(used=full, admission=True)) is None
    choice = decide("milp", observe(used=full))
    assert choice is not None
    # Of three servers that are full, one has room for the whole chain but for its backups.
    seen = observe(used={0: 0.99, 1: 0.99, 2: 0.99}, admission=True)
    assert decide("milp", seen) is None


def admission_plan(*requests: Request, cores: tuple[float, ...] = (0.5, 0.5)) -> RunPlan:
    return dataclasses.replace(line_plan(requests, cores), admission=True)


def heavy(number: int, rate_pps: float, arrival_s: float = 0.0, end_s: float = 9.0) -> Request:
    """A request of one NAT from node 0 to 0; 100 packets a second take 0.06 and 0.015 cores."""
    return make_request(
        number,
        destination=0,
        rate_pps=rate_pps,
        arrival_ns=round(arrival_s * NS_PER_S),
        start_ns=round((arrival_s + 0.5) * NS_PER_S),
        end_ns=round(end_s * NS_PER_S),
    )


def hindsight_of(plan: RunPlan) -> Hindsight:
    return solve_hindsight(plan, NS_PER_S)


def test_hindsight_gives_up_a_large_request_for_two_that_come_later() -> None:
    # A primary of 0.36 and its backup of 0.09 on each of two servers of 0.5: two fit. The first
    # request alone takes 0.48 + 0.12; whoever takes it can serve one of the three at most.
    plan = admission_plan(heavy(0, 800.0), heavy(1, 600.0, 0.1), heavy(2, 600.0, 0.2))
    known = hindsight_of(plan)
    assert known.optimal
    assert known.accepted_bound == 2
    assert known.placements[0] is None
    admitted = replay(plan, make_policy("milp-hindsight", 1, None, plan))
    assert sum(each is not None for each in admitted.values()) == 2
    greedy = replay(plan, make_policy("greedy-delay", 1, None))
    assert sum(each is not None for each in greedy.values()) == 1


def test_hindsight_counts_a_server_free_when_its_request_has_drained() -> None:
    for arrival_s, expected in ((3.9, 1), (4.0, 2)):
        plan = admission_plan(heavy(0, 700.0, end_s=3.0), heavy(1, 700.0, arrival_s))
        assert hindsight_of(plan).accepted_bound == expected


def test_hindsight_knows_faults_and_that_backups_take_over() -> None:
    down = (Fault("server-down", 2 * NS_PER_S, 1),)
    requests = (heavy(0, 400.0), heavy(1, 350.0, 3.0))
    plan = dataclasses.replace(admission_plan(*requests, cores=(0.5, 0.5, 0.5)), faults=down)
    known = hindsight_of(plan)
    assert known.accepted_bound == 2
    assert known.placements[1] is not None and 1 not in known.placements[1][0].nodes
    admitted = replay(plan, make_policy("milp-hindsight", 1, None, plan))
    assert all(each is not None for each in admitted.values())


def test_hindsight_without_admission_accepts_all_and_is_never_dearer() -> None:
    plan = dataclasses.replace(random_plan(2), faults=())
    plan = dataclasses.replace(plan, requests=plan.requests[:4])
    known = hindsight_of(plan)
    assert known.accepted_bound == 4
    online = play([plan], [make_policy("milp", 1, None, plan).decide])[0].placements
    assert _total(plan, dict(known.placements)) <= _total(plan, online) * (1 + 2e-3)


def _total(plan: RunPlan, placements: dict[int, tuple[Placement, ...] | None]) -> float:
    """The static cost of a whole plan without faults, second by second."""
    weights, total = CostWeights(), 0.0
    capacity = np.array([server.cpu_cores for server in plan.servers])
    delay_ns = delay_matrix_ns(plan.topology)
    step_ns = NS_PER_S // 1000
    for at_ns in range(0, plan.duration_ns, step_ns):
        factor = 2.0 if at_ns >= 4 * NS_PER_S else 1.0
        used = np.zeros(len(capacity))
        for request in plan.requests:
            placed = placements[request.id]
            if placed is None or not request.start_ns <= at_ns < request.end_ns:
                continue
            ledger = Ledger(plan.servers, plan.profiles, delay_ns)
            ledger.load_factor = factor
            seen = ledger.observe(request, ())
            total += (static_cost(seen, placed) - crowding_of(seen, placed)) * step_ns / NS_PER_S
            ledger.add(request, placed)
            used += ledger.used_cores()
        above = np.maximum(used / capacity - weights.headroom_from, 0.0).sum()
        total += weights.headroom * above * step_ns / NS_PER_S
    return total


def crowding_of(seen: PlacementObservation, placements: tuple[Placement, ...]) -> float:
    used = seen.used_cores.copy()
    for name, placement in zip(seen.functions, placements, strict=True):
        used[placement.primary] += seen.rate_pps * PROFILES[name].service_ns / NS_PER_S
        used[placement.backup] += seen.rate_pps * PROFILES[name].backup_service_ns / NS_PER_S
    weights = CostWeights()
    above = np.maximum(used / seen.capacity_cores - weights.headroom_from, 0.0).sum()
    return float(weights.headroom * above)


def replay(plan: RunPlan, policy: object) -> dict[int, tuple[Placement, ...] | None]:
    """Place a plan's requests one after another with admission control, as a run does."""

    def decide(seen: PlacementObservation) -> Placement | None:
        choice = policy.decide(seen)  # type: ignore[attr-defined]
        return None if choice is None or refusal(seen, choice) else choice

    return play([plan], [decide])[0].placements


def test_all_names_are_made_but_for_those_that_need_what_is_missing() -> None:
    assert set(POLICIES) == {"deft", *HEURISTICS, *BOUNDS, "ppo", "dqn"}
    assert set(HEURISTICS) > {"random", "pl-rank", "milp"}
    for name in ONLINE:
        assert make_policy(name, 1, None).decide(observe()) is not None
    for name, field in (("milp-hindsight", "policy"), ("dqn", "model"), ("ppo", "model")):
        with pytest.raises(InputError) as caught:
            make_policy(name, 1, None)
        assert caught.value.field == field


def test_static_cost_of_delay_is_the_twins() -> None:
    # 100 packets a second, each 10 ms later: half in units of 50 ms, half in units of 30 ms.
    price = StaticCost().of_delay(100.0, 50 * MS)
    assert price * 10 * MS == pytest.approx(100 * (0.5 * 10 / 50 + 0.5 * 10 / 30))
