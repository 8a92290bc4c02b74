"""What the kernel takes as a CPU quota (CFS bandwidth): one rule for `check` and for cgroups."""

from __future__ import annotations

_US_PER_S = 1_000_000
LEAST_US, MOST_PERIOD_US = 1_000, 1_000_000


def cpu_quota_us(cores: float, period_s: float) -> tuple[int, int]:
    """(quota, period) in microseconds, for `cores` cores of the host over periods of `period_s`."""
    return round(period_s * cores * _US_PER_S), round(period_s * _US_PER_S)


def refusal(cores: float, period_s: float) -> str | None:
    """What the kernel asks for that this quota or period does not meet; None if it takes them."""
    quota_us, period_us = cpu_quota_us(cores, period_s)
    if not LEAST_US <= period_us <= MOST_PERIOD_US:
        return "a period of 0.001 s to 1 s, which the kernel takes"
    if quota_us < LEAST_US:
        least_s = LEAST_US / _US_PER_S / cores
        return (
            f"at least {least_s:.4g} s: the kernel takes no quota below 1 ms, which is "
            f"{cores:g} cores x the period"
        )
    return None
