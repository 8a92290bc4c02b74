"""Gymnasium environments of a problem whose episodes go on side by side: one of them, or many.

A problem brings a `World` of B episodes; `SingleEnv` shows one, `BatchEnv` all of them. Each is
what it would be alone, to the last bit. Arrays that are handed out belong to who gets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

Observation = dict[str, NDArray[Any]]
Actions = NDArray[np.int64]
Action = Actions | np.int64 | int
Seeds = int | Sequence[int | None] | None


class Step(NamedTuple):
    """What a step gave in each of B episodes."""

    rewards: NDArray[np.float64]  # [B]
    terminated: NDArray[np.bool_]  # [B], the episode came to its end
    truncated: NDArray[np.bool_]  # [B], it was cut off: it would have gone on from what is seen


class World(Protocol):
    """B episodes of one problem.

    One that is over stays as it is, whatever is done in it: each further step says that it is over,
    and gives nothing.
    """

    episodes: int
    """B."""
    observation_space: spaces.Dict
    """Of one episode."""
    action_space: spaces.Space[Any]
    """Of one episode."""
    masks: tuple[str, ...]
    """Those entries of an observation that say what may be chosen (1: it may), in the order of the
    action's parts."""

    def begin(self, b: int, generator: np.random.Generator) -> None:
        """Begin another episode as number `b`, drawn by `generator` alone."""

    def observe(self) -> Observation:
        """What every episode shows, [B, ...], in arrays made anew."""

    def step(self, actions: Actions) -> Step:
        """Act in every episode."""


class SingleEnv(gym.Env[Observation, Action]):
    """One episode after another of a world that has one at a time."""

    def __init__(self, world: World) -> None:
        """`world` has one episode."""
        self._world = world
        self._begun = False
        self.observation_space = world.observation_space
        self.action_space = world.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode drawn by the environment's own generator."""
        super().reset(seed=seed)
        self._world.begin(0, self.np_random)
        self._begun = True
        return self._look()

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide what is asked; after the end nothing happens any more, for a reward of 0.

        Raises InvalidAction for what is not in the action space, ResetNeeded before a reset.
        """
        _expect(self._begun, "step")
        _expect_in(self.action_space, action)
        rewards, terminated, truncated = self._world.step(np.asarray(action, dtype=np.int64)[None])
        seen, info = self._look()
        return seen, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def action_masks(self) -> NDArray[np.bool_]:
        """All masks one after the other, as sb3-contrib's MaskablePPO asks for them."""
        _expect(self._begun, "action_masks")
        seen = self._world.observe()
        flat: NDArray[np.bool_] = np.concatenate([seen[key][0] for key in self._world.masks]) != 0
        return flat

    def _look(self) -> tuple[Observation, dict[str, Any]]:
        seen = {key: value[0] for key, value in self._world.observe().items()}
        return seen, {key: seen[key].copy() for key in self._world.masks}


class BatchEnv(VectorEnv[Observation, Actions, NDArray[Any]]):
    """All episodes of a world in step: what Gymnasium's SyncVectorEnv makes of B `SingleEnv`s.

    Each has a generator of its own: the seed s of `reset` gives number b the seed s + b, a list
    gives each its entry. Where no seed is given it has one of chance at first, and later goes on
    with its generator. An episode that is over begins anew at the step after
    (AutoresetMode.NEXT_STEP): that step's action plays no part there, and its reward is 0.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, world: World) -> None:
        """Every episode of `world` is begun by `reset`."""
        self._world = world
        self.num_envs = world.episodes
        self.single_observation_space = world.observation_space
        self.single_action_space = world.action_space
        self.observation_space = batch_space(world.observation_space, world.episodes)
        self.action_space = batch_space(world.action_space, world.episodes)
        self._generators: list[np.random.Generator] = []
        self._seeds: list[int | None] = []
        self._over = np.zeros(world.episodes, dtype=np.bool_)
        self._begun = False

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """The generator of each episode, as SyncVectorEnv gives them."""
        self._seed_by_chance()
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:
        """What each of them began with."""
        self._seed_by_chance()
        return tuple(self._seeds)

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in every environment, or where options["reset_mask"] [B] says so.

        Raises ValueError for seeds or a mask of another length, ResetNeeded for a mask that leaves
        out an environment that never began.
        """
        seeds = _seeds(seed, self.num_envs)
        chosen = _chosen(options, self.num_envs)
        _expect(self._begun or bool(chosen.all()), "reset_mask")
        self._seed_by_chance()
        for b in np.flatnonzero(chosen).tolist():
            if seeds[b] is not None:
                self._generators[b], self._seeds[b] = seeding.np_random(seeds[b])
            self._world.begin(b, self._generators[b])
        self._over &= ~chosen
        self._begun = True
        return self._look()

    def step(
        self, actions: Actions
    ) -> tuple[
        Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Decide in every environment.

        Raises InvalidAction for what is not in the action space, ResetNeeded before a reset.
        """
        _expect(self._begun, "step")
        again = self._over
        actions = np.array(actions)
        if actions.shape == self.action_space.shape:
            actions[again] = 0
        _expect_in(self.action_space, actions)
        rewards, terminated, truncated = self._world.step(actions.astype(np.int64))
        for b in np.flatnonzero(again).tolist():
            self._world.begin(b, self._generators[b])
        terminated, truncated = terminated & ~again, truncated & ~again
        self._over = terminated | truncated
        seen, info = self._look()
        return seen, np.where(again, 0.0, rewards), terminated, truncated, info

    def _seed_by_chance(self) -> None:
        if not self._generators:
            drawn = [seeding.np_random() for _ in range(self.num_envs)]
            self._generators = [generator for generator, _ in drawn]
            self._seeds = [seed for _, seed in drawn]

    def _look(self) -> tuple[Observation, dict[str, Any]]:
        seen = self._world.observe()
        info: dict[str, Any] = {}
        for key in self._world.masks:
            info[key] = seen[key].copy()
            info[f"_{key}"] = np.ones(self.num_envs, dtype=np.bool_)  # all have one
        return seen, info


def _seeds(seed: Seeds, count: int) -> list[int | None]:
    """A seed for each of `count` environments. Raises ValueError for a list of another length."""
    if seed is None:
        return [None] * count
    if isinstance(seed, (int, np.integer)):
        return [int(seed) + b for b in range(count)]
    if len(seed) != count:
        raise ValueError(f"seed = {seed}: expected one for each of {count} environments")
    return list(seed)


def _chosen(options: dict[str, Any] | None, count: int) -> NDArray[np.bool_]:
    """Which environments to reset. Raises ValueError for a mask that is none."""
    mask = (options or {}).get("reset_mask")
    if mask is None:
        return np.ones(count, dtype=np.bool_)
    found = np.asarray(mask)
    if found.shape != (count,) or found.dtype != np.bool_ or not found.any():
        raise ValueError(f"reset_mask = {mask}: expected {count} booleans, one of them true")
    return found


def _expect(begun: bool, call: str) -> None:
    if not begun:
        raise gym.error.ResetNeeded(f"{call} before the first reset: call reset first")


def _expect_in(space: spaces.Space[Any], action: object) -> None:
    if not space.contains(action):
        raise gym.error.InvalidAction(f"action = {action!r}: expected one of {space}")
