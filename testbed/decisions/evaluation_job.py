"""An evaluation of a problem's policies: what is asked for, and what will be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.scenario.errors import InputError
from testbed.scenario.model import Scenario
from testbed.twin.calibration import DEFAULTS, Chosen

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """What is to be evaluated; what is empty or None is the scenario's or the problem's choice.

    `places` are what a problem evaluates on, graphs of topohub for example. `models` are files of
    one learned policy, a training run each.
    """

    scenario: Scenario
    policies: tuple[str, ...] = ()
    loads: tuple[float, ...] = ()
    places: tuple[str, ...] = ()
    streams: int | None = None
    models: tuple[Path, ...] = ()
    host: Chosen = DEFAULTS


@dataclass(frozen=True, slots=True)
class Sweep:
    """Policies x cells x streams, ready to be measured.

    cells     (place, load) of each
    streams   of each cell, the same for all policies
    facts     what the manifest notes beside
    notes     what is told before it begins
    rows      the raw values, cell by cell: a mapping with "policy", "topology" (the place), "load",
              "stream", "model" (its file's name or "") and every figure of the problem's contest
    """

    policies: tuple[str, ...]
    baseline: str
    heuristics: tuple[str, ...]
    learned: tuple[str, ...]
    bounds: tuple[str, ...]
    models: tuple[Path, ...]
    cells: tuple[tuple[str, float], ...]
    streams: int
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    rows: Callable[[Progress], Iterator[Mapping[str, Any]]]

    @property
    def contestants(self) -> list[tuple[str, Path | None]]:
        """Each policy that is not learned once, a learned one with each of its models."""
        return contestants_of(self.policies, self.learned, self.models)


def contestants_of(
    policies: Sequence[str], learned: Sequence[str], models: Sequence[Path]
) -> list[tuple[str, Path | None]]:
    """Each policy that is not learned once, a learned one with each of its models.

    Raises InputError if there is no model for one, or none for a model, if more than one policy is
    learned, or if two models have the same file name.
    """
    found: list[tuple[str, Path | None]] = []
    names = [path.name for path in models]
    if len(set(names)) != len(names):
        raise InputError("models", names, "file names without repetition")
    learn = [name for name in policies if name in learned]
    if names and not learn:
        raise InputError("models", names, "no models: none of the policies learns from one")
    if len(learn) > 1:
        raise InputError("--policies", ",".join(policies), "one learned policy: models are of one")
    for name in policies:
        if name in learned:
            if not models:
                raise InputError("models", "none", f"a model for {name}, by --model or --models")
            found += [(name, path) for path in models]
        else:
            found.append((name, None))
    return found


def check_policies(named: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The names without repetition; InputError for one that is not known."""
    for name in named:
        if name not in known:
            raise InputError("--policies", name, f"some of {', '.join(known)}")
    return tuple(dict.fromkeys(named))
