"""Which calibration a command works with, and what it says of it and notes among its results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from testbed.calibration.choice import choose_calibration, doubts, host_facts
from testbed.calibration.recorded import RecordedResults, RecordedRun
from testbed.calibration.validate import validate_folders
from testbed.cli.main import main
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario
from testbed.scenario.model import Scenario, with_training
from testbed.scenario.plan import make_plan
from testbed.twin.calibration import CONSTANTS, Calibration, Chosen, Estimate
from tests.support.places import SCENARIOS

SMOKE = SCENARIOS / "smoke.yaml"
BACKENDS = {"datapath": "netdev", "link": "userspace", "cgroup": "v1"}


def calibration_of(**host: Any) -> Calibration:
    """One made on this host, but for what is given."""
    facts = {**host_facts(BACKENDS), **host}
    constants = {name: Estimate(1000.0, 1.0, 9) for name in CONSTANTS}
    return Calibration(constants, facts, {"date": "2026-01-01", "valid": True, "reasons": []})


def written(path: Path, calibration: Calibration) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(calibration.to_json()), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_option_comes_before_the_default_file_and_that_before_the_defaults() -> None:
    assert choose_calibration(None) == Chosen()
    usual = written(Path("results/calibration.json"), calibration_of())
    assert choose_calibration(None).file == str(usual)
    named = written(Path("other.json"), calibration_of())
    assert choose_calibration(named).file == "other.json"
    assert choose_calibration(Path("none")) == Chosen()
    with pytest.raises(InputError, match="--calibration"):
        choose_calibration(Path("no-such.json"))
    usual.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"calibration\.json"):
        choose_calibration(None)


def test_a_calibration_of_this_host_is_in_no_doubt() -> None:
    written(Path("results/calibration.json"), calibration_of())
    for backends in (None, BACKENDS):
        chosen = choose_calibration(None, backends)
        assert chosen.doubts == ()
        assert chosen.lines() == [
            "the twin is calibrated by results/calibration.json, made 2026-01-01"
        ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu", "Another CPU"), ("cores", 999), ("kernel", "0.1"),
        ("backends", {**BACKENDS, "link": "netem"}),
    ],
)  # fmt: skip
def test_each_difference_of_the_host_is_told_and_noted(name: str, value: Any) -> None:
    written(Path("results/calibration.json"), calibration_of(**{name: value}))
    chosen = choose_calibration(None, BACKENDS)
    (doubt,) = chosen.doubts
    assert doubt.startswith(f"{name}: made with ")
    assert f"the calibration is in doubt: {doubt}" in chosen.lines()
    identity = chosen.identity()
    assert identity is not None and identity["doubts"] == [doubt]
    # Who emulates nothing has chosen no back ends.
    assert choose_calibration(None).doubts == (() if name == "backends" else (doubt,))


def test_what_one_side_does_not_know_is_no_difference() -> None:
    bare = dataclasses.replace(calibration_of(), host={})
    assert doubts(bare, host_facts(BACKENDS)) == ()
    assert doubts(calibration_of(cpu="Another CPU"), {"cores": host_facts({})["cores"]}) == ()


def test_a_calibration_by_runs_that_were_not_valid_is_in_doubt() -> None:
    source = {"date": "2026-01-01", "valid": False, "reasons": ["load, seed 1: too busy"]}
    found = doubts(dataclasses.replace(calibration_of(), source=source), {})
    assert found == ("a run of it was not valid: load, seed 1: too busy",)


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def lossy(path: Path) -> Path:
    """The smoke scenario with loss on every link, and little to learn from."""
    scenario = load_scenario(SMOKE)
    links = scenario.links.model_copy(update={"loss": 0.3})
    changed = with_training(scenario, decisions=64, environments=4)
    changed = changed.model_copy(update={"links": links})
    path.write_text(yaml.safe_dump(changed.model_dump(exclude_none=True)), encoding="utf-8")
    return path


def test_an_evaluation_tells_its_calibration_and_what_the_twin_leaves_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    written(Path("results/calibration.json"), calibration_of(cpu="Another CPU"))
    scenario = str(lossy(Path("lossy.yaml")))
    options = ["--policies", "deft", "--loads", "1", "--seeds", "2", "--results", "out"]
    assert command("evaluate", scenario, *options, "--json") == 0
    said = capsys.readouterr().err
    assert "the twin is calibrated by results/calibration.json" in said
    assert "the calibration is in doubt: cpu: made with Another CPU" in said
    assert "the twin leaves out links.loss = 0.3" in said
    manifest = json.loads(Path("out/manifest.json").read_text(encoding="utf-8"))
    assert manifest["calibration"]["doubts"][0].startswith("cpu")
    assert [text.split(" = ")[0] for text in manifest["left_out"]] == ["links.loss"]
    page = Path("out/evaluation.html").read_text(encoding="utf-8")
    assert "links.loss = 0.3" in page and "made with Another CPU" in page


def test_a_training_tells_its_calibration_and_what_the_twin_leaves_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    written(Path("results/calibration.json"), calibration_of(cores=999))
    config = Path("config.yaml")
    config.write_text("{steps: 8, pool: 2, validation: 2, held_out: 2}", encoding="utf-8")
    options = ["--config", str(config), "--out", "m.pt", "--json"]
    assert command("train", str(lossy(Path("lossy.yaml"))), *options) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["calibration"]["file"] == "results/calibration.json"
    assert report["calibration"]["doubts"][0].startswith("cores: made with 999")
    assert [text.split(" = ")[0] for text in report["left_out"]] == ["links.loss"]
    assert "the calibration is in doubt: cores" in captured.err
    assert "the twin leaves out links.loss = 0.3" in captured.err


def recorded(scenario: Scenario, **manifest: Any) -> RecordedRun:
    """A run in which every request was refused."""
    plan = make_plan(scenario, 1)
    packets = pd.DataFrame(
        {name: [] for name in ("chain", "sent_ns", "received_ns", "scheduled_ns")}
    )
    facts = {"seed": 1, "valid": True, "reasons": [], **manifest}
    return RecordedRun(scenario, "deft", facts, plan, {}, (), packets, ())


def test_a_validation_doubts_a_calibration_of_other_back_ends_than_the_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = load_scenario(lossy(Path("lossy.yaml")))
    runs = [recorded(scenario, backends={**BACKENDS, "link": "netem"})]
    monkeypatch.setattr(
        "testbed.calibration.validate.read_results", lambda folder: RecordedResults(runs, [])
    )
    chosen = Chosen(calibration_of(), "here.json")
    content = validate_folders([Path("somewhere")], chosen)
    (doubt,) = content["calibration"]["doubts"]
    assert doubt.startswith("backends: made with ") and "netem" in doubt
    assert content["unmodelled"][0].startswith("smoke: links.loss = 0.3")
