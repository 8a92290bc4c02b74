"""`deftbed train`: every option is carried out or refused; what was killed goes on."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.summary.writer import event_file_writer

from agents.common.checkpoints import checkpoint_of
from agents.common.logs import Log
from agents.provisioning.model import load_model
from testbed.cli.main import main
from testbed.cli.options import EXIT_INPUT
from testbed.cli.training import learned_by
from testbed.scenario.errors import InputError
from tests.support.places import ROOT, SMOKE
from tests.unit.agents.provisioning.test_dqn import steps_shown
from tests.unit.agents.provisioning.test_dqn_config import TINY_FILE

EACH = 24
"""Decisions of a round of TINY_FILE."""


@pytest.fixture
def dqn(tmp_path: Path) -> list[str]:
    """The command for a short training of dqn, but for where it goes."""
    config = tmp_path / "dqn.yaml"
    config.write_text(TINY_FILE)
    return ["train", str(SMOKE), "--algorithm", "dqn", "--config", str(config), "--json"]


def status(*command: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    return int(ended.value.code or 0)


def meant(name: str | None, algorithm: str | None, own: str = "placement") -> tuple[str, str]:
    problem, found = learned_by(name, algorithm, own)
    return problem.name, found


def test_algorithms_and_problems_belong_together() -> None:
    assert meant(None, None) == ("placement", "ppo")
    assert meant("placement", None) == meant(None, "ppo") == ("placement", "ppo")
    assert meant("provisioning", None) == meant(None, "dqn") == ("provisioning", "dqn")
    assert meant("provisioning", "ppo") == ("provisioning", "ppo")
    assert meant(None, None, "provisioning") == ("provisioning", "dqn")
    assert meant(None, "ppo", "provisioning") == ("provisioning", "ppo")
    for problem, algorithm, field, told in (
        ("placement", "dqn", "--algorithm", "ppo for placement"),
        ("provisioning", "sac", "--algorithm", "dqn or ppo for provisioning"),
        ("slicing", None, "--problem", "one of placement, provisioning"),
        ("slicing", "dqn", "--problem", "one of placement, provisioning"),
        (None, "sac", "--algorithm", "one of ppo, dqn"),
    ):
        with pytest.raises(InputError) as caught:
            learned_by(problem, algorithm, "placement")
        assert (caught.value.field, caught.value.expected) == (field, told)


def test_dqn_carries_out_its_options(
    dqn: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, logs = tmp_path / "a.pt", tmp_path / "elsewhere"
    more = ["--problem", "provisioning", "--seed", "7", "--decisions", str(3 * EACH - 1)]
    assert status(*dqn, "--out", str(out), "--logs", str(logs), *more) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["seed"], report["rounds"], report["decisions"]) == (7, 3, 3 * EACH)
    assert steps_shown(logs, "reward") == [EACH, 2 * EACH, 3 * EACH]
    assert load_model(out)
    assert {path.name for path in tmp_path.iterdir()} == {"a.pt", "elsewhere", "dqn.yaml"}


def test_the_folder_of_curves_that_is_named_exists(
    dqn: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.pt"
    assert status(*dqn[:-1], "--out", str(out)) == 0
    named = capsys.readouterr().err.split("curves in ")[1]
    assert "".join(named.split()) == str(tmp_path / "a-logs")
    assert len(steps_shown(tmp_path / "a-logs", "reward")) == 8


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--topologies", "sndlib/geant"), "--topologies"),
        (("--problem", "placement"), "--algorithm = 'dqn': expected ppo for placement"),
        (("--decisions", "20"), "warm_up = 40: expected at most 18"),
        (("--out", "nowhere/a.pt"), "a file in a folder that exists"),
        (("--out", "."), "a file that does not exist yet"),
        (("--logs", "LOGS"), "logs"),
    ],
)
def test_what_dqn_cannot_do_is_refused(
    dqn: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    told: str,
) -> None:
    (tmp_path / "logs").write_text("a file")
    more = tuple(str(tmp_path / "logs") if each == "LOGS" else each for each in more)
    assert status(*dqn, "--out", str(tmp_path / "a.pt"), *more) == EXIT_INPUT
    assert told in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"logs", "dqn.yaml"}


def test_a_model_that_is_there_is_never_written_over(
    dqn: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.pt"
    assert status(*dqn, "--out", str(out)) == 0
    before = out.read_bytes()
    for more in ([], ["--resume"]):
        assert status(*dqn, "--out", str(out), *more) == EXIT_INPUT
        assert "does not exist yet" in capsys.readouterr().err
    assert out.read_bytes() == before


START = "import sys; from testbed.cli.main import main; main(sys.argv[1:])"


def killed_at(command: list[str], checkpoint: Path, times: int) -> None:
    """Run the command in a process of its own; kill it once its checkpoint was written anew."""
    process = subprocess.Popen(
        [sys.executable, "-c", START, *command], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    seen: set[int] = set()
    until_s = time.monotonic() + 120
    try:
        while len(seen) < times and process.poll() is None and time.monotonic() < until_s:
            if checkpoint.exists():
                seen.add(checkpoint.stat().st_mtime_ns)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL and checkpoint.exists()


def test_a_dqn_that_was_killed_ends_with_the_weights_of_one_that_was_not(
    dqn: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(dqn[dqn.index("--config") + 1])
    text = TINY_FILE.replace("checkpoint_every: 3", "checkpoint_every: 1")
    config.write_text(text.replace("rounds: 8", "rounds: 60"))
    whole, out = tmp_path / "whole.pt", tmp_path / "a.pt"
    assert status(*dqn, "--out", str(whole)) == 0
    expected = json.loads(capsys.readouterr().out)
    for times in (5, 9):
        killed_at([*dqn, "--out", str(out), "--resume"], checkpoint_of(out), times)
        assert not out.exists()
    assert status(*dqn, "--out", str(out)) == EXIT_INPUT, "it would be written over"
    assert "--resume" in capsys.readouterr().err
    assert status(*dqn, "--out", str(out), "--resume") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["curve"] == expected["curve"]
    one, two = (load_model(path).state_dict() for path in (whole, out))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert steps_shown(tmp_path / "a-logs", "reward") == [EACH * (n + 1) for n in range(60)]


def test_what_a_training_goes_on_from_stays_in_its_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorBoard reads files by their names: the second of the start, then a process's own count,
    # of which 10 comes before 9. Trainings that follow one another never begin in one second.
    seconds = itertools.count(1_000_000_000)
    clock = SimpleNamespace(time=lambda: float(next(seconds)))
    monkeypatch.setattr(event_file_writer, "time", clock)
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))
    for resumed_at, points in ((0, (10, 20, 30)), (20, (30, 40))):
        with Log(tmp_path, resumed_at) as log:
            for decisions in points:
                log.write({"decisions": float(decisions), "cost": 1.0})
    # 30 was written by the first one after its last checkpoint, and again by the second.
    assert steps_shown(tmp_path, "cost") == [10, 20, 30, 40]
    with Log(tmp_path) as log:
        log.write({"decisions": 15.0, "cost": 2.0})
    assert steps_shown(tmp_path, "cost") == [15], "one that begins anew hides what was there"
