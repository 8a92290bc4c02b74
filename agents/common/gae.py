"""Generalised advantage estimation (Schulman et al., 2016, equation 16)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


def advantages(
    rewards: NDArray[np.floating],
    values: NDArray[np.floating],
    following: NDArray[np.floating],
    discounts: NDArray[np.floating],
    truncated: NDArray[np.bool_],
    lam: float,
) -> tuple[Float32Array, Float32Array]:
    """(advantages, returns), both [T, B], of T steps in B environments.

    All arrays are [T, B]: what step t gave, what its state was worth, what the state that it led to
    is worth, what that counts for (0: the episode came to its end, and nothing follows), and
    whether the episode was cut off there. A cut is no end: the state that it led to (not the one
    that the next episode begins with) keeps its worth, and only the sum over later steps stops.
    """
    deltas = rewards + discounts * following.astype(np.float64) - values
    decay = np.where(truncated, 0.0, discounts * lam)
    out = np.zeros(rewards.shape, dtype=np.float64)
    ahead = np.zeros(rewards.shape[1], dtype=np.float64)
    for t in range(len(rewards) - 1, -1, -1):
        ahead = deltas[t] + decay[t] * ahead
        out[t] = ahead
    return out.astype(np.float32), (out + values).astype(np.float32)
