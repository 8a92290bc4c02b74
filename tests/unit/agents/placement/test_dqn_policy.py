"""The DQN as a placement policy: what it may answer, and what the network is shown."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from agents.placement.dqn_policy import DqnPolicy, candidates, chain_type, shown
from agents.placement.on_twin import play
from agents.provisioning import observation_columns as columns
from agents.provisioning.config import DqnConfig
from agents.provisioning.model import make_network
from agents.provisioning.packing import FULL
from agents.provisioning.types import ACTIONS, CHAINS, VNF_NAMES, WAIT
from testbed.decisions.placement import Ledger, PlacementObservation, refusal
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.types import FunctionName, Placement
from tests.support.twin_support import line_plan, make_request, random_plan


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Constant(nn.Module):
    """Allocating is worth `gain` more than waiting, wherever it is asked."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self._values = torch.full((ACTIONS,), gain)
        self._values[WAIT] = 0.0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self._values.expand(len(rows), -1)


WILLING, UNWILLING = DqnPolicy(Constant(1.0)), DqnPolicy(Constant(-1.0))


def observe(
    used: dict[int, float] | None = None,
    dead: tuple[int, ...] = (),
    **changes: object,
) -> PlacementObservation:
    """A line of four servers of one core; the request goes from the first to the last."""
    plan = line_plan((), (1.0, 1.0, 1.0, 1.0))
    ledger = Ledger(plan.servers, plan.profiles, delay_matrix_ns(plan.topology))
    for number, (node, demand) in enumerate((used or {}).items()):
        other = make_request(100 + number, rate_pps=demand / 600e-6)
        ledger.add(other, (Placement(node, None),))
    for node in dead:
        ledger.server_down(node)
    seen = ledger.observe(make_request(functions=("nat", "fw")), ())
    return dataclasses.replace(seen, **changes)  # type: ignore[arg-type]


def test_the_first_willing_server_along_the_path_gets_the_primary() -> None:
    chosen = WILLING.decide(observe())
    assert chosen is not None and chosen.backup is not None
    seen = observe()
    added_ns = seen.delay_from_previous_ns + seen.delay_to_egress_ns
    by_delay = np.argsort(added_ns, kind="stable")
    assert [chosen.primary, chosen.backup] == by_delay[:2].tolist()


def test_a_network_that_waits_everywhere_rejects() -> None:
    assert UNWILLING.decide(observe()) is None
    assert UNWILLING.decide(observe(task="move", members=(0, 1))) is None


def test_a_lost_backup_is_replaced_whether_the_network_is_willing_or_not() -> None:
    for policy in (WILLING, UNWILLING):
        chosen = policy.decide(observe(task="backup", members=(1, 2)))
        assert chosen is not None
        assert chosen.primary == 1
        assert chosen.backup in (0, 3)
    everywhere = observe(task="backup", members=(1, 2), dead=(0, 3))
    assert WILLING.decide(everywhere) is None


def test_a_primary_moves_to_no_member() -> None:
    chosen = WILLING.decide(observe(task="move", members=(0, 1)))
    assert chosen is not None
    assert chosen.primary in (2, 3)


def test_servers_without_room_are_asked_only_where_there_is_no_other() -> None:
    full = {0: 1.0, 1: 1.0, 2: 1.0}
    assert np.flatnonzero(candidates(observe(full), 0.1)).tolist() == [3]
    all_full = {node: 1.0 for node in range(4)}
    assert candidates(observe(all_full), 0.1).all()
    assert not candidates(observe(all_full, admission=True), 0.1).any()
    assert WILLING.decide(observe(all_full, admission=True)) is None
    no_memory = observe(memory_free_bytes=np.zeros(4))
    assert not candidates(no_memory, 0.1).any()


@pytest.mark.parametrize("name", ["nat", "fw", "tm", "voc", "wo", "idps", "lb"])
def test_each_function_has_a_place_in_a_chain_of_the_paper(name: FunctionName) -> None:
    kind, stage = chain_type(observe(functions=("tm", name), function_index=1))
    expected = "nat" if name == "lb" else name
    assert VNF_NAMES[CHAINS[kind][stage]] == expected


def test_the_type_is_the_one_that_fits_best() -> None:
    industry = chain_type(observe(functions=("nat", "fw"), function_index=1))
    assert industry == (5, 1)
    assert chain_type(observe(functions=("nat", "fw", "tm", "fw", "nat"), function_index=3)) == (
        2,
        3,
    )


def test_the_network_sees_capacity_use_and_the_way() -> None:
    seen = observe({0: 0.5}, capacity_cores=np.array([1.0, 0.5, 0.02, 1.0]))
    asked = np.array([0, 3])
    out = shown(seen, asked, seen.primary_cores, *chain_type(seen))
    # The fastest server has 120 CPU.
    assert out.own[:, columns.CAPACITY].tolist() == pytest.approx([1.0, 1.0])
    assert out.own[:, columns.CPU_FREE].tolist() == pytest.approx([0.5, 1.0])
    assert out.centres[0, :, 1].tolist() == pytest.approx([1.0, 0.5, 0.1, 1.0])  # 12 at least
    assert out.centres[0, :, 4].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert out.centres[1, :, 4].tolist() == [0.0, 0.0, 0.0, 1.0]
    nat_left = columns.HEAD + columns.VNF_LEFT  # the NAT is the first of the VNFs
    assert out.own[0, nat_left] > out.own[1, nat_left]  # a NAT far down the path has less time left


@pytest.mark.parametrize("name", ["nat", "fw", "idps", "voc", "tm", "wo"])
def test_a_request_is_not_shown_as_one_that_should_wait_for_others(name: FunctionName) -> None:
    seen = observe(functions=(name,), function_index=0)
    out = shown(seen, np.array([0]), seen.primary_cores, *chain_type(seen))
    at = columns.HEAD + columns.EACH * VNF_NAMES.index(name)
    assert out.own[0, at + columns.VNF_PACKED] >= FULL
    assert out.own[0, at + columns.VNF_ADVISED] == 1.0


def test_living_servers_are_shown_and_dead_ones_are_not() -> None:
    seen = observe(dead=(1,))
    out = shown(seen, np.array([0, 3]), seen.primary_cores, *chain_type(seen))
    assert out.present.tolist() == [[True, False, True, True]] * 2
    assert out.centres[1, :, 1].tolist() == pytest.approx([1.0, 0.0, 1.0, 1.0])
    asleep = observe(dead=(0,), delay_left_ns=1)  # the server of the source is dead
    out = shown(asleep, np.array([1]), asleep.primary_cores, *chain_type(asleep))
    assert out.present.tolist() == [[False, True, True, True]]
    assert out.centres.max() <= 1.0 and out.pending.min() >= 0.0


def test_a_bound_that_the_way_alone_breaks_is_seen_as_hopeless() -> None:
    seen = observe(delay_left_ns=1)
    out = shown(seen, np.array([0, 3]), seen.primary_cores, *chain_type(seen))
    assert not out.mask[:, 0].any()
    easy = observe()
    out = shown(easy, np.array([0, 3]), easy.primary_cores, *chain_type(easy))
    assert out.mask[:, 0].all()


def test_on_random_plans_it_keeps_to_what_may_be_answered() -> None:
    policy, asked = DqnPolicy(make_network(DqnConfig(), 0)), 0

    def decide(seen: PlacementObservation) -> Placement | None:
        nonlocal asked
        asked += 1
        chosen = policy.decide(seen)
        if chosen is not None:
            assert seen.alive[list(chosen.nodes)].all()
            assert len(set(chosen.nodes)) == len(chosen.nodes)
            assert refusal(seen, chosen) is None
        return chosen

    for seed in range(6):
        plan = dataclasses.replace(random_plan(seed), admission=True)
        first = play([plan], [decide])[0].placements
        assert first == play([plan], [decide])[0].placements
    assert asked > 50
