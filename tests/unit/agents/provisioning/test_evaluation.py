"""An evaluation in the paper's world: who meets what, what bounds it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from agents.provisioning.model import make_network, save_model
from agents.provisioning.sweep import HEURISTICS, sweep_of
from testbed.cli.main import main
from testbed.decisions.evaluation_job import EvaluationJob
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario
from testbed.twin.calibration import Chosen
from tests.support.places import SCENARIOS
from tests.unit.agents.provisioning.test_dqn import TINY
from tests.unit.calibration.test_estimation import make_calibration

SCENARIO = SCENARIOS / "provisioning.yaml"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The scenario with two cells of few, short streams."""
    content = yaml.safe_load(SCENARIO.read_text())
    streams = {"data_centres": [2, 3], "loads": [1.0], "count": 3, "arrival_steps": 4}
    content["problem"]["streams"] = streams
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, ...]:
    paths = tuple(tmp_path / f"dqn-{seed}.pt" for seed in (0, 1))
    for seed, path in enumerate(paths):
        save_model(path, make_network(TINY, seed), TINY)
    return paths


def test_all_policies_meet_the_streams_of_all_seeds_and_none_passes_the_bound(
    small: Path, models: tuple[Path, ...]
) -> None:
    sweep = sweep_of(EvaluationJob(load_scenario(small), models=models))
    rows = pd.DataFrame(list(sweep.rows(lambda what, share: None)))
    assert sweep.policies == (*HEURISTICS, "bound", "dqn")
    assert len(rows) == sum(1 for _ in sweep.contestants) * len(sweep.cells) * sweep.streams
    assert sweep.streams == 3 * len(load_scenario(small).seeds)
    assert set(rows[rows["policy"] == "dqn"]["model"]) == {"dqn-0.pt", "dqn-1.pt"}
    table = rows.groupby(["policy", "model", "topology", "stream"])["acceptance"].first()
    bound = table["bound"].droplevel("model")
    for policy in (*HEURISTICS, "dqn"):
        for _, accepted in table[policy].groupby("model"):
            assert (accepted.droplevel("model") <= bound + 1e-9).all(), policy


def test_the_command_writes_the_page_with_the_words_of_the_problem(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(small), "--results", str(out), "--json"])
    assert ended.value.code in (0, None)
    summary = json.loads(capsys.readouterr().out)
    assert [cell["topology"] for cell in summary["cells"]] == ["2 data centres", "3 data centres"]
    assert summary["bounds"] == ["bound"] and summary["baseline"] == "priority"
    page = (out / "evaluation.html").read_text()
    assert "in the paper&#39;s world" in page and "Onsu et al." in page and "topologies" not in page
    assert json.loads((out / "manifest.json").read_text())["problem"] == "provisioning"


def test_what_cannot_be_evaluated_is_named(small: Path, models: tuple[Path, ...]) -> None:
    scenario = load_scenario(small)
    for job, field in (
        (EvaluationJob(scenario, places=("sndlib/polska",)), "--topologies"),
        (EvaluationJob(scenario, places=("0",)), "--topologies"),
        (EvaluationJob(scenario, policies=("deft",)), "--policies"),
        (EvaluationJob(scenario, policies=("dqn",)), "models"),
        (EvaluationJob(scenario, policies=("priority", "ppo"), models=models), "model"),
        (EvaluationJob(scenario, host=Chosen(make_calibration())), "--calibration"),
    ):
        with pytest.raises(InputError) as caught:
            sweep_of(job)
        assert caught.value.field == field
