"""What the agent is paid for."""

from __future__ import annotations

from typing import NamedTuple


class RewardWeights(NamedTuple):
    """The paper's rewards, and a price that it does not have (0 leaves the paper's)."""

    satisfied: float = 2.0
    dropped: float = -1.5
    invalid: float = -1.0
    uninstalled_needed: float = -0.5
    storage_gb_ms: float = 0.0
    """For each GB that is installed during a step. The paper rewards nothing for uninstalling, so
    nothing in its rewards keeps storage small."""
