"""Carries a training through: curve, judgement, the best weights, checkpoints, resuming, logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from agents.common.checkpoints import checkpoint_of, earlier, write_checkpoint
from agents.common.logs import Log
from testbed.scenario.errors import RunError

Point = dict[str, float]
Progress = Callable[[float, Point], None]
"""Is told the share that is done, and the figures of the last round."""


class Learner(Protocol):
    """A training under way, in rounds."""

    rounds: int
    """In all."""
    done: int
    """So far."""
    decisions_a_round: int

    @property
    def judged(self) -> nn.Module:
        """The network that is judged and kept."""

    def run(self, count: int) -> Iterator[Point]:
        """Do `count` rounds; yields what was observed in each."""

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on in the same way."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""


@dataclass(frozen=True, slots=True)
class Course:
    """How a training goes: where it is kept, what it is, and how often it is judged.

    out           the model's file; the checkpoint lies beside it
    header        the arguments of the training: a checkpoint of others is not gone on from
    judge_every, checkpoint_every    rounds between two judgements, and between two checkpoints
    logs          a folder for TensorBoard
    """

    out: Path
    header: Mapping[str, Any]
    judge_every: int
    checkpoint_every: int
    resume: bool = False
    logs: Path | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training did: a point of the curve for each round, and the best judgement."""

    rounds: int
    decisions: int
    wall_s: float
    best_round: int
    best_score: float
    curve: tuple[Point, ...]


@dataclass(slots=True)
class _Best:
    """The judgement with the highest score so far, and the weights that had it."""

    round: int = -1
    score: float = -float("inf")
    weights: dict[str, torch.Tensor] | None = None

    def offer(self, number: int, score: float, network: nn.Module) -> None:
        if score > self.score:
            self.round, self.score = number, score
            self.weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}


def carry_through(
    learner: Learner, judge: Callable[[nn.Module], Point], course: Course, progress: Progress
) -> Trained:
    """Learn to the end; `learner.judged` has the best weights then, and the checkpoint is there.

    `judge` gives figures of a network, `score` among them: the higher the better. The same
    arguments give the same weights. After an interruption, a kill included, the same call with
    `course.resume` goes on from the last checkpoint and ends with the same weights and curve.
    What `progress` or `judge` raises ends the training. Raises InputError if a checkpoint is not of
    these arguments, or is there without `resume`, RunError if no score was a number.
    """
    began = time.monotonic()
    best, curve = _Best(), list[Point]()
    kept = earlier(course.out, course.resume, course.header)
    if kept is not None:
        learner.restore(kept["learner"])
        best = _Best(**kept["best"])
        curve.extend(kept["curve"])
    course.out.parent.mkdir(parents=True, exist_ok=True)
    each = learner.decisions_a_round
    with Log(course.logs, learner.done * each) as log:
        while learner.done < learner.rounds:
            for figures in learner.run(_until_stop(learner, course)):
                axes = {"round": float(len(curve)), "decisions": float((len(curve) + 1) * each)}
                point = {**axes, **figures}
                curve.append(point)
                if _due(len(curve), course.judge_every, learner.rounds):
                    found = judge(learner.judged)
                    best.offer(len(curve) - 1, found["score"], learner.judged)
                    point.update(found)
                log.write(point)
                if _due(len(curve), course.checkpoint_every, learner.rounds):
                    _write(course, learner, best, curve)
                progress(len(curve) / learner.rounds, point)
    if best.weights is None:
        out = course.out
        raise RunError(f"{out}: no weights had a score that is a number; try a lower learning_rate")
    learner.judged.load_state_dict(best.weights)
    return Trained(
        rounds=learner.rounds,
        decisions=learner.rounds * each,
        wall_s=time.monotonic() - began,
        best_round=best.round,
        best_score=best.score,
        curve=tuple(curve),
    )


def _until_stop(learner: Learner, course: Course) -> int:
    """Rounds until the next judgement, checkpoint or end."""
    stops = (course.judge_every, course.checkpoint_every)
    return min(learner.rounds - learner.done, *(n - learner.done % n for n in stops))


def _due(done: int, every: int, rounds: int) -> bool:
    return done % every == 0 or done == rounds


def _write(course: Course, learner: Learner, best: _Best, curve: list[Point]) -> None:
    found = {"round": best.round, "score": best.score, "weights": best.weights}
    content = {**course.header, "learner": learner.state(), "best": found, "curve": curve}
    write_checkpoint(checkpoint_of(course.out), content)
