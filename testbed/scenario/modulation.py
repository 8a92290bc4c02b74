"""Rates that vary: paths of factors, and points in time on them. Pure; seeded by its caller.

A path is a piecewise constant factor on a rate. Points are placed on the integral of the rate: a
unit-rate process is drawn and mapped through the inverse of the piecewise linear integral, which
is exact at the steps (time rescaling: Brown et al., Neural Computation 14, 2002) and needs no
thinning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.scenario.shapes import Diurnal, FlashCrowd, Mmpp, OnOff, Shape

FloatArray = NDArray[np.float64]
DECAYS = 5
"""Time constants after which a crowd's decay counts as over."""


@dataclass(frozen=True, slots=True)
class Path:
    """`factors[i]` holds from `times_s[i]` on; the first time is 0, times ascend."""

    times_s: FloatArray
    factors: FloatArray

    @property
    def columns(self) -> tuple[list[float], list[float]]:
        """Times and factors as plain numbers."""
        return self.times_s.tolist(), self.factors.tolist()


def draw_path(shape: Shape, duration_s: float, rng: np.random.Generator) -> Path:
    """A path of `shape` on [0, duration_s); diurnal and flash-crowd draw nothing."""
    if isinstance(shape, OnOff):
        cycle_s = shape.on_s + shape.off_s
        return _markov((cycle_s / shape.on_s, 0.0), (shape.on_s, shape.off_s), duration_s, rng)
    if isinstance(shape, Mmpp):
        stays = np.array(shape.mean_s)
        factors = np.array(shape.factors)
        # States are left for any other alike, so each is entered equally often.
        mean = float(factors @ stays / stays.sum())
        return _markov(tuple(factors / mean), tuple(shape.mean_s), duration_s, rng)
    times = np.arange(0.0, duration_s, shape.step_s)
    middles = times + shape.step_s / 2
    factors = _sine(shape, middles) if isinstance(shape, Diurnal) else _crowd(shape, middles)
    changed = np.concatenate(([True], np.diff(factors) != 0))
    return Path(times[changed], factors[changed])


def _markov(
    factors: tuple[float, ...],
    stays_s: tuple[float, ...],
    duration_s: float,
    rng: np.random.Generator,
) -> Path:
    """A path of a Markov chain that begins in its stationary state."""
    weights = np.array(stays_s)
    state = int(rng.choice(len(factors), p=weights / weights.sum()))
    now_s, times, values = 0.0, [], []
    while now_s < duration_s:
        times.append(now_s)
        values.append(factors[state])
        # What is left of an exponential stay is exponential too, so the first needs no other law.
        now_s += float(rng.exponential(stays_s[state]))
        other = int(rng.integers(len(factors) - 1))
        state = other + (other >= state)
    return Path(np.array(times), np.array(values))


def _sine(shape: Diurnal, at_s: FloatArray) -> FloatArray:
    turns = at_s / shape.period_s + shape.phase
    return np.asarray(1.0 + shape.amplitude * np.sin(2 * math.pi * turns))


def _crowd(shape: FlashCrowd, at_s: FloatArray) -> FloatArray:
    since = at_s - shape.at_s
    top_s, end_s = shape.rise_s, shape.rise_s + shape.hold_s
    rise = np.clip(since / top_s, 0.0, 1.0)
    decay = np.exp(-np.clip(since - end_s, 0.0, None) / shape.decay_s)
    over = since >= end_s + DECAYS * shape.decay_s
    return np.asarray(np.where(over, 1.0, 1.0 + (shape.peak - 1.0) * rise * decay))


def product(paths: list[Path]) -> Path:
    """The path whose factor is the product of those of `paths`, at least one."""
    times = np.unique(np.concatenate([path.times_s for path in paths]))
    factors = np.ones(len(times))
    for path in paths:
        factors *= path.factors[np.searchsorted(path.times_s, times, side="right") - 1]
    return Path(times, factors)


def shifted(path: Path, by_s: float) -> Path:
    """The path seen from `by_s` on, which becomes time 0."""
    first = int(np.searchsorted(path.times_s, by_s, side="right")) - 1
    times = np.concatenate(([0.0], path.times_s[first + 1 :] - by_s))
    return Path(times, path.factors[max(first, 0) :])


def points(
    path: Path, rate_per_s: float, duration_s: float, even: bool, rng: np.random.Generator
) -> FloatArray:
    """Points in [0, duration_s) s of a process of rate `rate_per_s` times the path's factor.

    `even`: evenly spaced with a random phase where the rate is constant; else Poisson.
    """
    return on_path(path, rate_per_s, duration_s, lambda total: unit_process(rng, even, total))


def mass(path: Path, rate_per_s: float, duration_s: float) -> float:
    """How many points of rate `rate_per_s` times the path's factor to expect in [0, duration_s)."""
    inside = path.times_s < duration_s
    edges = np.append(path.times_s[inside], max(duration_s, 0.0))
    return float(np.diff(edges) @ path.factors[inside] * rate_per_s)


def on_path(
    path: Path, rate_per_s: float, duration_s: float, process: Callable[[float], FloatArray]
) -> FloatArray:
    """The points of `process` in [0, duration_s) s, at the rate times the path's factor.

    `process` gives points in [0, total), ascending; its unit passes in 1 / rate_per_s at factor 1.
    """
    inside = path.times_s < duration_s
    edges = np.append(path.times_s[inside], max(duration_s, 0.0))
    mass = np.concatenate(([0.0], np.cumsum(np.diff(edges) * path.factors[inside] * rate_per_s)))
    drawn = process(float(mass[-1]))
    # Where the rate is 0 the integral is flat, and its inverse is the end of the flat part.
    at = np.searchsorted(mass, drawn, side="right") - 1
    at = np.minimum(at, len(mass) - 2)
    share = (drawn - mass[at]) / np.maximum(mass[at + 1] - mass[at], np.finfo(float).tiny)
    return np.asarray(edges[at] + share * (edges[at + 1] - edges[at]))


def unit_process(rng: np.random.Generator, even: bool, total: float) -> FloatArray:
    """Points of a process of rate 1 in [0, total), ascending."""
    if even:
        spaced: FloatArray = rng.random() + np.arange(np.ceil(total) + 1)
        return spaced[spaced < total]
    drawn = np.zeros(0)
    last = 0.0
    while last < total:
        gaps = rng.exponential(size=int(total - last + 4 * np.sqrt(total) + 16))
        drawn = np.concatenate((drawn, last + np.cumsum(gaps)))
        last = float(drawn[-1])
    return drawn[drawn < total]
