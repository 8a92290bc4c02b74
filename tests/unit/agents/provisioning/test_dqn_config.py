"""The DQN's hyperparameters in a file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from agents.provisioning.config import BOUNDS, DqnConfig, read_config
from agents.provisioning.model import load_model
from testbed.cli.main import main
from testbed.cli.options import EXIT_INPUT
from testbed.scenario.errors import InputError
from tests.support.places import SMOKE
from tests.unit.agents.provisioning.test_dqn import TINY

TINY_FILE = """
{environments: 3, rounds: 8, steps: 8, updates: 2, batch: 16, warm_up: 40, replay: 500, n_step: 3,
 evaluate_every: 4, evaluation_streams: 2, checkpoint_every: 3,
 streams: {centres: [2, 3], arrival_steps: 4, load: [1, 1]}}
"""


def numbers(value: Any, prefix: str = "") -> list[str]:
    """The names of a config's numbers, and of its lists of them."""
    found: list[str] = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            found += numbers(inner, f"{prefix}{key}.")
        elif not isinstance(inner, bool):
            found.append(prefix + key)
    return found


def test_every_number_has_bounds_and_a_config_that_is_written_is_the_one_that_is_read(
    tmp_path: Path,
) -> None:
    config = dataclasses.replace(TINY, double=False, gamma=0.25, beta=(0.5, 0.75))
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    values["rewards"] = config.rewards._asdict()
    assert sorted(BOUNDS) == sorted(numbers(values))
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(values))
    assert read_config(path) == config
    path.write_text(TINY_FILE)
    assert read_config(path) == TINY
    path.write_text("streams: {centres: [2, 2]}\nrewards: {dropped: -3}\nphases: [[1, 0.5]]")
    mine = read_config(path)
    assert mine.streams == dataclasses.replace(DqnConfig().streams, centres=(2, 2))
    assert mine.rewards == DqnConfig().rewards._replace(dropped=-3.0)
    assert mine.phases == ((1.0, 0.5),)


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("learning_rat: 1e-3", "learning_rat", "did you mean learning_rate?"),
        ("streams: {lod: [1, 2]}", "streams.lod", "did you mean load?"),
        ("rewards: 3", "rewards", "a mapping"),
        ("double: 1", "double", "true or false"),
        ("batch: 2.5", "batch", "a whole number, at least 1"),
        ("beta: [0.4, 1.5]", "beta", "at least 0 and at most 1"),
        ("beta: [0.4]", "beta", "a list of 2"),
        ("phases: []", "phases", "a list of 1"),
        ("phases: 0.5", "phases", "a list"),
        ("streams: {load: [8, 1]}", "load", "least <= most"),
        ("warm_up: 200000", "warm_up", "at most replay"),
        ("size: {own: [128, 32]}", "size.underway", "32 at its end"),
        ("size: {heads: 3}", "size.heads", "a divisor"),
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


def test_the_command_trains_by_a_config_and_without_a_calibration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "dqn.pt"
    config.write_text(TINY_FILE)
    command = ["train", str(SMOKE), "--algorithm", "dqn", "--out", str(out), "--json"]
    fitted = tmp_path / "calibration.json"
    fitted.write_text(json.dumps({"format": 1}))

    def status(*more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main([*command, *more])
        return int(ended.value.code or 0)

    assert status("--config", str(config), "--calibration", str(fitted)) == EXIT_INPUT
    assert "--calibration" in capsys.readouterr().err
    assert status("--config", str(config)) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == TINY.rounds
    assert load_model(out).heads == TINY.size.heads
