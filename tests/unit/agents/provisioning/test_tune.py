"""The searches for hyperparameters of provisioning: their spaces, and a search by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.common.hyperparameters import Between, Space, config_text, value_of
from agents.provisioning.config import (
    BOUNDS,
    PPO_BOUNDS,
    DqnConfig,
    PpoConfig,
    read_config,
    read_ppo_config,
)
from agents.provisioning.generator import GeneratorConfig
from agents.provisioning.tune import DQN_SPACE, PPO_SPACE
from testbed.cli.main import main
from testbed.cli.options import EXIT_INPUT
from tests.support.places import SCENARIOS

STREAMS = GeneratorConfig(centres=(2, 3), arrival_steps=4)
CONFIGS = {
    "dqn": DqnConfig(
        environments=3, rounds=4, steps=16, updates=8, batch=64, warm_up=40, replay=500,
        evaluate_every=2, evaluation_streams=2, checkpoint_every=3, streams=STREAMS,
    ),
    "ppo": PpoConfig(
        environments=3, rounds=4, steps=16, minibatch=256, evaluate_every=2, evaluation_streams=2,
        checkpoint_every=3, streams=STREAMS,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("space", "base", "bounds"),
    [(DQN_SPACE, DqnConfig(), BOUNDS), (PPO_SPACE, PpoConfig(), PPO_BOUNDS)],
)
def test_a_search_starts_at_the_defaults_and_stays_within_the_bounds(
    space: Space, base: DqnConfig | PpoConfig, bounds: dict[str, object]
) -> None:
    for name, search in space.items():
        default = value_of(base, name)
        ends: tuple[float, ...] = search.values if not isinstance(search, Between) else search[:2]
        assert min(ends) <= default <= max(ends), name
        assert all(end in bounds[name] for end in ends), name  # type: ignore[operator]


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_the_command_searches_and_goes_on_with_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    start, best = tmp_path / "start.yaml", tmp_path / "best.yaml"
    start.write_text(config_text(CONFIGS[algorithm]))
    command = [
        "tune", str(SCENARIOS / "provisioning.yaml"), "--algorithm", algorithm, "--config",
        str(start), "--out", str(best), "--json",
    ]  # fmt: skip
    assert status([*command, "--trials", "1"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert status([*command, "--trials", "2"]) == EXIT_INPUT
    assert status([*command, "--trials", "2", "--resume"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 2 and found["trials"][0] == first["trials"][0]
    read = {"dqn": read_config, "ppo": read_ppo_config}[algorithm]
    assert json.loads(json.dumps(found["config"]))["steps"] == value_of(read(best), "steps")


@pytest.mark.parametrize("option", ["--calibration", "--decisions"])
def test_what_plays_no_part_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    command = ["tune", str(SCENARIOS / "provisioning.yaml"), "--out", str(tmp_path / "a.yaml")]
    assert status([*command, option, "1"]) == EXIT_INPUT
    assert option in capsys.readouterr().err


def status(command: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(command)
    return int(ended.value.code or 0)
