"""Estimates the constants of a calibration from measured runs. Pure.

A packet of a chain takes, beyond path delay, transmission, service and queueing,

    edge + hops x hop + crossings x (switch + ports x port) + commits x commit(mode)

with `hops` the ways from edge or instance to the next one, `crossings` the switches that its
frames cross one after another (for a commit there and back, once a round trip), `ports` those of
all switches (the userspace datapath looks at every port when it wakes up) and `commits` the
functions with a backup. The constants are fitted by weighted least squares to the median excess
of the chains of calibration runs; `jitter_ratio` is the standard deviation of a crossing over its
mean (1 for an exponential), from the variance of the excess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from testbed.scenario.types import FloatArray, ReplicationMode
from testbed.twin.calibration import LATENCY_CONSTANTS, Estimate


class ChainSample(NamedTuple):
    """What the packets of one chain took beyond the ideal; see the formula above.

    excess_ns and variance_ns2 are median and variance over its `packets`.
    """

    mode: ReplicationMode
    hops: int
    crossings: int
    ports: int
    commits: int
    packets: int
    excess_ns: float
    variance_ns2: float


def fit_latency(samples: Sequence[ChainSample]) -> dict[str, Estimate]:
    """The latency constants and `jitter_ratio`; a constant that no sample shows is left out.

    Weights are the inverse variances of the excesses, and at most those of one that is known to
    5 % of the excess: what the formula leaves out is then not smaller than the noise. A constant
    that would be negative is taken as 0 and the others are fitted anew.
    Raises ValueError if the samples do not determine the constants.
    """
    if not samples:
        raise ValueError("samples = []: expected at least one chain")
    design = np.array([_row(sample) for sample in samples])
    excess = np.array([sample.excess_ns for sample in samples])
    noise = np.array([s.variance_ns2 / max(s.packets, 1) for s in samples])
    sigma = np.sqrt(np.maximum(noise, (0.05 * excess) ** 2))
    sigma = np.maximum(sigma, 1.0)
    shown = [column for column in range(design.shape[1]) if design[:, column].any()]
    if (
        len({sample.ports for sample in samples}) == 1
        and LATENCY_CONSTANTS.index("port_ns") in shown
    ):
        shown.remove(LATENCY_CONSTANTS.index("port_ns"))
    fixed: list[int] = []
    while True:
        free = [column for column in shown if column not in fixed]
        values, errors = weighted_least_squares(design[:, free], excess, sigma)
        if (values >= 0).all() or len(free) == 1:
            break
        fixed.append(free[int(np.argmin(values / np.maximum(errors, 1e-12)))])
    found = {LATENCY_CONSTANTS[column]: Estimate(0.0, 0.0, len(samples)) for column in fixed}
    for column, value, error in zip(free, values, errors, strict=True):
        found[LATENCY_CONSTANTS[column]] = Estimate(float(value), float(error), len(samples))
    ordered = {name: found[name] for name in LATENCY_CONSTANTS if name in found}
    return {**ordered, "jitter_ratio": _jitter_ratio(samples, ordered)}


def _row(sample: ChainSample) -> list[float]:
    return [
        1.0,
        sample.hops,
        sample.crossings,
        sample.crossings * sample.ports,
        sample.commits if sample.mode == "pipelined" else 0.0,
        sample.commits if sample.mode == "deft" else 0.0,
    ]


def _jitter_ratio(samples: Sequence[ChainSample], found: Mapping[str, Estimate]) -> Estimate:
    """From mode "none" where it is there: a commit's batches spread latencies in their own way."""
    chosen = [sample for sample in samples if sample.mode == "none"] or list(samples)
    squares = []
    for sample in chosen:
        crossing = sum(
            found[name].value * factor
            for name, factor in (("switch_ns", 1.0), ("port_ns", float(sample.ports)))
            if name in found
        )
        if crossing > 0:
            squares.append(sample.variance_ns2 / (sample.crossings * crossing**2))
    if not squares:
        return Estimate(0.0, 0.0, 0)
    square = float(np.mean(squares))
    error = float(np.std(squares, ddof=1) / len(squares) ** 0.5) if len(squares) > 1 else 0.0
    ratio = square**0.5
    return Estimate(ratio, error / (2 * ratio) if ratio > 0 else 0.0, len(squares))


def weighted_least_squares(
    design: FloatArray, values: FloatArray, sigma: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(coefficients, standard errors) [K] that minimise sum(((values - design @ c) / sigma)^2).

    design [M, K], values and sigma [M]. Errors are those of MacKinnon and White (1985), HC3: they
    hold whatever the variances really are, so `sigma` only says what is trusted how much. Raises
    ValueError if the design has not full column rank.
    """
    rows, columns = design.shape
    weighted, target = design / sigma[:, None], values / sigma
    if rows < columns or np.linalg.matrix_rank(weighted) < columns:
        raise ValueError(f"{rows} observations do not determine {columns} constants")
    inverse = np.linalg.inv(weighted.T @ weighted)
    solved = inverse @ weighted.T @ target
    influence = weighted @ inverse  # [M, K]
    free = 1.0 - (influence * weighted).sum(axis=1)
    residuals = target - weighted @ solved
    # An observation that a constant rests on alone has no residual, and says nothing of its error.
    scaled = np.where(free > 1e-9, residuals / np.maximum(free, 1e-9), 0.0)
    covariance = (influence * scaled[:, None] ** 2).T @ influence
    return np.asarray(solved), np.sqrt(np.diag(covariance))


def fit_mean(values: Sequence[float]) -> Estimate | None:
    """The mean of independent measurements; None of none, the error of one is unknown (0)."""
    if not values:
        return None
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
    return Estimate(float(np.mean(values)), error, len(values))


def fit_start(instances: Sequence[int], took_ns: Sequence[float]) -> dict[str, Estimate]:
    """`chain_start_ns` and `instance_start_ns` from chains of so many instances."""
    design = np.column_stack([np.ones(len(instances)), np.asarray(instances, dtype=np.float64)])
    values, errors = weighted_least_squares(
        design, np.asarray(took_ns, dtype=np.float64), np.ones(len(instances))
    )
    names = ("chain_start_ns", "instance_start_ns")
    return {
        name: Estimate(float(value), float(error), len(instances))
        for name, value, error in zip(names, values, errors, strict=True)
    }


def saturated_service_ns(received_ns: FloatArray, wait_ns: FloatArray, above_ns: float) -> Estimate:
    """The service time of a server while its queue was never empty.

    received_ns and wait_ns [M] are when each packet left and how long it had waited, in the order
    of leaving; neighbours that both waited longer than `above_ns` were served back to back.
    Raises ValueError if there are no two of them.
    """
    busy = (wait_ns[1:] > above_ns) & (wait_ns[:-1] > above_ns)
    gaps = np.diff(received_ns)[busy]
    if len(gaps) < 2:
        raise ValueError(f"{len(gaps)} packets were served back to back: expected at least 2")
    return Estimate(float(gaps.mean()), float(gaps.std(ddof=1) / len(gaps) ** 0.5), len(gaps))
