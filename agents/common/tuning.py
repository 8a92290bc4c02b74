"""Searches hyperparameters of any training: a training for each trial, judged as it judges itself.

The sampler is TPE (Bergstra et al., 2011), seeded anew for each trial from (seed, trials that
ended), so that a study that was cut off goes on as if it had not been. The first trial has the
config that the search starts from. A trial whose cost after a judgement is worse than the median of
those before it ends there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from agents.common.headers import differences
from agents.common.hyperparameters import (
    Between,
    Bounds,
    Config,
    Space,
    config_text,
    plain,
    value_of,
    with_values,
)
from agents.common.journal import StudyJournal
from testbed.decisions.tuning_job import TrialNote, TuneReport, TuningJob
from testbed.records.files import write_text
from testbed.scenario.endings import clean_up
from testbed.scenario.errors import InputError, RunError

JOURNAL = ".journal"
STARTUP_TRIALS = 8
"""Trials drawn at random, the first aside, before the sampler learns from them."""
WARM_UP_JUDGEMENTS = 1
"""Judgements that every trial may go through."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
Judged = Callable[[int, float], None]
"""Is told the number of a judgement, from 1, and its cost; what it raises ends the training."""


@dataclass(frozen=True, slots=True)
class Study(Generic[Config]):
    """What is searched, and what a trial is.

    space     which numbers of the config, and between which values
    even      the config with judgements after as many decisions as in the base, so that trials can
              be compared judgement by judgement
    learn     a training; the least cost that it was judged with
    facts     what a study to resume must have had, beside the numbers of this value
    """

    name: str
    base: Config
    space: Space
    bounds: Mapping[str, Bounds]
    even: Callable[[Config], Config]
    learn: Callable[[Config, Judged, Callable[[float], None]], float]
    facts: Mapping[str, int | str]


def tune(
    study: Study[Config],
    job: TuningJob,
    progress: Callable[[float], None],
    ended: Callable[[TrialNote], None],
) -> TuneReport:
    """See `testbed.decisions.tuning_job.Tune`.

    What the base has outside the space is kept. The study is in `job.out` with the suffix
    ".journal"; with `job.resume` it goes on, and the trial that was cut off begins again.
    """
    _check_start(study)
    deadline_s = None if job.seconds is None else time.monotonic() + job.seconds
    with StudyJournal(_journal(job.out, job.resume)) as journal:
        trials = _trials(journal, job, study)
        for trial in trials.get_trials(states=(TrialState.RUNNING,)):  # it was cut off
            trials.tell(trial.number, state=TrialState.FAIL)
        _search(trials, study, job, deadline_s, progress, ended)
        if not _whole(trials):
            raise RunError(f"no trial of {job.scenario.name} ended in {job.seconds} s")
        notes = tuple(_note(trial) for trial in trials.get_trials(states=ENDED))
        best = _best(trials, study)
        return TuneReport(
            trials=notes,
            config=plain(asdict(best)),  # type: ignore[call-overload]
            config_text=config_text(best),
            cost=trials.best_value,
            first_cost=notes[0].cost,
        )


def _search(
    trials: optuna.Study,
    study: Study[Config],
    job: TuningJob,
    deadline_s: float | None,
    progress: Callable[[float], None],
    ended: Callable[[TrialNote], None],
) -> None:
    while (done := len(trials.get_trials(states=ENDED))) < job.trials:
        if deadline_s is not None and time.monotonic() > deadline_s:
            break
        trials.sampler = _sampler(job.seed, done)
        if done == 0 and not trials.get_trials(states=(TrialState.WAITING,)):
            trials.enqueue_trial({name: value_of(study.base, name) for name in study.space})
        try:
            note = _run(trials, study, deadline_s, partial(_share, progress, done, job.trials))
        except _OutOfTime:
            break
        ended(note)
        if _whole(trials):
            text = config_text(_best(trials, study), job.out.suffix == ".json")
            write_text(job.out, text)


def _share(progress: Callable[[float], None], done: int, trials: int, of_one: float) -> None:
    progress((done + of_one) / trials)


class _OutOfTime(Exception):
    """The deadline passed within a trial."""


def _run(
    trials: optuna.Study,
    study: Study[Config],
    deadline_s: float | None,
    progress: Callable[[float], None],
) -> TrialNote:
    """One trial; an exception that ends it is noted as its failure."""
    trial = trials.ask()
    best = np.inf

    def judged(number: int, cost: float) -> None:
        nonlocal best
        best = min(best, cost)
        trial.report(best, number)
        if trial.should_prune():
            raise optuna.TrialPruned
        if deadline_s is not None and time.monotonic() > deadline_s:
            raise _OutOfTime

    try:
        config = with_values(study.base, _suggest(trial, study.space), study.bounds)
        cost = study.learn(study.even(config), judged, progress)
    except optuna.TrialPruned:
        return _note(trials.tell(trial, state=TrialState.PRUNED))
    except BaseException as error:
        clean_up(error, lambda: trials.tell(trial, state=TrialState.FAIL))
        raise
    return _note(trials.tell(trial, cost))


def _suggest(trial: Trial, space: Space) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, search in space.items():
        if isinstance(search, Between):
            values[name] = trial.suggest_float(name, search.low, search.high, log=search.log)
        else:
            values[name] = trial.suggest_categorical(name, search.values)
    return values


def _sampler(seed: int, done: int) -> optuna.samplers.BaseSampler:
    drawn = int(np.random.SeedSequence((seed, done)).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=drawn, n_startup_trials=STARTUP_TRIALS + 1)


def _trials(journal: StudyJournal, job: TuningJob, study: Study[Config]) -> optuna.Study:
    """The trials in a journal, made if there is none; InputError if they are another study's."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = optuna.create_study(
        storage=JournalStorage(journal),
        study_name=study.name,
        direction="minimize",
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=2, n_warmup_steps=WARM_UP_JUDGEMENTS + 1, n_min_trials=2
        ),
        load_if_exists=True,
    )
    header = _header(job, study)
    if not found.user_attrs:
        found.set_user_attr("header", header)
    different = differences(header, found.user_attrs["header"])
    if different:
        raise InputError("resume", str(journal_of(job.out)), f"a study with {different}")
    return found


def journal_of(out: Path) -> Path:
    """Where the trials of a search lie whose best config goes to `out`."""
    return out.with_name(out.name + JOURNAL)


def _journal(out: Path, resume: bool) -> Path:
    journal = journal_of(out)
    if journal.exists() and not resume:
        raise InputError("resume", False, f"--resume, or another --out: {journal} has a study")
    return journal


def _header(job: TuningJob, study: Study[Config]) -> dict[str, Any]:
    """What must be the same for trials to be comparable."""
    parts = [job.scenario.model_dump_json(), config_text(study.base), repr(dict(study.space))]
    return {
        "format": 2,
        "scenario": job.scenario.name,
        "seed": job.seed,
        **study.facts,
        "digest": hashlib.sha256("".join(parts).encode()).hexdigest(),
    }


def _check_start(study: Study[Config]) -> None:
    for name, search in study.space.items():
        value = value_of(study.base, name)
        if isinstance(search, Between):
            inside, expected = search.low <= value <= search.high, f"{search.low} to {search.high}"
        else:
            inside, expected = value in search.values, f"one of {search.values}"
        if not inside:
            raise InputError(name, value, f"a value of the search, {expected}, to start from")


def _whole(trials: optuna.Study) -> Sequence[FrozenTrial]:
    return trials.get_trials(states=(TrialState.COMPLETE,))


def _best(trials: optuna.Study, study: Study[Config]) -> Config:
    return study.even(with_values(study.base, trials.best_trial.params, study.bounds))


def _note(trial: FrozenTrial) -> TrialNote:
    costs = trial.intermediate_values
    cost = costs[max(costs)] if trial.value is None else trial.value
    return TrialNote(trial.number, cost, trial.state is TrialState.PRUNED, dict(trial.params))
