"""From observations to what the network reads: pure functions, the same for one and for many.

NODE_COLUMNS and REQUEST_COLUMNS say what each number is. "There" is at the node that the row is of,
for the function that is asked about. A primary that moves takes with it what it uses, and what its
backup uses at the node to which it moves: the columns of what would be used count neither twice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.common.columns import Column
from agents.placement.observe import pack_observations
from agents.placement.types import BACKUP, MOVE, PLACE, Observations
from testbed.compiled import compiled_view
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import BoolArray

if TYPE_CHECKING:
    # A policy that decides by an exported model needs no torch, which takes seconds to import.
    import torch

    from agents.placement.network import Inputs

DELAY_SCALE_NS = 10e6
"""Delays are in units of this, and in units of the request's delay bound."""
FAR_NS = 100e6
"""Stands for the delay to a backup where none has room."""
LARGEST = 10.0
"""Features are cut here, so that an odd server does not drown the others."""

_SHARE, _DELAY, _BOUND = "the node's capacity", "DELAY_SCALE_NS", "the request's delay bound"
NODE_COLUMNS = (
    Column("used", "demand there", _SHARE),
    Column("used_with_primary", "demand there with the primary", _SHARE),
    Column("used_with_backup", "demand there with the backup", _SHARE),
    Column("primary", "demand that the primary would add", _SHARE),
    Column("used_squared", "demand there, at most 2, squared", "the square of the node's capacity"),
    Column("free", "capacity less demand", "a reference core"),
    Column("service", "service time of a packet there", _DELAY),
    Column("service_of_bound", "the same", _BOUND),
    Column("from_previous", "path delay from where the packets come", _DELAY),
    Column("from_previous_of_bound", "the same", _BOUND),
    Column("to_egress", "path delay to the egress", _DELAY),
    Column("to_egress_of_bound", "the same", _BOUND),
    Column("detour", "path delay by this node beyond that of the direct way", _DELAY),
    Column("detour_of_bound", "the same", _BOUND),
    Column("to_backup", "path delay to the nearest other node with room for a backup", _DELAY),
    Column("used_of_backup", "demand at that node", "that node's capacity"),
    Column("held", "instances of this chain there", "four instances"),
    Column("member", "which member of the group is there", "the primary; 0.5: the backup"),
)
(
    USED, USED_WITH_PRIMARY, USED_WITH_BACKUP, PRIMARY, USED_SQUARED, FREE, SERVICE,
    SERVICE_OF_BOUND, FROM_PREVIOUS, FROM_PREVIOUS_OF_BOUND, TO_EGRESS, TO_EGRESS_OF_BOUND, DETOUR,
    DETOUR_OF_BOUND, TO_BACKUP, USED_OF_BACKUP, HELD, MEMBER,
) = range(len(NODE_COLUMNS))  # fmt: skip
REQUEST_COLUMNS = (
    Column("rate", "the request's rate now", "50 packets per second"),
    Column("primary_cores", "demand of the primary", "a twentieth of a reference core"),
    Column("backup_cores", "demand of the backup", "a twentieth of a reference core"),
    Column("before", "functions of the chain before this one", "four functions"),
    Column("behind", "functions of the chain behind this one", "four functions"),
    Column("is_last", "whether this function is the last", "yes"),
    Column("left", "delay that is left", _BOUND),
    Column("bound", "how short the bound is", "DELAY_SCALE_NS in bounds"),
    Column("direct", "path delay from where the packets come to the egress", _DELAY),
    Column("lifetime", "life time, at most 10^4 s", "log(1 + s) / 3"),
    Column("used_mean", "mean demand of the living servers", "a node's capacity"),
    Column("used_most", "largest demand of a living server", "a node's capacity"),
    Column("used_all", "demand of the living servers together", "all their capacity"),
    Column("asks_backup", "whether a new backup is asked for", "yes"),
    Column("admission", "whether admission is controlled", "yes"),
    Column("asks_move", "whether a primary is to move", "yes"),
)
(
    RATE, PRIMARY_CORES, BACKUP_CORES, BEFORE, BEHIND, IS_LAST, LEFT, BOUND, DIRECT, LIFETIME,
    USED_MEAN, USED_MOST, USED_ALL, ASKS_BACKUP, ADMISSION, ASKS_MOVE,
) = range(len(REQUEST_COLUMNS))  # fmt: skip
NODE_FEATURES, REQUEST_FEATURES = len(NODE_COLUMNS), len(REQUEST_COLUMNS)

Float32Array = NDArray[np.float32]


def features(observation: PlacementObservation) -> tuple[Float32Array, Float32Array]:
    """Node features [N, NODE_FEATURES] and request features [REQUEST_FEATURES]."""
    seen = pack_observations([observation])
    return node_features(seen)[0], request_features(seen)[0]


def node_features(seen: Observations) -> Float32Array:
    """What is known of each node, for the function that is asked about; [B, N, NODE_FEATURES]."""
    out = np.empty((*seen.alive.shape, NODE_FEATURES), dtype=np.float32)
    _fill_nodes(seen, out)
    return out


def request_features(seen: Observations) -> Float32Array:
    """What is known of the request and of the servers together; [B, REQUEST_FEATURES]."""
    out = np.empty((len(seen.alive), REQUEST_FEATURES), dtype=np.float32)
    _fill_requests(seen, out)
    return out


def masks(seen: Observations) -> tuple[BoolArray, BoolArray]:
    """What may be chosen: primary [B, N + 1] (reject last) and backup [B, N].

    Never: a dead server, or one without memory for the function. With admission control: none
    without CPU capacity for it. Without: such nodes, and (primary) nodes past which the delay
    bound is missed, are masked unless no node would be left: a request that misses its bound is
    better than one that is refused. A rejection is a choice for every request, and the only one
    where no server can host the function. Where a backup is asked for, the primary is given and
    no member may be named again. A primary may move to where it is, to a server with capacity for
    it, or to its backup's with room for what it needs more there; the backup is given.
    """
    batch, nodes = seen.alive.shape
    primary = np.empty((batch, nodes + 1), dtype=np.bool_)
    backup = np.empty((batch, nodes), dtype=np.bool_)
    _fill_masks(seen, primary, backup)
    return primary, backup


class InputArrays(NamedTuple):
    """The fields of `agents.placement.network.Inputs`, of B decisions, as numpy has them."""

    node: Float32Array  # [B, N, NODE_FEATURES]
    request: Float32Array  # [B, REQUEST_FEATURES]
    alive: BoolArray  # [B, N]
    primary_mask: BoolArray  # [B, N + 1], reject last
    backup_mask: BoolArray  # [B, N]
    delay: Float32Array  # [N, N], in units of DELAY_SCALE_NS


def input_arrays(seen: Observations) -> InputArrays:
    """The network's inputs for B observations; no array is one of theirs."""
    primary, backup = masks(seen)
    return InputArrays(
        node=node_features(seen),
        request=request_features(seen),
        alive=seen.alive.copy(),
        primary_mask=primary,
        backup_mask=backup,
        delay=(seen.delay_ns / DELAY_SCALE_NS).astype(np.float32),
    )


def make_inputs(seen: Observations, device: torch.device | None = None) -> Inputs:
    """The network's inputs for B observations, as tensors."""
    import torch

    from agents.placement.network import Inputs

    inputs = Inputs(*(torch.from_numpy(array) for array in input_arrays(seen)))
    return inputs if device is None else Inputs(*(column.to(device) for column in inputs))


@compiled_view
def _cut(value: float) -> float:
    return min(max(value, -LARGEST), LARGEST)


@compiled_view
def _fill_nodes(seen: Observations, out: Float32Array) -> None:
    batch, nodes = seen.alive.shape
    for b in range(batch):
        bound = seen.delay_bound_ns[b]
        reference_ns = seen.primary_cores[b] / max(seen.rate_pps[b], 1e-9) * 1e9
        direct_ns = seen.delay_to_egress_ns[b, seen.previous[b]]
        for n in range(nodes):
            share = 1.0 / seen.capacity_cores[b, n]
            used = seen.used_cores[b, n] * share
            more, copy = seen.primary_cores[b] * share, seen.backup_cores[b] * share
            if seen.task[b] == MOVE:  # what is there already is in `used`
                if n == seen.primary[b]:
                    more = 0.0
                if n == seen.backup[b]:
                    more, copy = more - copy, 0.0
            service_ns = reference_ns * share
            from_ns, to_ns = seen.delay_from_previous_ns[b, n], seen.delay_to_egress_ns[b, n]
            detour_ns = from_ns + to_ns - direct_ns
            near_ns, near_used = _nearest_backup(seen, b, n)
            row = out[b, n]
            row[USED] = _cut(used)
            row[USED_WITH_PRIMARY] = _cut(used + more)
            row[USED_WITH_BACKUP] = _cut(used + copy)
            row[PRIMARY] = _cut(seen.primary_cores[b] * share)
            row[USED_SQUARED] = min(used, 2.0) * min(used, 2.0)
            row[FREE] = _cut(seen.capacity_cores[b, n] - seen.used_cores[b, n])
            row[SERVICE] = _cut(service_ns / DELAY_SCALE_NS)
            row[SERVICE_OF_BOUND] = _cut(service_ns / bound)
            row[FROM_PREVIOUS] = _cut(from_ns / DELAY_SCALE_NS)
            row[FROM_PREVIOUS_OF_BOUND] = _cut(from_ns / bound)
            row[TO_EGRESS] = _cut(to_ns / DELAY_SCALE_NS)
            row[TO_EGRESS_OF_BOUND] = _cut(to_ns / bound)
            row[DETOUR] = _cut(detour_ns / DELAY_SCALE_NS)
            row[DETOUR_OF_BOUND] = _cut(detour_ns / bound)
            row[TO_BACKUP] = near_ns / DELAY_SCALE_NS
            row[USED_OF_BACKUP] = near_used
            row[HELD] = _cut(seen.held[b, n] / 4.0)
            row[MEMBER] = 1.0 if n == seen.primary[b] else 0.5 if n == seen.backup[b] else 0.0


@compiled_view
def _nearest_backup(seen: Observations, b: int, n: int) -> tuple[float, float]:
    """Delay to the nearest other node with room for a backup, and how used it is.

    Of several at the same distance the least used, so that their numbers play no part.
    """
    nearest, used = FAR_NS, LARGEST
    for m in range(seen.alive.shape[1]):
        capacity = seen.capacity_cores[b, m]
        room = seen.used_cores[b, m] + seen.backup_cores[b] <= capacity
        if m == n or not room or not _fits(seen, b, m):
            continue
        delay_ns, share = seen.delay_ns[n, m], seen.used_cores[b, m] / capacity
        if delay_ns < nearest - 1.0:
            nearest, used = delay_ns, share
        elif delay_ns <= nearest + 1.0:
            used = min(used, share)
    return nearest, min(used, LARGEST)


@compiled_view
def _fill_requests(seen: Observations, out: Float32Array) -> None:
    batch, nodes = seen.alive.shape
    for b in range(batch):
        count, total, most, used_cores, cores = 0, 0.0, 0.0, 0.0, 0.0
        for n in range(nodes):
            if seen.alive[b, n]:
                share = seen.used_cores[b, n] / seen.capacity_cores[b, n]
                count += 1
                total += share
                most = max(most, share)
                used_cores += seen.used_cores[b, n]
                cores += seen.capacity_cores[b, n]
        left = seen.functions[b] - seen.function_index[b] - 1
        row = out[b]
        row[RATE] = _cut(seen.rate_pps[b] / 50.0)
        row[PRIMARY_CORES] = _cut(seen.primary_cores[b] * 20.0)
        row[BACKUP_CORES] = _cut(seen.backup_cores[b] * 20.0)
        row[BEFORE] = seen.function_index[b] / 4.0
        row[BEHIND] = left / 4.0
        row[IS_LAST] = 1.0 if left == 0 else 0.0
        row[LEFT] = _cut(seen.delay_left_ns[b] / seen.delay_bound_ns[b])
        row[BOUND] = _cut(DELAY_SCALE_NS / seen.delay_bound_ns[b])
        row[DIRECT] = _cut(seen.delay_to_egress_ns[b, seen.previous[b]] / DELAY_SCALE_NS)
        row[LIFETIME] = math.log1p(min(seen.lifetime_s[b], 1e4)) / 3.0
        row[USED_MEAN] = _cut(total / max(count, 1))
        row[USED_MOST] = _cut(most)
        row[USED_ALL] = _cut(used_cores / max(cores, 1e-9))
        row[ASKS_BACKUP] = 1.0 if seen.task[b] == BACKUP else 0.0
        row[ADMISSION] = 1.0 if seen.admission else 0.0
        row[ASKS_MOVE] = 1.0 if seen.task[b] == MOVE else 0.0


@compiled_view
def _fill_masks(seen: Observations, primary: BoolArray, backup: BoolArray) -> None:
    for b in range(seen.alive.shape[0]):
        if seen.task[b] == PLACE:
            _mask_primary(seen, b, primary[b])
        else:
            primary[b] = False
            primary[b, seen.primary[b]] = True
        if seen.task[b] == MOVE:
            _mask_move(seen, b, primary[b])
            backup[b] = False
            if seen.backup[b] >= 0:
                backup[b, seen.backup[b]] = True
        else:
            _mask_backup(seen, b, backup[b])


@compiled_view
def _mask_move(seen: Observations, b: int, out: BoolArray) -> None:
    for n in range(seen.alive.shape[1]):
        fits, more = _fits(seen, b, n), seen.primary_cores[b]
        if n == seen.backup[b]:  # its memory is there already
            fits, more = seen.alive[b, n], more - seen.backup_cores[b]
        if fits and seen.used_cores[b, n] + more <= seen.capacity_cores[b, n]:
            out[n] = True


@compiled_view
def _fits(seen: Observations, b: int, n: int) -> bool:
    fits: bool = seen.alive[b, n] and seen.memory_free_bytes[b, n] >= seen.memory_bytes[b]
    return fits


@compiled_view
def _mask_primary(seen: Observations, b: int, out: BoolArray) -> None:
    nodes = seen.alive.shape[1]
    tiers = 0
    for n in range(nodes):
        tiers = max(tiers, _tier(seen, b, n))
    least = max(tiers, 2) if seen.admission else max(tiers, 1)
    for n in range(nodes):
        out[n] = _tier(seen, b, n) >= least
    out[nodes] = True


@compiled_view
def _tier(seen: Observations, b: int, n: int) -> int:
    """How good a node is for a primary: 0 not at all, 1 it fits, 2 has capacity, 3 in time."""
    if not _fits(seen, b, n):
        return 0
    capacity = seen.capacity_cores[b, n]
    if seen.used_cores[b, n] + seen.primary_cores[b] > capacity:
        return 1
    service_ns = seen.primary_cores[b] / max(seen.rate_pps[b], 1e-9) * 1e9 / capacity
    time_ns = seen.delay_from_previous_ns[b, n] + seen.delay_to_egress_ns[b, n] + service_ns
    return 3 if time_ns <= seen.delay_left_ns[b] else 2


@compiled_view
def _mask_backup(seen: Observations, b: int, out: BoolArray) -> None:
    nodes, roomy = seen.alive.shape[1], 0
    placing = seen.task[b] == PLACE
    for n in range(nodes):
        out[n] = _fits(seen, b, n)
        if not placing and (n == seen.primary[b] or n == seen.backup[b]):
            out[n] = False
        room = seen.used_cores[b, n] + seen.backup_cores[b] <= seen.capacity_cores[b, n]
        roomy += 1 if out[n] and room else 0
    # Two nodes must be left for a request: one of them may turn out to be the primary.
    if seen.admission or roomy >= (2 if placing else 1):
        for n in range(nodes):
            room = seen.used_cores[b, n] + seen.backup_cores[b] <= seen.capacity_cores[b, n]
            out[n] = out[n] and room
