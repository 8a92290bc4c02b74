"""From observations to what the network reads: pure functions, the same for one and for many.

Columns of a node, for the function that is asked about ("there" is at this node; shares are of the
node's capacity; times and delays stand twice, in units of DELAY_SCALE_NS and of the delay bound):

0-2    share used; the same with the primary there; the same with the backup there
3      share that the primary would add
4      share used, at most 2, squared
5      capacity less what is used, in reference cores
6, 7   service time of a packet there
8, 9   path delay from where the packets come
10, 11 path delay to the egress
12, 13 the sum of both above the delay of the direct way
14, 15 delay to the nearest other node with room for a backup (FAR_NS: none), share used there
16     instances of this chain there, in fours
17     1: the primary is there; 0.5: the backup

A primary that moves takes with it what it uses, and what its backup uses at the node to which it
moves: columns 1 and 2 count neither twice. Columns of a request:

0-2    packets per second in fifties; CPU of the primary and of the backup, in twentieths of a core
3-5    functions before it and behind it, in fours; 1: it is the last
6, 7   delay that is left, in bounds; DELAY_SCALE_NS in bounds
8      path delay of the direct way from where the packets come to the egress
9      log(1 + seconds of life, at most 10^4) / 3
10-12  shares used of living servers: mean, largest, of all together
13-15  1: a backup is asked for; admission is controlled; a primary is to move
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.placement.observe import pack_observations
from agents.placement.types import BACKUP, MOVE, PLACE, Observations
from testbed.compiled import compiled_view
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import BoolArray

if TYPE_CHECKING:
    # A policy that decides by an exported model needs no torch, which takes seconds to import.
    import torch

    from agents.placement.network import Inputs

NODE_FEATURES = 18
REQUEST_FEATURES = 16
DELAY_SCALE_NS = 10e6
"""Delays are in units of this, and in units of the request's delay bound."""
FAR_NS = 100e6
"""Stands for the delay to a backup where none has room."""
LARGEST = 10.0
"""Features are cut here, so that an odd server does not drown the others."""

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
            row[0] = _cut(used)
            row[1] = _cut(used + more)
            row[2] = _cut(used + copy)
            row[3] = _cut(seen.primary_cores[b] * share)
            row[4] = min(used, 2.0) * min(used, 2.0)
            row[5] = _cut(seen.capacity_cores[b, n] - seen.used_cores[b, n])
            row[6] = _cut(service_ns / DELAY_SCALE_NS)
            row[7] = _cut(service_ns / bound)
            row[8] = _cut(from_ns / DELAY_SCALE_NS)
            row[9] = _cut(from_ns / bound)
            row[10] = _cut(to_ns / DELAY_SCALE_NS)
            row[11] = _cut(to_ns / bound)
            row[12] = _cut(detour_ns / DELAY_SCALE_NS)
            row[13] = _cut(detour_ns / bound)
            row[14] = near_ns / DELAY_SCALE_NS
            row[15] = near_used
            row[16] = _cut(seen.held[b, n] / 4.0)
            row[17] = 1.0 if n == seen.primary[b] else 0.5 if n == seen.backup[b] else 0.0


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
        row[0] = _cut(seen.rate_pps[b] / 50.0)
        row[1] = _cut(seen.primary_cores[b] * 20.0)
        row[2] = _cut(seen.backup_cores[b] * 20.0)
        row[3] = seen.function_index[b] / 4.0
        row[4] = left / 4.0
        row[5] = 1.0 if left == 0 else 0.0
        row[6] = _cut(seen.delay_left_ns[b] / seen.delay_bound_ns[b])
        row[7] = _cut(DELAY_SCALE_NS / seen.delay_bound_ns[b])
        row[8] = _cut(seen.delay_to_egress_ns[b, seen.previous[b]] / DELAY_SCALE_NS)
        row[9] = math.log1p(min(seen.lifetime_s[b], 1e4)) / 3.0
        row[10] = _cut(total / max(count, 1))
        row[11] = _cut(most)
        row[12] = _cut(used_cores / max(cores, 1e-9))
        row[13] = 1.0 if seen.task[b] == BACKUP else 0.0
        row[14] = 1.0 if seen.admission else 0.0
        row[15] = 1.0 if seen.task[b] == MOVE else 0.0


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
