"""The twin's server against queues simulated packet by packet."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.twin.queueing import relax, steady_state
from tests.support import twin_textbook as textbook


def simulated(rate: float, service_s: float, bound_s: float) -> tuple[float, float, float]:
    """(mean wait, standard deviation, loss) of 300,000 Poisson arrivals at one FIFO server."""
    rng = np.random.default_rng(1)
    work, waits, lost = 0.0, [], 0
    for gap in rng.exponential(1 / rate, 300_000):
        work = max(0.0, work - gap)
        if work > bound_s:
            lost += 1
            continue
        waits.append(work)
        work += service_s
    return float(np.mean(waits)), float(np.std(waits)), lost / (lost + len(waits))


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9, 1.0, 1.3])
def test_wait_and_loss_match_a_queue_simulated_packet_by_packet(rho: float) -> None:
    service_s, bound_s = 0.002, 0.1
    rate = rho / service_s
    mean, deviation, loss = simulated(rate, service_s, bound_s)
    moments = (rate * service_s**2, rate * service_s**3)
    steady, variance, dropped = steady_state(rho, *moments, bound_s)
    assert steady == pytest.approx(mean, rel=0.1)
    assert variance**0.5 == pytest.approx(deviation, rel=0.15)
    assert dropped == pytest.approx(loss, abs=0.005)


def test_the_fast_form_equals_that_of_the_textbook() -> None:
    rng = np.random.default_rng(2)
    for _ in range(2000):
        rho, service_s = float(rng.uniform(0.0, 4.0)), float(10 ** rng.uniform(-5, -2))
        moments = (rho * service_s, rho * service_s**2)
        bound_s = float(rng.uniform(0.01, 0.3))
        found = steady_state(rho, *moments, bound_s)
        expected = textbook.steady_state(rho, *moments, bound_s)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), (rho, service_s, bound_s)


def test_the_limits_are_those_of_the_textbooks() -> None:
    rate, service_s = 400.0, 0.001
    sigma2 = rate * service_s**2
    wait, variance, loss = steady_state(0.4, sigma2, sigma2 * service_s, 1e3)
    exact = wait**2 + rate * service_s**3 / (3 * (1 - 0.4))
    assert variance == pytest.approx(exact)
    assert wait == pytest.approx(rate * service_s**2 / (2 * (1 - 0.4)))  # Pollaczek-Khinchine
    assert loss == 0.0
    assert steady_state(4.0, 4.0 * service_s, 0.0, 0.5)[2] == pytest.approx(1 - 1 / 4)
    assert steady_state(0.0, 0.0, 0.0, 0.1) == (0.0, 0.0, 0.0)


def test_wait_and_loss_rise_smoothly_with_the_load() -> None:
    loads = np.linspace(0.01, 3.0, 4000)
    found = np.array([steady_state(rho, rho * 0.002, 0.0, 0.1) for rho in loads])
    for column in (0, 2):
        steps = np.diff(found[:, column])
        assert steps.min() >= -1e-9
        assert steps.max() < 0.01


def test_a_queue_fills_at_its_surplus_and_drains_at_its_slack() -> None:
    assert relax(0.0, 0.09, 1.5, 0.0, 0.1) == pytest.approx(0.05)
    assert relax(0.05, 0.09, 1.5, 0.0, 0.1) == pytest.approx(0.09)
    assert relax(0.09, 0.0, 0.8, 0.0, 0.1) == pytest.approx(0.07)
