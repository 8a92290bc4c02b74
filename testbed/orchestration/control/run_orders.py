"""Takes orders to a live run at the socket "run": `move`, `scale`, `shared-view`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from testbed.orchestration.deploying import elastic
from testbed.orchestration.deploying.acquaint import AskView, shared_view
from testbed.orchestration.deploying.deployments import Deployments
from testbed.orchestration.deploying.reconfigure import ReconfigurationError
from testbed.scenario.names import GroupKey
from testbed.scenario.types import Topology
from testbed.vnf.process.control_socket import Order


def run_orders(
    topology: Topology, deployments: Deployments, ask: AskView, between: Callable[[], None]
) -> dict[str, Order]:
    """What the socket carries out; the first two answer with an `elastic.Report`, nodes by name.

    move {"request", "function", "to": the name of a node, "shard": a number, null or missing};
    scale {"request", "function", "instances"}. Then shared-view {"request", "function", "shard": 0
    if missing}: see `acquaint.shared_view`, which calls `ask`. An order that cannot be raises
    ValueError.
    """

    def move(order: dict[str, Any]) -> dict[str, Any]:
        node = _node(topology, order["to"])
        shard = None if order.get("shard") is None else _number(order, "shard")
        request, function = _number(order, "request"), _number(order, "function")
        return _answer(
            topology,
            lambda: elastic.move_function(deployments, request, function, shard, node, between),
        )

    def scale(order: dict[str, Any]) -> dict[str, Any]:
        request, function = _number(order, "request"), _number(order, "function")
        instances = _number(order, "instances")
        return _answer(
            topology, lambda: elastic.scale(deployments, request, function, instances, between)
        )

    def view(order: dict[str, Any]) -> dict[str, Any]:
        shard = 0 if order.get("shard") is None else _number(order, "shard")
        request, function = _number(order, "request"), _number(order, "function")
        key = GroupKey(function, shard)
        return shared_view(ask, deployments.chains, request, key)

    return {"move": move, "scale": scale, "shared-view": view}


def _answer(topology: Topology, carry_out: Callable[[], elastic.Report]) -> dict[str, Any]:
    try:
        report = carry_out()
    except ReconfigurationError as error:
        raise ValueError(str(error)) from error
    named = {
        kind: [_with_names(topology, each) for each in report[kind]] for kind in ("moves", "failed")
    }
    return {**report, **named}


def _with_names(topology: Topology, entry: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        end: topology.nodes[entry[end]].name for end in ("from", "to") if entry.get(end) is not None
    }
    return {**entry, **names}


def _node(topology: Topology, name: object) -> int:
    try:
        return topology.index_of(str(name))
    except KeyError:
        names = [node.name for node in topology.nodes]
        raise ValueError(f"to = {name!r}: expected one of {names}") from None


def _number(order: Mapping[str, Any], name: str) -> int:
    value = order[name]
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} = {value!r}: expected a number from 0")
    return value
