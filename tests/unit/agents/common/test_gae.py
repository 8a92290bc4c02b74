"""Advantages against computations by hand, cuts and ends apart."""

from __future__ import annotations

import numpy as np
import pytest

from agents.common.gae import advantages


def test_gae_equals_a_computation_by_hand() -> None:
    rewards = np.array([[1.0], [0.0], [2.0]])
    values = np.array([[0.5], [1.0], [-1.0]])
    following = np.array([[1.0], [-1.0], [3.0]])
    ends = np.array([[False], [True], [False]])
    # gamma 0.9, lambda 0.5. Step 2: 2 + 0.9 * 3 - (-1) = 5.7. Step 1 ends: 0 - 1 = -1.
    # Step 0: delta 1 + 0.9 * 1 - 0.5 = 1.4, and 0.45 of the advantage after it: 1.4 - 0.45.
    found, target = advantages(rewards, values, following, 0.9 * ~ends, ends & False, 0.5)
    assert found[:, 0].tolist() == pytest.approx([0.95, -1.0, 5.7])
    assert target[:, 0].tolist() == pytest.approx([1.45, 0.0, 4.7])


def test_gae_goes_on_from_where_an_episode_was_cut_off() -> None:
    rewards = np.array([[1.0], [0.0], [2.0]])
    values = np.array([[0.5], [1.0], [-1.0]])
    following = np.array([[1.0], [4.0], [3.0]])  # cut off at a state worth 4, in the middle
    cut = np.array([[False], [True], [False]])
    # Step 1: 0 + 0.9 * 4 - 1 = 2.6, without step 2. Step 0: 1.4 + 0.45 * 2.6 = 2.57.
    found, target = advantages(rewards, values, following, np.full((3, 1), 0.9), cut, 0.5)
    assert found[:, 0].tolist() == pytest.approx([2.57, 2.6, 5.7])
    assert target[:, 0].tolist() == pytest.approx([3.07, 3.6, 4.7])


def test_a_limit_on_time_changes_no_value() -> None:
    """One state that pays 1 a step, for ever: worth 1 / (1 - 0.5), cut off every third step."""
    for lam in (0.0, 0.7, 1.0):
        value = 0.0
        for _ in range(60):
            worth = np.full((6, 1), value)
            cut = (np.arange(6) % 3 == 2)[:, None]
            _, target = advantages(np.ones((6, 1)), worth, worth, np.full((6, 1), 0.5), cut, lam)
            value = float(target.mean())
        assert value == pytest.approx(2.0, rel=1e-5)


def test_gae_with_lambda_one_is_the_discounted_return_less_the_value() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    last, never = rng.normal(size=3), np.zeros((5, 3), dtype=bool)
    following = np.concatenate([values[1:], last[None]])
    found, target = advantages(rewards, values, following, np.full((5, 3), 0.8), never, 1.0)
    returns = sum(0.8**t * rewards[t] for t in range(5)) + 0.8**5 * last
    np.testing.assert_allclose(target[0], returns, rtol=1e-6)
    np.testing.assert_allclose(found[0], returns - values[0], rtol=1e-5)
