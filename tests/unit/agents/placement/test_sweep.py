"""Cells, the sweep and the command: what differs from cell to cell, and what must not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from agents.placement.cells import Cell, cell_scenario, cells_of
from agents.placement.evaluation import CONTEST, sweep_of
from agents.placement.outcomes import evaluate
from agents.placement.plans import held_out_plans
from agents.placement.policies import make_policy
from agents.placement.sweep import Timed
from testbed.cli.main import main
from testbed.decisions.contest import contest_of
from testbed.decisions.evaluation_job import EvaluationJob, Sweep
from testbed.results.evaluation.evaluation_folder import measure, write_evaluation
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario, parse_scenario
from testbed.scenario.model import Scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.topology import make_topology
from testbed.scenario.types import NS_PER_S, Placement
from testbed.twin.calibration import Chosen
from testbed.twin.constants import constants_for
from tests.support.places import SCENARIOS
from tests.support.twin_support import observe
from tests.unit.calibration.test_estimation import make_calibration

ABILENE = load_scenario(SCENARIOS / "abilene.yaml")
SMOKE = load_scenario(SCENARIOS / "smoke.yaml")
POLICIES = ("deft", "round-robin", "greedy-delay")


def swept(policies: tuple[str, ...], loads: tuple[float, ...], streams: int, **job: Any) -> Sweep:
    return sweep_of(EvaluationJob(SMOKE, policies, loads, streams=streams, **job))


def rows_of(policies: tuple[str, ...], streams: int, **job: Any) -> pd.DataFrame:
    sweep = swept(policies, job.pop("loads", (1.0,)), streams, **job)
    return pd.DataFrame(list(sweep.rows(lambda what, share: None)))


def test_a_load_multiplies_requests_and_nothing_else() -> None:
    changed = cell_scenario(ABILENE, Cell(2.0, None, "own"))
    assert changed.traffic.initial_requests == 2 * ABILENE.traffic.initial_requests
    assert changed.traffic.arrivals_per_s == 2 * ABILENE.traffic.arrivals_per_s
    own = ABILENE.traffic
    rest = {"initial_requests": own.initial_requests, "arrivals_per_s": own.arrivals_per_s}
    assert changed.traffic.model_copy(update=rest) == ABILENE.traffic
    assert changed.model_copy(update={"traffic": ABILENE.traffic}) == ABILENE
    assert cell_scenario(ABILENE, Cell(1.0, None, "own")) == ABILENE
    assert cell_scenario(ABILENE, Cell(0.01, None, "own")).traffic.initial_requests == 1


def test_another_topology_keeps_chains_and_the_load_of_its_servers() -> None:
    cell = Cell(1.0, "sndlib/nobel-eu", "sndlib/nobel-eu")
    moved = cell_scenario(ABILENE, cell)
    own, plan = make_plan(ABILENE, 1), make_plan(moved, 1)
    assert len(plan.servers) == 28
    capacities = {server.cpu_cores for server in own.servers}
    assert {server.cpu_cores for server in plan.servers} <= capacities
    assert len({server.cpu_cores for server in plan.servers}) > 2
    share = sum(s.cpu_cores for s in plan.servers) / sum(s.cpu_cores for s in own.servers)
    assert moved.traffic.arrivals_per_s == pytest.approx(ABILENE.traffic.arrivals_per_s * share)
    assert moved.traffic.initial_requests == round(ABILENE.traffic.initial_requests * share)
    assert moved.chains == ABILENE.chains
    assert cell_scenario(ABILENE, cell) == moved
    other = make_plan(cell_scenario(ABILENE, Cell(1.0, "sndlib/germany50", "")), 1)
    drawn = [server.cpu_cores for server in other.servers[:28]]
    assert drawn != [server.cpu_cores for server in plan.servers]


def test_what_names_nodes_falls_away_and_faults_are_drawn() -> None:
    text = yaml.safe_load((SCENARIOS / "abilene.yaml").read_text())
    text["traffic"]["pairs"] = [["CHINng", "IPLSng"]]
    text["traffic"]["mean_lifetime_s"] = 1e3  # so that request 0 outlives the application
    text["traffic"]["applications"] = [
        {"kind": "http", "request": 0, "at_s": 1.2, "duration_s": 0.5}
    ]
    text["links"]["by_link"] = [{"between": ["CHINng", "NYCMng"], "delay_s": 0.5}]
    text["links"]["changes"] = [
        {"at_s": 1, "between": ["CHINng", "NYCMng"], "up": False}, {"at_s": 2, "loss": 0.5},
    ]  # fmt: skip
    text["captures"] = [{"link": ["CHINng", "NYCMng"]}, {"user": "CHINng"}]
    text["moves"] = [{"at_s": 2, "request": 0, "function": 0, "to": "CHINng"}]
    text["scales"] = [{"at_s": 2, "request": 0, "function": 1, "instances": 1}]
    fixed = parse_scenario(yaml.safe_dump(text))
    assert make_plan(fixed, 1).link_changes
    moved = cell_scenario(fixed, Cell(1.0, "sndlib/polska", "sndlib/polska"))
    assert moved.traffic.pairs is None
    plan = make_plan(moved, 1)
    assert not (moved.links.by_link or moved.captures or plan.moves or plan.scales)
    assert not plan.applications
    assert {change.at_ns for change in plan.link_changes} == {2 * NS_PER_S}
    nodes = {plan.faults[0].node for plan in held_out_plans(moved, 20)}
    assert len(nodes) > 3


def test_a_topology_without_demands_has_all_pairs() -> None:
    moved = cell_scenario(ABILENE, Cell(1.0, "topozoo/Abilene", "topozoo/Abilene"))
    plans = held_out_plans(moved, 10)
    ends = {(r.source, r.destination) for plan in plans for r in plan.requests}
    assert len(ends) > 20
    with pytest.raises(InputError, match="topohub"):
        cell_scenario(ABILENE, Cell(1.0, "sndlib/nowhere", ""))


def test_links_whose_length_nobody_knows_are_as_long_as_the_scenarios_own() -> None:
    def mean_ns(scenario: Scenario) -> float:
        return float(np.mean([link.delay_ns for link in make_topology(scenario).links]))

    moved = cell_scenario(ABILENE, Cell(1.0, "sndlib/newyork", "sndlib/newyork"))
    assert mean_ns(moved) == pytest.approx(mean_ns(ABILENE), rel=1e-6)
    real = cell_scenario(ABILENE, Cell(1.0, "sndlib/polska", "sndlib/polska"))
    assert mean_ns(real) < 0.5 * mean_ns(ABILENE)


def test_cells_are_all_loads_on_all_topologies() -> None:
    found = cells_of(ABILENE, (1.0, 2.0), ("sndlib/polska", "sndlib/abilene"))
    assert found == (
        Cell(1.0, "sndlib/polska", "sndlib/polska"),
        Cell(2.0, "sndlib/polska", "sndlib/polska"),
        Cell(1.0, None, "sndlib/abilene"),
        Cell(2.0, None, "sndlib/abilene"),
    )
    assert cells_of(SMOKE, (1.0,), ()) == (Cell(1.0, None, SMOKE.topology.topohub or "smoke"),)


def test_all_policies_meet_the_same_streams_and_a_sweep_can_be_repeated() -> None:
    rows = rows_of(POLICIES, 3, loads=(1.0, 2.0))
    assert len(rows) == 3 * 2 * 3
    for _, cell in rows.groupby("load"):
        seen = {name: set(one["stream"]) for name, one in cell.groupby("policy")}
        assert len({frozenset(streams) for streams in seen.values()}) == 1
        for _, stream in cell.groupby("stream"):
            assert stream["requests"].nunique() == 1
    again = rows_of(POLICIES, 3, loads=(1.0, 2.0)).filter(regex="^(?!decision)")
    pd.testing.assert_frame_equal(rows.filter(regex="^(?!decision)"), again)
    assert (rows["decision_p99_ns"] >= rows["decision_p50_ns"]).all()
    assert (rows["decision_p50_ns"] > 0).all()


def test_one_policys_rows_do_not_depend_on_the_others() -> None:
    together = rows_of(POLICIES, 3)
    alone = rows_of(("round-robin",), 3)
    mine = together[together["policy"] == "round-robin"].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine.filter(regex="^(?!dec)"), alone.filter(regex="^(?!dec)"))


def test_a_calibration_is_what_the_twin_goes_by() -> None:
    plain = rows_of(("round-robin",), 2)
    fitted = rows_of(("round-robin",), 2, host=Chosen(make_calibration()))
    constants = constants_for(SMOKE, make_calibration())
    for number, plan in enumerate(held_out_plans(SMOKE, 2)):
        found = evaluate(make_policy("round-robin", plan.seed, None), [plan], constants)
        assert fitted["latency_p50_ns"][number] == found.latency_p50_ns
        assert fitted["cost"][number] == -found.reward
    assert (fitted["latency_p50_ns"] != plain["latency_p50_ns"]).all()


def test_decisions_are_timed_by_request() -> None:
    class Slow:
        def decide(self, observation: Any) -> Placement:
            return Placement(0, 1)

    timed = Timed(Slow())
    seen = observe()
    assert timed.decide(seen) == Placement(0, 1)
    first = timed.spent_ns[seen.request]
    timed.decide(seen)
    assert timed.spent_ns[seen.request] > first
    timed.decide(observe(task="backup", members=(0, 1)))
    assert set(timed.spent_ns) == {seen.request}


def test_a_learned_policy_needs_models_with_different_names() -> None:
    for models in ((), (Path("a/x.pt"), Path("b/x.pt"))):
        with pytest.raises(InputError) as caught:
            swept(("ppo",), (1.0,), 1, models=models)
        assert caught.value.field == "models"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments])
    return int(ended.value.code or 0)


def test_the_command_writes_all_and_computes_it_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    calibration = tmp_path / "calibration.json"
    calibration.write_text(json.dumps(make_calibration().to_json()))
    arguments = ["--policies", "deft,pl-rank", "--loads", "1,2", "--seeds", "3"]
    arguments += ["--calibration", str(calibration)]
    assert run(str(SCENARIOS / "smoke.yaml"), *arguments, "--results", str(out), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "values.parquet", "values.csv", "summary.json", "manifest.json", "scenario.yaml",
        "evaluation.html",
    }  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] and manifest["policies"] == ["deft", "pl-rank"]
    noted, identity = manifest["calibration"], make_calibration().identity()
    assert {key: noted[key] for key in identity} == identity
    assert noted["file"] == str(calibration)
    assert manifest["constants"]["repair_ns"] == make_calibration().value("backup_start_ns")
    for name in ("summary.json", "evaluation.html"):
        (out / name).unlink()
    assert run(str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out) == summary
    assert (out / "evaluation.html").is_file()


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--policies", "deft,magic", "--policies = 'magic'"),
        ("--policies", "ppo", "models"),
        ("--loads", "1,x", "--loads"),
        ("--loads", "0", "--loads"),
        ("--loads", "1,1", "--loads"),
        ("--topologies", "sndlib/nowhere", "topohub"),
        ("--models", "no-such-*.pt", "--models"),
        ("--model", "no-such.pt", "--model"),
        ("--calibration", "no-such.json", "--calibration"),
    ],
)
def test_bad_options_are_told_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, field: str
) -> None:
    out = tmp_path / "out"
    scenario = str(SCENARIOS / "smoke.yaml")
    assert run(scenario, option, value, "--seeds", "1", "--results", str(out)) == 2
    assert f"deftbed: {field}" in capsys.readouterr().err.replace("topology.", "")
    assert not out.exists()


def test_an_interrupted_evaluation_keeps_the_cells_that_were_finished(tmp_path: Path) -> None:
    sweep = swept(("deft", "first-fit"), (1.0, 2.0, 3.0), 3)

    def interrupt(what: str, share: float) -> None:
        if share > 0.5:  # in the middle of the second cell's policies
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(SCENARIOS / "smoke.yaml", "placement", sweep, CONTEST, tmp_path, interrupt)
    assert json.loads((tmp_path / "manifest.json").read_text())["complete"] is False
    kept = pd.read_parquet(tmp_path / "values.parquet")
    assert set(kept["load"]) == {1.0} if len(kept) == 6 else {1.0, 2.0}
    assert len(kept) % 6 == 0
    assert run(str(tmp_path)) == 0
    assert "cut short" in (tmp_path / "evaluation.html").read_text()


def test_values_outlive_a_fault_in_the_summing_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(frame: pd.DataFrame, manifest: Any, contest: Any) -> Any:
        raise KeyError(None)

    out = tmp_path / "out"
    arguments = (str(SCENARIOS / "smoke.yaml"), "--policies", "deft,first-fit", "--seeds", "2")
    with monkeypatch.context() as patch:
        patch.setattr("testbed.results.evaluation.evaluation_folder.summarise_evaluation", faulty)
        with pytest.raises(KeyError):
            run(*arguments, "--loads", "1", "--results", str(out))
    told = capsys.readouterr().err
    assert str(out / "values.parquet") in told and f"deftbed evaluate {out}" in told
    assert len(pd.read_parquet(out / "values.parquet")) == 4
    assert run(str(out)) == 0
    assert (out / "evaluation.html").is_file()


@pytest.mark.parametrize("name", ["manifest.json", "values.parquet"])
def test_a_torn_folder_is_an_input_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    measure_one(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for kept in (0, 1, len(whole) // 2, len(whole) - 5):
        (tmp_path / name).write_bytes(whole[:kept])
        assert run(str(tmp_path)) == 2
        assert "an evaluation" in capsys.readouterr().err
    (tmp_path / name).write_bytes(whole)
    assert write_evaluation(tmp_path, CONTEST)[0]["streams"] == 1


def measure_one(folder: Path) -> None:
    sweep = swept(("deft",), (1.0,), 1)
    measure(SCENARIOS / "smoke.yaml", "placement", sweep, CONTEST, folder, lambda *_: None)


def test_a_folder_of_format_1_has_no_contest_and_is_of_placement(tmp_path: Path) -> None:
    measure_one(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest.pop("problem") == "placement" and manifest.pop("contest")
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    assert run(str(tmp_path)) == 0
    assert "milp-hindsight knows" in (tmp_path / "evaluation.html").read_text()


def test_a_contest_survives_its_way_through_a_manifest() -> None:
    assert contest_of(json.loads(json.dumps(CONTEST.to_json()))) == CONTEST
