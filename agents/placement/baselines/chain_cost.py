"""What a chain's placement costs by the twin's cost without its queues, as linear terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from agents.placement.baselines.program import IntArray, Program
from testbed.scenario.types import NS_PER_S, BoolArray, FloatArray
from testbed.twin.constants import CostWeights, TwinConstants


@dataclass(frozen=True, slots=True)
class StaticCost:
    """The parts of the twin's cost (`CostWeights`) that a placement fixes at once.

    Per packet: path delay, service times and round trips to the backups, in units of half the
    delay bound and half the reference time. Per server: demand above `headroom_from` of its
    capacity; demand above all of it costs what losing the packets costs. Queueing, and the price of
    a second in overload, are left out.
    """

    constants: TwinConstants = field(default_factory=TwinConstants)
    weights: CostWeights = field(default_factory=CostWeights)

    def of_delay(self, rate_pps: float, delay_bound_ns: float) -> float:
        """Cost a second of a nanosecond of latency for each packet of a request."""
        reference_ns = self.weights.reference_s * NS_PER_S
        return rate_pps * (0.5 / delay_bound_ns + 0.5 / reference_ns)


class Stretch(NamedTuple):
    """A row of F functions to place between two nodes, N nodes in all.

    price            cost a second of a nanosecond for every packet
    source, destination   nodes
    service_ns [F]   service time of a packet at a server of one reference core
    primary_cores, backup_cores, memory_bytes [F]   what a function takes
    """

    price: float
    source: int
    destination: int
    service_ns: FloatArray
    primary_cores: FloatArray
    backup_cores: FloatArray
    memory_bytes: FloatArray


class ChainVariables(NamedTuple):
    """Numbers of the variables of a stretch: 1 where something is.

    primary, backup [F, N]; pair [F, N, N]: primary at the first node and backup at the second;
    others [F, N]: further backups, any number of each function. What there is none of has length 0.
    """

    primary: IntArray
    backup: IntArray
    pair: IntArray
    others: IntArray


def add_chain(
    program: Program,
    stretch: Stretch,
    allowed: BoolArray,
    capacity_cores: FloatArray,
    delay_ns: FloatArray,
    static: StaticCost,
    seconds: float,
    accepted: IntArray | None = None,
    backups: int = 1,
    avoid: FloatArray | None = None,
) -> ChainVariables:
    """Variables and rows of one chain that lives for `seconds`: each function at one node.

    `allowed` [N] are the nodes it may use. Each function has `backups` backups, or as many as there
    are other nodes; a packet waits for the first of them. `accepted` is the variable that says
    whether the chain is placed at all; None: it has to be. `avoid` [N] is what a primary costs
    beside at a node.

    The delay between two functions, or a primary and its backup, is the cost of a transport from
    the node of one to that of the other: with both nodes fixed it is too, so it needs no integers.
    """
    functions, nodes = len(stretch.service_ns), len(capacity_cores)
    price = stretch.price * seconds
    at_node = price * stretch.service_ns[:, None] / capacity_cores
    at_node[0] += price * delay_ns[stretch.source]
    at_node[-1] += price * delay_ns[:, stretch.destination]
    if avoid is not None:
        at_node += avoid
    primary = program.variables((functions, nodes), at_node, allowed, integer=True)
    if accepted is None:
        program.rows(primary, 1.0, 1.0, 1.0)
    else:
        whether = np.full((functions, 1), accepted)
        program.rows(np.hstack([primary, whether]), [1.0] * nodes + [-1.0], 0.0, 0.0)
    both = allowed[:, None] & allowed
    if functions > 1:
        hop = program.variables((functions - 1, nodes, nodes), price * delay_ns, both)
        _transport(program, hop, primary[:-1], primary[1:])
    backups = min(backups, int(allowed.sum()) - 1)
    none = np.empty((0, nodes), dtype=np.int64)
    if backups < 1:
        return ChainVariables(primary, none, none.reshape(0, nodes, nodes), none)
    trip = 2.0 * static.constants.commit_round_trips * price * delay_ns
    backup = program.variables((functions, nodes), 0.0, allowed, integer=True)
    apart = both & ~np.eye(nodes, dtype=np.bool_)
    pair = program.variables((functions, nodes, nodes), trip, apart)
    _transport(program, pair, primary, backup)
    if backups == 1:
        return ChainVariables(primary, backup, pair, none)
    others = program.variables((functions, nodes), 0.0, allowed, integer=True)
    program.rows(np.hstack([others, primary]), [1.0] * nodes + [1.0 - backups] * nodes, 0.0, 0.0)
    members = np.stack([primary, backup, others], axis=2).reshape(-1, 3)
    program.rows(members, 1.0, -np.inf, 1.0)
    return ChainVariables(primary, backup, pair, others)


def _transport(program: Program, flow: IntArray, ones: IntArray, others: IntArray) -> None:
    """flow [K, N, N] leaves the nodes of `ones` [K, N] and reaches those of `others` [K, N]."""
    _, nodes, _ = flow.shape
    factors = [1.0] * nodes + [-1.0]
    for table, end in ((flow, ones), (flow.transpose(0, 2, 1), others)):
        rows = np.concatenate([table, end[:, :, None]], axis=2)
        program.rows(rows.reshape(-1, nodes + 1), factors, 0.0, 0.0)
