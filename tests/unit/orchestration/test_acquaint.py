"""Who is told of whom: the primaries of the other groups of the same function."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from agents.placement.baselines.uniform import RandomPolicy
from testbed.decisions.placement import Ledger
from testbed.orchestration.control.run_orders import run_orders
from testbed.orchestration.deploying import acquaint
from testbed.orchestration.deploying.acquaint import Acquaintances, primaries, shared_view
from testbed.orchestration.deploying.chain import MAX_HOPS, group_keys, instance, share_port
from testbed.orchestration.deploying.deploy import Chain
from testbed.orchestration.deploying.deployments import Deployments
from testbed.orchestration.messages.control_client import ControlError
from testbed.scenario.limits import MAX_UNITS
from testbed.scenario.names import GroupKey
from testbed.scenario.paths import delay_matrix_ns
from testbed.scenario.types import FunctionName, Request
from tests.support.twin_support import line_plan

ADDRESSES: dict[int, str | None] = {node: f"10.0.0.{node}" for node in range(4)}


def chain_of(request: int, *functions: FunctionName, shards: int = 1) -> Chain:
    asked = Request(request, "c", functions, 0, 1, 0, 1, 2, 1.0, 100, 1, 1, shards, request)
    keys = group_keys(asked)
    return Chain(asked, {key: {0: key.hop, 1: 3} for key in keys}, dict.fromkeys(keys, 0))


def test_primaries_with_mergeable_state_are_known_by_function() -> None:
    chains = {0: chain_of(0, "fw", "tm"), 2: chain_of(2, "tm", "idps", "tm")}
    chains[2].primaries[GroupKey(0)] = 1
    del chains[2].members[GroupKey(2)][0]
    found = primaries(chains, ADDRESSES)
    assert {f: [p["name"] for p in peers] for f, peers in found.items()} == {
        "tm": ["r0-h1-m0", "r2-h0-m1"],
        "idps": ["r2-h1-m0"],
    }
    assert found["tm"][1] == {
        "group": "r2-h0",
        "name": "r2-h0-m1",
        "address": "10.0.0.3",
        "port": share_port(chains[2].request, GroupKey(0)),
    }


def test_every_shard_is_a_group_of_its_own() -> None:
    found = primaries({1: chain_of(1, "fw", "tm", shards=3)}, ADDRESSES)
    assert [peer["group"] for peer in found["tm"]] == ["r1-h1-s0", "r1-h1-s1", "r1-h1-s2"]
    assert len({peer["port"] for peer in found["tm"]}) == 3


def test_no_two_groups_have_a_port_in_common() -> None:
    functions: list[FunctionName] = ["fw"] * MAX_HOPS
    chains = [chain_of(unit, *functions).request for unit in range(MAX_UNITS)]
    ports = {share_port(request, key) for request in chains for key in group_keys(request)}
    assert len(ports) == MAX_UNITS * MAX_HOPS and max(ports) < 65_536
    others = {instance(r, key, m, 0).port for r in chains for key in group_keys(r) for m in (0, 7)}
    assert not ports & others


def test_orders_are_given_when_they_are_news_and_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of r2-h0-m1 does not live: nobody waits for it."""
    inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    inbox.setblocking(False)
    inbox.bind(str(tmp_path / "r0-h0-m0"))
    now_ns = [10**12]
    monkeypatch.setattr("time.monotonic_ns", lambda: now_ns[0])
    acquaintances = Acquaintances(ADDRESSES, lambda name: str(tmp_path / name))

    def told(chains: dict[int, Chain]) -> list[list[str]]:
        acquaintances.tell(chains)
        orders = []
        while True:
            try:
                orders.append(json.loads(inbox.recv(65_536)))
            except BlockingIOError:
                return [[peer["name"] for peer in order["peers"]] for order in orders]

    chains = {0: chain_of(0, "tm")}
    assert told(chains) == [[]]
    assert told(chains) == []
    chains[2] = chain_of(2, "tm")
    assert told(chains) == [["r2-h0-m0"]]
    chains[2].primaries[GroupKey(0)] = 1
    assert told(chains) == [["r2-h0-m1"]]
    now_ns[0] += acquaint.AGAIN_NS - 1
    assert told(chains) == []
    now_ns[0] += 1
    assert told(chains) == [["r2-h0-m1"]]
    acquaintances.close()
    inbox.close()


def test_the_view_of_a_run_is_that_of_the_present_primary() -> None:
    def ask(name: str) -> dict[str, Any]:
        if name != "r0-h1-m1":
            raise ControlError(f"{name}: unknown op 'shared-view'")
        return {"view": {"packets": 5}}

    chains = {0: chain_of(0, "fw", "tm")}
    chains[0].primaries[GroupKey(1)] = 1
    assert shared_view(ask, chains, 0, GroupKey(1)) == {"view": {"packets": 5}}
    for request, hop, text in ((1, 1, "not deployed"), (0, 2, "not deployed"), (0, 0, "unknown")):
        with pytest.raises(
            ValueError, match=f"request {request}, function {hop}, shard 0: .*{text}"
        ):
            shared_view(ask, chains, request, GroupKey(hop))


def test_a_run_takes_the_order_and_refuses_what_is_no_number() -> None:
    asked: list[str] = []

    def ask(name: str) -> dict[str, Any]:
        asked.append(name)
        return {"view": {}}

    def nothing(*_: Any, **__: Any) -> Any:
        raise AssertionError("a view moves nothing and is no event")

    plan = line_plan(())
    ledger = Ledger(plan.servers, plan.profiles, delay_matrix_ns(plan.topology))
    deployments = Deployments(RandomPolicy(0), ledger, nothing, nothing, False)
    deployments.chains[0] = chain_of(0, "tm", shards=2)
    order = run_orders(plan.topology, deployments, ask, nothing)
    assert order["shared-view"]({"request": 0, "function": 0, "shard": 1}) == {"view": {}}
    order["shared-view"]({"request": 0, "function": 0})
    assert asked == ["r0-h0-s1-m0", "r0-h0-s0-m0"]
    with pytest.raises(ValueError, match="function = 'tm'"):
        order["shared-view"]({"request": 0, "function": "tm"})
