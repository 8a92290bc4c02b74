"""Generalised advantage estimation (Schulman et al., 2016, equation 16)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


def advantages(
    rewards: NDArray[np.floating],
    values: NDArray[np.floating],
    done: NDArray[np.bool_],
    last_values: NDArray[np.floating],
    gamma: float,
    lam: float,
) -> tuple[Float32Array, Float32Array]:
    """(advantages, returns), both [T, B], of T steps in B environments.

    rewards, values, done are [T, B]: what step t gave, what its state was worth, whether the
    episode ended with it; last_values [B] is what the state after the last step is worth.
    """
    steps = len(rewards)
    out = np.zeros(rewards.shape, dtype=np.float64)
    ahead = np.zeros(rewards.shape[1], dtype=np.float64)
    following = last_values.astype(np.float64)
    for t in range(steps - 1, -1, -1):
        goes_on = 1.0 - done[t]
        delta = rewards[t] + gamma * goes_on * following - values[t]
        ahead = delta + gamma * lam * goes_on * ahead
        out[t] = ahead
        following = values[t].astype(np.float64)
    return out.astype(np.float32), (out + values).astype(np.float32)
