"""Scaling a deployed chain: which groups move where, and what is said of it. Moves are given."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from testbed.decisions.placement import Ledger, PlacementObservation
from testbed.orchestration.control.run_orders import run_orders
from testbed.orchestration.deploying import elastic
from testbed.orchestration.deploying.chain import group_keys
from testbed.orchestration.deploying.deploy import Chain
from testbed.orchestration.deploying.deployments import Deployments
from testbed.orchestration.deploying.reconfigure import ReconfigurationError
from testbed.scenario.names import GroupKey
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.types import Placement
from testbed.vnf.process.control_socket import Order
from tests.support.twin_support import line_plan, make_request

REQUEST = make_request(functions=("fw", "nat"), shards=4)
PLAN = line_plan((REQUEST,), cores=(1.0,) * 5)


class Nearest:
    """Takes the living servers with the least numbers; remembers how many it was asked for."""

    def __init__(self) -> None:
        self.seen: list[PlacementObservation] = []

    def decide(self, observation: PlacementObservation) -> Placement | None:
        self.seen.append(observation)
        alive = [int(node) for node in np.flatnonzero(observation.alive)]
        if not alive:
            return None
        return Placement(alive[0], alive[1] if len(alive) > 1 else None)


class Bench:
    """A deployed chain whose moves are done at once, but for those of the shards in `broken`."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.broken: set[int] = set()
        self.policy = Nearest()
        self.ledger = Ledger(PLAN.servers, PLAN.profiles, delay_matrix_ns(PLAN.topology))
        self.deployments = Deployments(self.policy, self.ledger, self.note, self.move, False)
        self.chain = Chain(
            REQUEST,
            {key: {0: 0, 1: 1} for key in group_keys(REQUEST)},
            dict.fromkeys(group_keys(REQUEST), 0),
        )
        self.deployments.chains[REQUEST.id] = self.chain
        self.deployments.note_placements(self.chain)
        self.between = 0

    def note(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def move(self, deployed: Chain, key: GroupKey, node: int) -> dict[str, Any]:
        if key.shard in self.broken:
            raise ReconfigurationError(f"shard {key.shard} does not move")
        members = deployed.members[key]
        del members[deployed.primaries[key]]
        number = max(members, default=0) + 1
        members[number] = node
        deployed.primaries[key] = number
        return {"member": number, "caught_up_ns": 1, "held_ns": 2, "duration_ns": 3}

    def scale(self, instances: int, hop: int = 1) -> elastic.Report:
        return elastic.scale(self.deployments, REQUEST.id, hop, instances, self.tick)

    def orders(self) -> dict[str, Order]:
        return run_orders(PLAN.topology, self.deployments, lambda name: {}, self.tick)

    def tick(self) -> None:
        self.between += 1

    def where(self, hop: int = 1) -> dict[int, int]:
        return self.deployments.primaries_of(self.chain, hop)

    def named(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.events if event == name]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_out_to_nodes_that_the_policy_chooses_beside_those_it_has(bench: Bench) -> None:
    report = bench.scale(3)
    assert bench.where() == {0: 0, 1: 0, 2: 1, 3: 2}
    assert bench.where(hop=0) == dict.fromkeys(range(4), 0)
    assert (report["instances"], report["failed"]) == (3, [])
    assert [each["group"] for each in report["moves"]] == ["r0-h1-s2", "r0-h1-s3"]
    assert bench.between == 2
    assert [seen.function_index for seen in bench.policy.seen] == [1, 1]
    assert [list(np.flatnonzero(~seen.alive)) for seen in bench.policy.seen] == [[0], [0, 1]]


def test_in_again(bench: Bench) -> None:
    bench.scale(4)
    report = bench.scale(1)
    assert len(set(bench.where().values())) == report["instances"] == 1
    assert len(report["moves"]) == 3


def test_what_is_so_already_moves_nothing(bench: Bench) -> None:
    assert bench.scale(1)["moves"] == []


def test_a_move_that_fails_is_told_and_the_others_stay(bench: Bench) -> None:
    bench.broken = {2}
    report = bench.scale(2)
    assert bench.where() == {0: 0, 1: 0, 2: 0, 3: 1}
    assert report["failed"] == [{"shard": 2, "to": 1, "error": "shard 2 does not move"}]
    assert report["instances"] == 2
    assert [each["shard"] for each in bench.named("move-failed")] == [2]
    assert bench.named("scaled")[0]["failed"] == report["failed"]


def test_if_all_moves_fail_so_does_the_order(bench: Bench) -> None:
    bench.broken = {2, 3}
    with pytest.raises(ReconfigurationError, match="shard 2 does not move; shard 3"):
        bench.scale(2)
    elastic.try_scale(bench.deployments, REQUEST.id, 1, 2, bench.tick)
    assert bench.named("scale-failed")[0]["instances"] == 2


@pytest.mark.parametrize("instances", [0, 5])
def test_no_more_servers_than_shards(bench: Bench, instances: int) -> None:
    with pytest.raises(ReconfigurationError, match=f"instances = {instances}: expected 1 to 4"):
        bench.scale(instances)


def test_if_the_policy_finds_too_few_nodes_nothing_begins(bench: Bench) -> None:
    for node in (2, 3, 4):
        bench.ledger.server_down(node)
    with pytest.raises(ReconfigurationError, match="no node beside"):
        bench.scale(3)
    assert bench.events == [] and set(bench.where().values()) == {0}


def test_a_shard_without_a_primary_cannot_be_spread(bench: Bench) -> None:
    bench.chain.members[GroupKey(1, 3)].clear()
    with pytest.raises(ReconfigurationError, match=r"shards \[3\] have no primary"):
        bench.scale(2)


def test_the_book_follows_each_shard_with_its_share(bench: Bench) -> None:
    before = bench.ledger.used_cores()
    cores = 100.0 * PLAN.profiles["nat"].service_ns / 1e9
    bench.scale(2)
    after = bench.ledger.used_cores()
    assert after[0] == pytest.approx(before[0] - cores / 2)
    assert after[1] == pytest.approx(before[1] + cores / 2)
    bench.chain.members[GroupKey(1, 3)].clear()
    bench.deployments.note_placements(bench.chain)
    backup = 100.0 * PLAN.profiles["fw"].backup_service_ns / 1e9
    lost = 100.0 * PLAN.profiles["fw"].service_ns / 1e9
    left = bench.ledger.used_cores()
    assert left[0] == pytest.approx(after[0] - lost / 4)
    assert left[1] < after[1] - backup / 4


def test_a_function_moves_with_all_shards_that_are_together(bench: Bench) -> None:
    bench.scale(2)
    report = elastic.move_function(bench.deployments, REQUEST.id, 1, None, 4, bench.tick)
    assert bench.where() == {0: 4, 1: 4, 2: 1, 3: 1}
    assert [(each["from"], each["to"]) for each in report["moves"]] == [(0, 4), (0, 4)]
    elastic.move_function(bench.deployments, REQUEST.id, 1, 3, 4, bench.tick)
    assert bench.where() == {0: 4, 1: 4, 2: 1, 3: 4}


def test_orders_answer_with_the_names_of_nodes(bench: Bench) -> None:
    orders = bench.orders()
    report = orders["move"]({"request": 0, "function": 0, "to": "n3", "shard": 2})
    assert [(each["from"], each["to"]) for each in report["moves"]] == [("n0", "n3")]
    report = orders["scale"]({"request": 0, "function": 0, "instances": 1})
    assert [(each["from"], each["to"]) for each in report["moves"]] == [("n3", "n0")]


@pytest.mark.parametrize(
    ("op", "change", "error"),
    [
        ("move", {"to": "nowhere"}, "to = 'nowhere': expected one of"),
        ("move", {"shard": 4}, "shard 4: expected 0 to 3"),
        ("move", {"shard": "1"}, "shard = '1': expected a number"),
        ("move", {"request": 7}, "request 7, function 0: not deployed now"),
        ("move", {"function": 2}, "request 0, function 2: not deployed now"),
        ("scale", {"function": -1}, "function = -1: expected a number"),
        ("scale", {"instances": 9}, "instances = 9: expected 1 to 4"),
        ("scale", {"instances": True}, "instances = True: expected a number"),
    ],
)
def test_orders_that_cannot_be_are_refused_with_the_reason(
    bench: Bench, op: str, change: dict[str, Any], error: str
) -> None:
    usual = {"request": 0, "function": 0, "to": "n3", "instances": 2}
    with pytest.raises(ValueError) as caught:
        bench.orders()[op]({**usual, **change})
    assert error in str(caught.value)
    assert set(bench.where(hop=0).values()) == {0}


def test_a_new_member_is_known_where_it_is_until_its_chain_goes(bench: Bench) -> None:
    name = "r0-h1-s3-m1"
    bench.chain.instances.append(name)
    for _ in range(2):
        bench.deployments.started(bench.chain, GroupKey(1, 3), 1, 4)
    assert bench.deployments.instances_at(4) == [name]
    bench.deployments.forget(bench.chain)
    assert bench.deployments.instances_at(4) == []
    assert not bench.ledger.used_cores().any()


def test_a_chain_of_one_shard_cannot_be_spread(bench: Bench) -> None:
    request = dataclasses.replace(REQUEST, id=9, shards=1)
    key = GroupKey(0)
    bench.deployments.chains[9] = Chain(request, {key: {0: 0}, GroupKey(1): {0: 0}}, {key: 0})
    with pytest.raises(ReconfigurationError, match="expected 1 to 1"):
        elastic.scale(bench.deployments, 9, 0, 2, bench.tick)
