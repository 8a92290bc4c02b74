"""A server as a queue with a bound: mean wait, its variance and the share of work it drops.

Reflected Brownian motion on [0, b] (Harrison, Brownian Motion and Stochastic Flow Systems, 1985,
chapter 5): the work in the queue drifts by rho - 1 with variance sigma2 = sum of rate x service^2
a second. Without the bound its mean is the Pollaczek-Khinchine wait of M/G/1; far above
capacity the loss is 1 - 1/rho. Between the two it is smooth, which learning needs.
"""

from __future__ import annotations

import math

from testbed.compiled import compiled_view


@compiled_view
def steady_state(
    rho: float, sigma2: float, third: float, bound_s: float
) -> tuple[float, float, float]:
    """(mean wait in s, its variance in s^2, share of work dropped) of a server for ever at `rho`.

    rho      offered work a second, in units of the server's speed
    sigma2   sum over packet streams of rate (1/s) x (service time in s)^2
    third    the same with the third power of the service time: the residual service counts
    bound_s  the longest wait that the queue admits
    """
    if sigma2 <= 0.0 or rho <= 0.0:
        return 0.0, 0.0, 0.0
    x = 2.0 * (rho - 1.0) * bound_s / sigma2
    emptiness = 1.0  # e^-x in overload, where the queue is never empty
    if abs(x) < 0.1:
        # Series, where the closed forms cancel; what is left out is below 1e-13.
        x2 = x * x
        mean = 0.5 + x / 12.0 * (1.0 - x2 / 60.0 * (1.0 - x2 / 42.0))
        variance = (1.0 - x2 / 20.0 * (1.0 - x2 * 5.0 / 126.0 * (1.0 - x2 * 7.0 / 200.0))) / 12.0
        boundary = 1.0 + 0.5 * x + x2 / 12.0 * (1.0 - x2 / 60.0 * (1.0 - x2 / 42.0))
        emptiness = math.exp(-max(x, 0.0))
    else:
        # coth and sinh of x/2 by the one exponential that cannot overflow.
        e = math.exp(-abs(x))
        inverse = 1.0 / (1.0 - e)
        variance = 1.0 / (x * x) - e * inverse * inverse
        if x > 0.0:
            mean, boundary, emptiness = inverse - 1.0 / x, x * inverse, e
        else:
            mean, boundary = -e * inverse - 1.0 / x, -x * e * inverse
    loss = 0.5 * sigma2 * boundary / (bound_s * rho)
    # What M/G/1 has beside the square of its mean, from the times at which the queue is empty:
    # the bound keeps it finite near capacity, and beyond it the queue is never empty.
    slack = max(abs(1.0 - rho), 0.5 * sigma2 / bound_s)
    spread = bound_s * bound_s * variance + emptiness * third / (3.0 * slack)
    return bound_s * mean, spread, min(loss, 1.0)


@compiled_view
def relax(wait_s: float, steady_s: float, rho: float, sigma2: float, slot_s: float) -> float:
    """The mean wait a slot later, on its way from `wait_s` to `steady_s`.

    It moves as fast as the drift |rho - 1| and the diffusion sigma2 / (2 wait) carry it: a queue
    in overload needs time to fill, and one that was full needs time to drain.
    """
    scale = max(max(wait_s, steady_s), 1e-6)
    step = (abs(rho - 1.0) + 0.5 * sigma2 / scale) * slot_s
    if steady_s > wait_s:
        return min(steady_s, wait_s + step)
    return max(steady_s, wait_s - step)
