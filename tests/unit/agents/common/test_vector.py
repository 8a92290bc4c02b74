"""The environments that every problem stands on, with a world whose episodes can be counted."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from agents.common.vector import Actions, BatchEnv, Observation, SingleEnv, Step


class Counting:
    """Shows a number drawn at first and how many steps there were; action 1 ends it.

    After three steps it is cut off. A step pays the number.
    """

    masks: tuple[str, ...] = ("may",)

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes
        self.observation_space = spaces.Dict(
            {"count": spaces.Box(0.0, 100.0, (2,), np.float64), "may": spaces.MultiBinary(2)}
        )
        self.action_space = spaces.Discrete(2)
        self._shown = np.zeros((episodes, 2))
        self._ended = np.zeros(episodes, dtype=bool)

    def begin(self, b: int, generator: np.random.Generator) -> None:
        self._shown[b] = generator.integers(1, 100), 0
        self._ended[b] = False

    def observe(self) -> Observation:
        return {"count": self._shown.copy(), "may": np.ones((self.episodes, 2), dtype=np.int8)}

    def step(self, actions: Actions) -> Step:
        going = ~self._ended & (self._shown[:, 1] < 3)
        self._shown[going, 1] += 1
        self._ended |= going & (actions == 1)
        cut = ~self._ended & (self._shown[:, 1] >= 3)
        return Step(np.where(going, self._shown[:, 0], 0.0), self._ended.copy(), cut)


def test_an_end_and_a_cut_are_told_apart_and_both_are_followed_by_another_episode() -> None:
    env = BatchEnv(Counting(2))
    first, _ = env.reset(seed=[1, 2])
    found = [env.step(np.array(actions)) for actions in ([0, 0], [0, 1], [0, 0], [1, 0])]
    steps = [(r.tolist(), t.tolist(), c.tolist()) for _, r, t, c, _ in found]
    one, two = first["count"][:, 0]
    again = found[2][0]["count"][1, 0]
    assert steps == [
        ([one, two], [False, False], [False, False]),
        ([one, two], [False, True], [False, False]),
        ([one, 0.0], [False, False], [True, False]),  # environment 1 begins anew
        ([0.0, again], [False, False], [False, False]),  # so does 0; its action plays no part
    ]
    assert found[3][0]["count"][:, 1].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("seed", [3, [5, 1, 9], np.int64(3)])
def test_it_does_what_gymnasiums_vector_of_single_ones_does(seed: Any) -> None:
    peer = SyncVectorEnv([lambda: SingleEnv(Counting(1))] * 3)
    ours = BatchEnv(Counting(3))
    peer.action_space.seed(0)
    seen, _ = ours.reset(seed=seed)
    expected, _ = peer.reset(seed=int(seed) if isinstance(seed, np.int64) else seed)
    cuts = ends = 0
    for _ in range(60):
        np.testing.assert_array_equal(seen["count"], expected["count"])
        actions = peer.action_space.sample()
        seen, *found, _ = ours.step(actions)
        expected, *others, _ = peer.step(actions)
        for one, other in zip(found, others, strict=True):
            np.testing.assert_array_equal(one, other)
        ends, cuts = ends + int(found[1].sum()), cuts + int(found[2].sum())
    assert ends > 10
    assert cuts > 3


def test_without_a_seed_generators_are_drawn_by_chance_and_then_go_on() -> None:
    one, two = BatchEnv(Counting(4)), BatchEnv(Counting(4))
    first, second = (np.array([e.reset()[0]["count"] for _ in range(8)]) for e in (one, two))
    assert (first != second).any()
    seeds = one.np_random_seed
    again = BatchEnv(Counting(4))
    replayed = [again.reset(seed=list(seeds))[0]["count"]]
    replayed += [again.reset()[0]["count"] for _ in range(7)]
    np.testing.assert_array_equal(first, replayed)


@pytest.mark.parametrize("wrong", [[], [True], [False, False], [1, 0], [[True, False]]])
def test_a_mask_of_resets_has_a_boolean_for_each_environment(wrong: Any) -> None:
    env = BatchEnv(Counting(2))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": wrong})


def test_the_single_environment_stays_where_it_ended() -> None:
    env = SingleEnv(Counting(1))
    with pytest.raises(gym.error.ResetNeeded):
        env.action_masks()
    env.reset(seed=1)
    assert env.action_masks().tolist() == [True, True]
    _, reward, *ends, _ = env.step(1)
    assert (reward > 0.0, ends) == (True, [True, False])
    assert env.step(0)[1:4] == (0.0, True, False)
