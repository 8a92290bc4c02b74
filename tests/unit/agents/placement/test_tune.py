"""Hyperparameters in a file, and the search for them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from agents.common.hyperparameters import Between, config_text, value_of, with_values
from agents.common.journal import StudyJournal
from agents.common.tuning import JOURNAL, journal_of, tune
from agents.placement import plans
from agents.placement.config import BOUNDS, SPACE, PpoConfig, config_from, read_config
from agents.placement.model import NetworkSize
from agents.placement.tune import study_of
from testbed.cli.main import main
from testbed.cli.options import EXIT_INPUT
from testbed.decisions.tuning_job import TuneReport, TuningJob
from testbed.scenario.errors import InputError, RunError
from testbed.scenario.load import load_scenario
from testbed.scenario.model import Scenario, with_training
from testbed.scenario.plan import make_plan
from tests.support.places import SMOKE

TINY = PpoConfig(
    steps=8, pool=4, validation=2, held_out=1, segment=8, minibatch=256, size=NetworkSize(16, 2, 8)
)


def leaves(value: Any, prefix: str = "") -> list[str]:
    names: list[str] = []
    for field in dataclasses.fields(value):
        inner, name = getattr(value, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(inner):
            names += leaves(inner, f"{name}.")
        elif not isinstance(inner, bool):
            names.append(name)
    return names


def test_every_number_has_bounds_and_every_default_is_within() -> None:
    config = PpoConfig()
    assert sorted(BOUNDS) == sorted(leaves(config))
    assert all(value_of(config, name) in BOUNDS[name] for name in BOUNDS)


def test_the_search_starts_at_the_defaults_and_stays_within_the_bounds() -> None:
    for name, search in SPACE.items():
        default = value_of(PpoConfig(), name)
        if isinstance(search, Between):
            assert search.low <= default <= search.high
            ends: tuple[float, ...] = (search.low, search.high)
        else:
            assert default in search.values
            ends = search.values
        assert all(end in BOUNDS[name] for end in ends)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_config_that_is_written_is_the_one_that_is_read(tmp_path: Path, suffix: str) -> None:
    config = with_values(TINY, {"learning_rate": 1.25e-5, "weights.loss": 3.0}, BOUNDS)
    path = tmp_path / f"config{suffix}"
    path.write_text(config_text(config, suffix == ".json"))
    assert read_config(path) == config
    assert config != TINY


def test_a_file_may_have_a_part_and_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "part.yaml"
    path.write_text("learning_rate: 2e-4\nvalue: 1\nsize: {width: 64}\n")
    expected = dataclasses.replace(
        PpoConfig(), learning_rate=2e-4, value=1.0, size=NetworkSize(width=64)
    )
    assert read_config(path) == expected
    assert isinstance(read_config(path).value, float)


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("learning_rat: 1e-3", "learning_rat", "did you mean learning_rate?"),
        ("size: {witdh: 8}", "size.witdh", "did you mean width?"),
        ("size: 8", "size", "a mapping"),
        ("gamma: 1.5", "gamma", "at least 0 and at most 1"),
        ("clip: 0", "clip", "above 0 and at most 1"),
        ("epochs: 2.5", "epochs", "a whole number, at least 1"),
        ("epochs: true", "epochs", "a whole number"),
        ("gamma: high", "gamma", "a number"),
        ("value: .inf", "value", "a number"),
        ("weights: {packets: 0}", "weights.packets", "above 0"),
        ("gamma: 0.9\ngamma: 0.8", "gamma", "one value"),
        ("- 1", "config", "a mapping"),
        ("{", "config", ""),
    ],
)
def test_a_wrong_config_names_the_field(
    tmp_path: Path, text: str, field: str, expected: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_config(path)
    assert caught.value.field == field
    assert expected in caught.value.expected


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_config(tmp_path / "none.yaml")
    assert caught.value.field == "config"


def scenario(decisions: int = 1200) -> Scenario:
    smoke = load_scenario(SMOKE)
    return with_training(smoke, seed=3, decisions=decisions, environments=8)


def search(
    out: Path,
    trials: int,
    progress: Callable[[float], None] = lambda _: None,
    base: PpoConfig = TINY,
    searched: Scenario | None = None,
    **options: Any,
) -> TuneReport:
    job = TuningJob(searched or scenario(), out, trials, **options)
    return tune(study_of(job, base), job, progress, lambda _: None)


def outcomes(report: TuneReport) -> list[tuple[float, bool, dict[str, float]]]:
    return [(trial.cost, trial.pruned, trial.values) for trial in report.trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TuneReport]:
    """A study of four trials that nothing interrupted, and the file of its best config."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("tune") / "best.yaml"
    return out, search(out, 4)


def test_the_best_of_the_trials_is_written_and_the_first_is_the_start(
    whole: tuple[Path, TuneReport],
) -> None:
    out, report = whole
    assert len(report.trials) == 4
    assert report.trials[0].values == {name: value_of(TINY, name) for name in SPACE}
    assert report.first_cost == report.trials[0].cost
    complete = [trial for trial in report.trials if not trial.pruned]
    best = min(complete, key=lambda trial: trial.cost)
    assert report.cost == best.cost <= report.first_cost
    found = read_config(out)
    assert {name: value_of(found, name) for name in SPACE} == best.values
    assert config_from(report.config) == found
    assert report.config_text == config_text(found)
    assert len({tuple(trial.values.items()) for trial in report.trials}) == 4
    # What is not searched is the start's; a segment has as many decisions.
    assert found.pool == TINY.pool
    assert found.segment * found.steps == TINY.segment * TINY.steps


class Cut(Exception):
    """Stands for what ends a process."""


def test_a_study_that_was_cut_off_goes_on_as_if_it_had_not_been(
    whole: tuple[Path, TuneReport], tmp_path: Path
) -> None:
    out = tmp_path / "best.yaml"

    def cut(done: float) -> None:
        if done > 2.3 / 4:
            raise Cut

    with pytest.raises(Cut):
        search(out, 4, progress=cut)
    assert read_config(out)  # the best so far is kept
    report = search(out, 4, resume=True)
    assert outcomes(report) == outcomes(whole[1])
    assert report.config == whole[1].config


def test_a_trial_that_a_killed_process_left_behind_begins_again(
    whole: tuple[Path, TuneReport], tmp_path: Path
) -> None:
    out = tmp_path / "best.yaml"
    search(out, 1)
    with StudyJournal(journal_of(out)) as journal:
        storage = optuna.storages.JournalStorage(journal)
        optuna.load_study(study_name="placement-ppo", storage=storage).ask()
    report = search(out, 2, resume=True)
    assert outcomes(report) == outcomes(whole[1])[:2]


def test_a_study_is_neither_overwritten_nor_mixed_with_another(
    whole: tuple[Path, TuneReport],
) -> None:
    out, _ = whole
    with pytest.raises(InputError, match="--resume"):
        search(out, 5)
    each: list[dict[str, Any]] = [{"seed": 1}, {"resume": True, "seed": 1}]
    for options in each:
        with pytest.raises(InputError) as caught:
            search(out, 5, **options)
        assert caught.value.field == "resume"
    with pytest.raises(InputError, match="decisions 500, not 1200"):
        search(out, 5, searched=scenario(500), resume=True)
    with StudyJournal(journal_of(out)), pytest.raises(InputError, match="no other `deftbed tune`"):
        search(out, 5, resume=True)


def test_a_file_that_is_no_study_is_named(tmp_path: Path) -> None:
    (tmp_path / f"a.yaml{JOURNAL}").write_text("no journal\nat all\n")
    with pytest.raises(InputError) as caught:
        search(tmp_path / "a.yaml", 1, resume=True)
    assert caught.value.field == "resume"
    assert "line 1 is damaged" in caught.value.expected


ENTRIES: list[dict[str, Any]] = [{"op_code": n, "value": n / 7, "name": "é"} for n in range(6)]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "study"
    with StudyJournal(path) as kept:
        kept.append_logs(ENTRIES[:2])
        kept.append_logs(ENTRIES[2:])
    return path


def test_a_study_that_a_kill_cut_goes_on_from_its_last_whole_entry(journal: Path) -> None:
    content = journal.read_bytes()
    for length in range(len(content)):
        journal.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        with StudyJournal(journal) as kept:
            assert kept.read_logs(0) == ENTRIES[:whole]
            kept.append_logs(ENTRIES[whole:])
        assert journal.read_bytes() == content
    with StudyJournal(journal) as kept:
        assert kept.read_logs(4) == ENTRIES[4:]


def test_a_study_that_was_damaged_is_named(journal: Path) -> None:
    content = journal.read_bytes()
    lines = content.splitlines(keepends=True)
    damaged = [
        content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
        for at in range(len(content) - 1)
    ]
    damaged += [b"".join(lines[1:]), b"".join([*lines, lines[-1]]), b"{}\n", b"\n"]
    for text in damaged:
        journal.write_bytes(text)
        with pytest.raises(InputError) as caught:
            StudyJournal(journal)
        assert (caught.value.field, caught.value.value) == ("resume", str(journal))


def test_no_plan_is_used_by_which_policies_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: set[int] = set()

    def noted(loaded: Scenario, seed: int) -> Any:
        seeds.add(seed)
        return make_plan(loaded, seed)

    monkeypatch.setattr(plans, "make_plan", noted)
    search(tmp_path / "a.yaml", 1)
    learned = range(plans.TRAINING_SEEDS, plans.HELD_OUT_SEEDS)
    assert seeds
    assert all(seed in learned or seed >= plans.VALIDATION_SEEDS for seed in seeds)


def test_a_start_outside_the_search_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    base = config_from({"minibatch": 32}, TINY)
    with pytest.raises(InputError, match="one of") as caught:
        search(tmp_path / "a.yaml", 1, base=base)
    assert caught.value.field == "minibatch"
    assert not list(tmp_path.iterdir())


def test_out_of_time_before_a_trial_ended_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no trial"):
        search(tmp_path / "a.yaml", 1, seconds=0.0)
    assert len(search(tmp_path / "a.yaml", 1, resume=True).trials) == 1


def status(command: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_commands_search_then_train_by_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, best, model = (tmp_path / name for name in ("start.yaml", "best.json", "ppo.pt"))
    start.write_text(config_text(TINY))
    command = [
        "tune", str(SMOKE), "--trials", "2", "--decisions", "300", "--config", str(start), "--out",
    ]  # fmt: skip
    assert status([*command, str(best), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 2
    assert config_from(found["config"]) == read_config(best)
    assert status([*command, str(best)]) == EXIT_INPUT
    assert status([*command, str(best), "--resume"]) == 0
    assert config_from(json.loads(json.dumps(found["config"]))) == read_config(best)
    train = ["train", str(SMOKE), "--decisions", "300", "--out", str(model), "--config"]
    assert status([*train, str(best)]) == 0
    kept = torch.load(model, weights_only=True)
    assert kept["size"]["width"] == found["config"]["size"]["width"]
    start.write_text("learning_rat: 1")
    capsys.readouterr()
    assert status([*train[:-2], str(tmp_path / "b.pt"), "--config", str(start)]) == EXIT_INPUT
    assert "learning_rat" in capsys.readouterr().err
