"""The formulas of the twin's model as textbooks have them; slow, and exact where it matters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, Decimal, localcontext
from statistics import NormalDist

from testbed.scenario.types import NS_PER_S, Topology

QUANTILES = 40


def paths(topology: Topology) -> list[list[tuple[float, float, float]]]:
    """(delay in ns, sending time in ns a byte, links) of the least paths, by Floyd and Warshall."""
    nodes = range(len(topology.nodes))
    far = (math.inf, 0.0, 0.0)
    best = [[(0.0, 0.0, 0.0) if a == b else far for b in nodes] for a in nodes]
    for link in topology.links:
        one = (float(link.delay_ns), 8.0 * NS_PER_S / link.rate_bps, 1.0)
        best[link.a][link.b] = min(best[link.a][link.b], one)
        best[link.b][link.a] = min(best[link.b][link.a], one)
    for via in nodes:
        for a in nodes:
            for b in nodes:
                one, two = best[a][via], best[via][b]
                best[a][b] = min(best[a][b], (one[0] + two[0], one[1] + two[1], one[2] + two[2]))
    return best


def steady_state(
    rho: float, sigma2: float, third: float, bound_s: float
) -> tuple[float, float, float]:
    """(mean wait, variance, loss): Brownian motion with drift between two reflecting walls.

    The work in the queue has the density of an exponential with exponent theta = 2 (rho - 1) /
    sigma2 cut to [0, bound] (Harrison, 1985, chapter 5). With x = theta bound:

        mean     = bound (1/2 + coth(x/2) / 2 - 1/x)
        variance = bound^2 (1/x^2 - 1 / (4 sinh^2(x/2)))
        loss     = sigma2 / (2 bound rho) x/2 (1 + coth(x/2)), the push at the upper wall

    The variance has beside this third / (3 (1 - rho)) as in M/G/1, where 1 - rho is kept away from
    0 by sigma2 / (2 bound), times e^-x beyond capacity. Sixty digits, so that nothing cancels.
    """
    if rho <= 0.0 or sigma2 <= 0.0:
        return 0.0, 0.0, 0.0
    with localcontext(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN):
        x = 2 * (Decimal(rho) - 1) * Decimal(bound_s) / Decimal(sigma2)
        if x == 0:
            mean, variance, push = Decimal("0.5"), Decimal(1) / 12, Decimal(1)
        else:
            up, down = (x / 2).exp(), (-x / 2).exp()
            coth, sinh = (up + down) / (up - down), (up - down) / 2
            mean = (1 + coth) / 2 - 1 / x
            variance = 1 / (x * x) - 1 / (4 * sinh * sinh)
            push = x / 2 * (1 + coth)
        emptiness = float((-max(x, Decimal(0))).exp())
    loss = sigma2 / (2.0 * bound_s * rho) * float(push)
    slack = max(abs(1.0 - rho), sigma2 / (2.0 * bound_s))
    spread = bound_s**2 * float(variance) + emptiness * third / (3.0 * slack)
    return bound_s * float(mean), spread, min(1.0, loss)


def relax(wait_s: float, steady_s: float, rho: float, sigma2: float, slot_s: float) -> float:
    """The mean wait a slot later: it nears its steady state at |rho - 1| + sigma2 / (2 wait)."""
    pace = abs(rho - 1.0) + sigma2 / (2.0 * max(wait_s, steady_s, 1e-6))
    if steady_s > wait_s:
        return min(steady_s, wait_s + pace * slot_s)
    return max(steady_s, wait_s - pace * slot_s)


def gamma_quantiles(mean: float, variance: float) -> list[float]:
    """Waits that stand for equally many packets each, by Wilson and Hilferty (1931)."""
    if mean <= 0.0 or variance <= 0.0:
        return [mean] * QUANTILES
    shape = mean**2 / variance
    normal = [NormalDist().inv_cdf((i + 0.5) / QUANTILES) for i in range(QUANTILES)]
    roots = [1.0 - 1.0 / (9.0 * shape) + z / (3.0 * math.sqrt(shape)) for z in normal]
    return [mean * max(0.0, root**3) for root in roots]


def overlap(from_: float, to: float, begin: float, end: float) -> float:
    """The length of what two intervals share."""
    return max(0.0, min(to, end) - max(from_, begin))


def outage_moments(
    losses_s: Sequence[float], lasts_s: float, from_s: float, to_s: float
) -> tuple[float, float]:
    """Mean (s) and variance (s^2) of how long a slot's packets wait for groups to serve again.

    A group stands still for `lasts_s` from each loss on. A packet that comes meanwhile waits for
    the end; if the group loses another member before, for the end of that.
    """
    spans: list[tuple[float, float]] = []
    for loss_s in sorted(losses_s):
        begin_s = loss_s
        if spans and loss_s <= spans[-1][1]:
            begin_s = spans.pop()[0]
        spans.append((begin_s, loss_s + lasts_s))
    mean = square = 0.0
    for begin_s, end_s in spans:
        first_s, last_s = max(from_s, begin_s), min(to_s, end_s)
        if first_s < last_s:
            most_s, least_s = end_s - first_s, end_s - last_s
            mean += (most_s**2 - least_s**2) / 2.0 / (to_s - from_s)
            square += (most_s**3 - least_s**3) / 3.0 / (to_s - from_s)
    return mean, square - mean**2
