"""How many requests of a stream could be satisfied at most: a relaxation with hindsight.

A linear programme (HiGHS through scipy) that knows all requests in advance and forgets everything
but the work: chains may be split into any parts, moved without propagation beyond the direct way,
and run anywhere at any time between arrival and deadline, as long as no millisecond uses more CPU
and RAM than all data centres have together. Every schedule of the simulator obeys these
constraints, so its optimum is at least what any policy reaches; no policy need reach it.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from agents.provisioning.types import (
    BOUND_MS,
    CHAINS,
    CPU,
    LENGTHS,
    PROCESSING_MS,
    RAM_CAPACITY_GB,
    RAM_GB,
    TYPES,
    FloatArray,
    IntArray,
    Stream,
)
from testbed.scenario.errors import RunError


def work_of_types() -> tuple[FloatArray, FloatArray]:
    """CPU ms and RAM GB ms that a chain of each type takes at least, [TYPES] each.

    An instance runs for a step and serves floor(1 ms / processing) chains in it at most.
    """
    cpu, ram = np.zeros(TYPES), np.zeros(TYPES)
    for kind, (chain, length) in enumerate(zip(CHAINS, LENGTHS, strict=True)):
        for v in chain[:length]:
            most = int(1.0 / PROCESSING_MS[v] + 1e-9)
            cpu[kind] += CPU[v] / most
            ram[kind] += RAM_GB[v] / most
    return cpu, ram


def accepted_at_most(stream: Stream) -> float:
    """The share of the stream's requests that no policy can exceed; RunError if HiGHS fails."""
    useful = _in_reach(stream)
    total = float(stream.requests.sum())
    if not useful.any():
        return 0.0
    bundle, step, bundles, steps = _windows(stream, useful)
    cpu, ram = work_of_types()
    kind = stream.kind[useful][bundle]
    column = np.arange(len(bundle))
    used = sparse.csr_array(
        (
            np.concatenate([cpu[kind], ram[kind], np.ones(len(bundle))]),
            (
                np.concatenate([step, steps + step, 2 * steps + bundle]),
                np.concatenate([column, column, column]),
            ),
        ),
        shape=(2 * steps + bundles, len(bundle)),
    )
    room = np.concatenate(
        [
            np.full(steps, stream.cpu.sum()),
            np.full(steps, RAM_CAPACITY_GB * len(stream.cpu)),
            stream.requests[useful],
        ]
    )
    solved = linprog(-np.ones(len(bundle)), A_ub=used, b_ub=room, method="highs")
    if solved.status != 0:
        raise RunError(f"HiGHS: {solved.message}")
    return float(-solved.fun) / total


def _in_reach(stream: Stream) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which bundles would meet their bound if nothing else were there."""
    least_ms = np.array(
        [
            sum(PROCESSING_MS[v] for v in chain[:length])
            for chain, length in zip(CHAINS, LENGTHS, strict=True)
        ]
    )
    way_ms = stream.delay_ms[stream.source, stream.destination]
    reach: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
        way_ms + least_ms[stream.kind] <= np.array(BOUND_MS)[stream.kind]
    )
    return reach


def _windows(
    stream: Stream, useful: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> tuple[IntArray, IntArray, int, int]:
    """(bundle, step) of each chance to run, and how many bundles and steps there are."""
    first = stream.arrival[useful]
    last = first + np.array(BOUND_MS)[stream.kind[useful]].astype(np.int64)
    bundle = np.repeat(np.arange(len(first)), last - first)
    step = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    return bundle, step, len(first), int(last.max())
