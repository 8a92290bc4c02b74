"""Searches the hyperparameters of `ppo`: a training for each trial, judged by validation plans.

The sampler is TPE (Bergstra et al., 2011), seeded anew for each trial from (seed, trials that
ended), so that a study that was cut off goes on as if it had not been. The first trial has the
config that the search starts from. A trial whose validation cost after a segment is worse than the
median of those before it ends there.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from agents.common.headers import differences
from agents.placement.config import SPACE, Between, PpoConfig, config_text, value_of, with_values
from agents.placement.journal import StudyJournal
from agents.placement.plans import training_of
from agents.placement.train import train
from testbed.records.files import write_text
from testbed.scenario.endings import clean_up
from testbed.scenario.errors import InputError, RunError
from testbed.scenario.model import Scenario
from testbed.twin.calibration import Calibration

JOURNAL = ".journal"
STUDY = "placement-ppo"
STARTUP_TRIALS = 8
"""Trials drawn at random, the first aside, before the sampler learns from them."""
WARM_UP_SEGMENTS = 1
"""Segments that every trial may go through."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True)
class TrialNote:
    """A trial that ended, or was `pruned`; `cost` is the least mean cost of a validation plan."""

    number: int
    cost: float
    pruned: bool
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class TuneReport:
    """The trials of a study, those of earlier calls too, and the best config of a whole one."""

    trials: tuple[TrialNote, ...]
    config: PpoConfig
    cost: float
    first_cost: float
    """Of the first trial, which has the config that the search starts from."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "trials": [
                {"number": t.number, "cost": t.cost, "pruned": t.pruned, "values": t.values}
                for t in self.trials
            ],
            "cost": self.cost,
            "first_cost": self.first_cost,
            "config": asdict(self.config),
        }


def tune(
    scenario: Scenario,
    out: Path,
    trials: int,
    seconds: float | None = None,
    seed: int = 0,
    base: PpoConfig | None = None,
    resume: bool = False,
    progress: Callable[[float], None] = lambda _: None,
    ended: Callable[[TrialNote], None] = lambda _: None,
    calibration: Calibration | None = None,
) -> TuneReport:
    """Search until `trials` ended in all, or `seconds` passed; the best config goes to `out`.

    Each training learns from the scenario's number of decisions, with its seed, on training plans,
    and is judged on validation plans, in a twin of `calibration` or its defaults; neither held-out
    plans nor the scenario's own seeds play a part. What `base` has outside SPACE is kept. The study
    is in `out` with the suffix ".journal"; with `resume` it goes on, and the trial that was cut off
    begins again. `progress` is told the share of the trials that is done. Raises InputError if a
    study to resume is not of these arguments, RunError if no trial could be ended in time.
    """
    base = base or PpoConfig()
    _check_start(base)
    deadline_s = None if seconds is None else time.monotonic() + seconds
    with StudyJournal(_journal(out, resume)) as journal:
        study = _study(journal, out, _header(scenario, base, seed, calibration))
        _forget_cut_off(study)
        _search(study, scenario, out, trials, base, seed, deadline_s, progress, ended, calibration)
        if not _whole(study):
            raise RunError(f"no trial of {scenario.name} ended in {seconds} s")
        return _report(study, base)


def _search(
    study: optuna.Study,
    scenario: Scenario,
    out: Path,
    trials: int,
    base: PpoConfig,
    seed: int,
    deadline_s: float | None,
    progress: Callable[[float], None],
    ended: Callable[[TrialNote], None],
    calibration: Calibration | None,
) -> None:
    while (done := len(study.get_trials(states=ENDED))) < trials:
        if deadline_s is not None and time.monotonic() > deadline_s:
            break
        study.sampler = _sampler(seed, done)
        if done == 0 and not study.get_trials(states=(TrialState.WAITING,)):
            study.enqueue_trial({name: value_of(base, name) for name in SPACE})
        try:
            share = partial(_share, progress, done, trials)
            note = _run(study, scenario, base, deadline_s, share, calibration)
        except _OutOfTime:
            break
        ended(note)
        if _whole(study):
            _write(out, _best(study, base))


def _share(progress: Callable[[float], None], done: int, trials: int, of_one: float) -> None:
    progress((done + of_one) / trials)


class _OutOfTime(Exception):
    """The deadline passed within a trial."""


def _run(
    study: optuna.Study,
    scenario: Scenario,
    base: PpoConfig,
    deadline_s: float | None,
    progress: Callable[[float], None],
    calibration: Calibration | None,
) -> TrialNote:
    """One trial; an exception that ends it is noted as its failure."""
    trial = study.ask()
    try:
        config = with_values(base, _suggest(trial))
        segments = _even_segments(config, base)
        cost = _learn(trial, scenario, segments, deadline_s, progress, calibration)
    except optuna.TrialPruned:
        return _note(study.tell(trial, state=TrialState.PRUNED))
    except BaseException as error:
        clean_up(error, lambda: study.tell(trial, state=TrialState.FAIL))
        raise
    return _note(study.tell(trial, cost))


def _learn(
    trial: Trial,
    scenario: Scenario,
    config: PpoConfig,
    deadline_s: float | None,
    progress: Callable[[float], None],
    calibration: Calibration | None,
) -> float:
    best = np.inf

    def judged(segment: int, cost: float) -> None:
        nonlocal best
        best = min(best, cost)
        trial.report(best, segment)
        if trial.should_prune():
            raise optuna.TrialPruned
        if deadline_s is not None and time.monotonic() > deadline_s:
            raise _OutOfTime

    spec = training_of(scenario)
    with tempfile.TemporaryDirectory() as folder:
        report = train(
            [scenario],
            Path(folder) / "trial.pt",
            decisions=spec.decisions,
            environments=spec.environments,
            seed=spec.seed,
            progress=lambda share, _: progress(share),
            config=config,
            judged=judged,
            compares=False,
            calibration=calibration,
        )
    return report.best_cost


def _even_segments(config: PpoConfig, base: PpoConfig) -> PpoConfig:
    """Segments of as many decisions as the base's: trials are compared segment by segment."""
    return with_values(config, {"segment": max(1, base.segment * base.steps // config.steps)})


def _suggest(trial: Trial) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, search in SPACE.items():
        if isinstance(search, Between):
            values[name] = trial.suggest_float(name, search.low, search.high, log=search.log)
        else:
            values[name] = trial.suggest_categorical(name, search.values)
    return values


def _sampler(seed: int, done: int) -> optuna.samplers.BaseSampler:
    drawn = int(np.random.SeedSequence((seed, done)).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=drawn, n_startup_trials=STARTUP_TRIALS + 1)


def _study(journal: StudyJournal, out: Path, header: dict[str, Any]) -> optuna.Study:
    """The study in a journal, made if there is none; InputError if it is another's."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(journal),
        study_name=STUDY,
        direction="minimize",
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=2, n_warmup_steps=WARM_UP_SEGMENTS + 1, n_min_trials=2
        ),
        load_if_exists=True,
    )
    if not study.user_attrs:
        study.set_user_attr("header", header)
    different = differences(header, study.user_attrs["header"])
    if different:
        raise InputError("resume", str(journal_of(out)), f"a study with {different}")
    return study


def journal_of(out: Path) -> Path:
    """Where the trials of a search lie whose best config goes to `out`."""
    return out.with_name(out.name + JOURNAL)


def _journal(out: Path, resume: bool) -> Path:
    journal = journal_of(out)
    if journal.exists() and not resume:
        raise InputError("resume", False, f"--resume, or another --out: {journal} has a study")
    return journal


def _header(
    scenario: Scenario, base: PpoConfig, seed: int, calibration: Calibration | None
) -> dict[str, Any]:
    """What must be the same for trials to be comparable."""
    text = scenario.model_dump_json() + json.dumps(asdict(base)) + repr(SPACE)
    if calibration is not None:
        text += json.dumps(calibration.to_json(), sort_keys=True)
    return {
        "format": 1,
        "scenario": scenario.name,
        "decisions": training_of(scenario).decisions,
        "seed": seed,
        "digest": hashlib.sha256(text.encode()).hexdigest(),
    }


def _check_start(base: PpoConfig) -> None:
    for name, search in SPACE.items():
        value = value_of(base, name)
        if isinstance(search, Between):
            inside, expected = search.low <= value <= search.high, f"{search.low} to {search.high}"
        else:
            inside, expected = value in search.values, f"one of {search.values}"
        if not inside:
            raise InputError(name, value, f"a value of the search, {expected}, to start from")


def _forget_cut_off(study: optuna.Study) -> None:
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _whole(study: optuna.Study) -> Sequence[FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE,))


def _best(study: optuna.Study, base: PpoConfig) -> PpoConfig:
    return _even_segments(with_values(base, study.best_trial.params), base)


def _note(trial: FrozenTrial) -> TrialNote:
    costs = trial.intermediate_values
    cost = costs[max(costs)] if trial.value is None else trial.value
    return TrialNote(trial.number, cost, trial.state is TrialState.PRUNED, dict(trial.params))


def _report(study: optuna.Study, base: PpoConfig) -> TuneReport:
    notes = tuple(_note(trial) for trial in study.get_trials(states=ENDED))
    return TuneReport(notes, _best(study, base), study.best_value, notes[0].cost)


def _write(out: Path, config: PpoConfig) -> None:
    write_text(out, config_text(config, out.suffix == ".json"))
