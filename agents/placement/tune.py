"""What a search for hyperparameters of `ppo` in placement is: a training on the twin a trial."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from agents.common.hyperparameters import with_values
from agents.common.tuning import Judged, Study, tune
from agents.placement.config import BOUNDS, SPACE, PpoConfig, read_config
from agents.placement.plans import training_of
from agents.placement.train import train
from testbed.decisions.tuning_job import TrialNote, TuneReport, TuningJob
from testbed.scenario.modelled import require_modelled


def tune_ppo(
    job: TuningJob, progress: Callable[[float], None], ended: Callable[[TrialNote], None]
) -> TuneReport:
    """See `testbed.decisions.tuning_job.Tune`; a cost is the mean of a validation plan's."""
    require_modelled(job.scenario)
    return tune(study_of(job), job, progress, ended)


def study_of(job: TuningJob, base: PpoConfig | None = None) -> Study[PpoConfig]:
    """The study of a job, from its file's config, `base` or the defaults on.

    Each training learns from the scenario's number of decisions, with its seed, on training plans,
    and is judged on validation plans, in a twin of the job's calibration; neither held-out plans
    nor the scenario's own seeds play a part.
    """
    start = (base or PpoConfig()) if job.config is None else read_config(job.config)
    calibration, spec = job.host.calibration, training_of(job.scenario)

    def even(config: PpoConfig) -> PpoConfig:
        segment = max(1, start.segment * start.steps // config.steps)
        return with_values(config, {"segment": segment}, BOUNDS)

    def learn(config: PpoConfig, judged: Judged, progress: Callable[[float], None]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            report = train(
                [job.scenario],
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

    facts: dict[str, int | str] = {"decisions": spec.decisions}
    if calibration is not None:
        text = json.dumps(calibration.to_json(), sort_keys=True)
        facts["calibration"] = hashlib.sha256(text.encode()).hexdigest()
    return Study("placement-ppo", start, SPACE, BOUNDS, even, learn, facts)
