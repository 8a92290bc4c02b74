"""From observations to what the network reads: pure functions, the same for one and for many."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from agents.common.networks import Inputs
from testbed.scenario.placement import BoolArray, FloatArray, PlacementObservation
from testbed.twin.observe import Observations, pack_observations

NODE_FEATURES = 17
REQUEST_FEATURES = 13
DELAY_SCALE_NS = 10e6
"""Delays are in units of this, and in units of the request's delay bound."""
FAR_NS = 100e6
"""Stands for the delay to a backup where none has room."""
LARGEST = 10.0
"""Features are cut here, so that an odd server does not drown the others."""


def features(observation: PlacementObservation) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Node features [N, NODE_FEATURES] and request features [REQUEST_FEATURES]."""
    seen = pack_observations([observation])
    return node_features(seen)[0], request_features(seen)[0]


def node_features(seen: Observations) -> NDArray[np.float32]:
    """What is known of each node, for the function that is next; [B, N, NODE_FEATURES]."""
    bound = seen.delay_bound_ns[:, None]
    service_ns = service_time_ns(seen)
    detour_ns = detour(seen)
    used = seen.used_cores / seen.capacity_cores
    near_ns, near_used = _nearest_backup(seen)
    columns = [
        used,
        used + seen.primary_cores[:, None] / seen.capacity_cores,
        used + seen.backup_cores[:, None] / seen.capacity_cores,
        seen.primary_cores[:, None] / seen.capacity_cores,
        np.minimum(used, 2.0) ** 2,
        seen.capacity_cores - seen.used_cores,
        service_ns / DELAY_SCALE_NS,
        service_ns / bound,
        seen.delay_from_previous_ns / DELAY_SCALE_NS,
        seen.delay_from_previous_ns / bound,
        seen.delay_to_egress_ns / DELAY_SCALE_NS,
        seen.delay_to_egress_ns / bound,
        detour_ns / DELAY_SCALE_NS,
        detour_ns / bound,
        near_ns / DELAY_SCALE_NS,
        near_used,
        seen.held / 4.0,
    ]
    stacked = np.stack(np.broadcast_arrays(*columns), axis=-1)
    return stacked.clip(-LARGEST, LARGEST).astype(np.float32)


def request_features(seen: Observations) -> NDArray[np.float32]:
    """What is known of the request and of the servers together; [B, REQUEST_FEATURES]."""
    alive = seen.alive
    used = np.where(alive, seen.used_cores / seen.capacity_cores, 0.0)
    count = np.maximum(alive.sum(-1), 1)
    left = seen.functions - seen.function_index - 1
    to_egress_ns = np.take_along_axis(seen.delay_to_egress_ns, seen.previous[:, None], 1)[:, 0]
    columns = [
        seen.rate_pps / 50.0,
        seen.primary_cores * 20.0,
        seen.backup_cores * 20.0,
        seen.function_index / 4.0,
        left / 4.0,
        (left == 0) * 1.0,
        seen.delay_left_ns / seen.delay_bound_ns,
        DELAY_SCALE_NS / seen.delay_bound_ns,
        to_egress_ns / DELAY_SCALE_NS,
        np.log1p(np.minimum(seen.lifetime_s, 1e4)) / 3.0,
        used.sum(-1) / count,
        used.max(-1),
        (np.where(alive, seen.used_cores, 0.0)).sum(-1)
        / np.maximum(np.where(alive, seen.capacity_cores, 0.0).sum(-1), 1e-9),
    ]
    return np.stack(columns, axis=-1).clip(-LARGEST, LARGEST).astype(np.float32)


def service_time_ns(seen: Observations) -> FloatArray:
    """Time a packet is in service at each node, [B, N]."""
    out: FloatArray = (seen.primary_cores / np.maximum(seen.rate_pps, 1e-9) * 1e9)[
        :, None
    ] / seen.capacity_cores
    return out


def detour(seen: Observations) -> FloatArray:
    """Path delay that going through each node adds on the way to the egress, [B, N]."""
    direct = np.take_along_axis(seen.delay_to_egress_ns, seen.previous[:, None], axis=1)
    out: FloatArray = seen.delay_from_previous_ns + seen.delay_to_egress_ns - direct
    return out


def _nearest_backup(seen: Observations) -> tuple[FloatArray, FloatArray]:
    """Delay to the nearest other node with room for a backup, and how used it is; [B, N] each."""
    room = seen.alive & (seen.used_cores + seen.backup_cores[:, None] <= seen.capacity_cores)
    delay = seen.delay_ns + np.where(np.eye(len(seen.delay_ns), dtype=bool), np.inf, 0.0)
    reach = np.where(room[:, None, :], delay[None], np.inf)  # [B, N, N]
    nearest = reach.min(-1, keepdims=True)
    # Of several at the same distance the least used, so that their numbers play no part.
    share = (seen.used_cores / seen.capacity_cores)[:, None, :]
    used = np.where(reach <= np.minimum(nearest, FAR_NS) + 1.0, share, np.inf).min(-1)
    return np.minimum(nearest[..., 0], FAR_NS), np.minimum(used, LARGEST)


def masks(seen: Observations) -> tuple[BoolArray, BoolArray]:
    """What may be chosen: primary [B, N + 1] (reject last) and backup [B, N].

    Never: a dead server, or one without memory for the function. Nodes without CPU capacity for
    it, and (primary) nodes past which the delay bound is missed, are masked unless no node would
    be left: a request that misses its bound is better than one that is refused. A rejection is
    a choice everywhere, and the only one where no server can host the function.
    """
    fits = seen.alive & (seen.memory_free_bytes >= seen.memory_bytes[:, None])
    free = seen.capacity_cores - seen.used_cores
    room = fits & (free >= seen.primary_cores[:, None])
    time_ns = seen.delay_from_previous_ns + seen.delay_to_egress_ns + service_time_ns(seen)
    in_time = room & (time_ns <= seen.delay_left_ns[:, None])
    primary = _first_with_any([in_time, room, fits])
    reject = np.ones((len(primary), 1), dtype=np.bool_)
    # Two nodes must be left: one of them may turn out to be the primary.
    roomy = fits & (free >= seen.backup_cores[:, None])
    backup = np.where(roomy.sum(-1, keepdims=True) >= 2, roomy, fits)
    return np.concatenate([primary, reject], axis=1), backup


def _first_with_any(tiers: list[BoolArray]) -> BoolArray:
    chosen = tiers[-1]
    for tier in reversed(tiers[:-1]):
        chosen = np.where(tier.any(-1, keepdims=True), tier, chosen)
    return chosen


def make_inputs(seen: Observations) -> Inputs:
    """The network's inputs for B observations."""
    primary, backup = masks(seen)
    return Inputs(
        node=torch.from_numpy(node_features(seen)),
        request=torch.from_numpy(request_features(seen)),
        alive=torch.from_numpy(seen.alive.copy()),
        primary_mask=torch.from_numpy(primary),
        backup_mask=torch.from_numpy(backup),
        delay=torch.from_numpy((seen.delay_ns / DELAY_SCALE_NS).astype(np.float32)),
    )
