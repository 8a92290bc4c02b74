"""Commands with the least usual combination of their options: an answer, or what to do instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.cli.main import COMMANDS, main
from testbed.cli.options import EXIT_INPUT
from tests.support.places import SMOKE

SCENARIO = str(SMOKE)


def said(capsys: pytest.CaptureFixture[str], *command: str, status: int = 0) -> tuple[str, str]:
    """What a command prints on standard output and on standard error."""
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    found = capsys.readouterr()
    assert ended.value.code == status, found.err
    return found.out, " ".join(found.err.split())


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the present one, where nobody asks for root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return tmp_path


@pytest.mark.parametrize("command", [command.__name__ for command in COMMANDS])
def test_every_command_says_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["bench", "twin"] if command == "bench" else [command]
    out, _ = said(capsys, *given, "--help")
    assert "--json" in out and "usage" in out.lower()


def test_clean_tells_what_it_would_remove(
    empty: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stale(dry_run: bool) -> list[str]:
        asked.append(dry_run)
        return ["bridge d1-s0 [of run a1b2c3]"]

    monkeypatch.setattr("testbed.substrate.ownership.clean_stale", stale)
    out, _ = said(capsys, "clean", "--dry-run", "--json")
    assert json.loads(out) == {"removed": ["bridge d1-s0 [of run a1b2c3]"], "dry_run": True}
    _, err = said(capsys, "clean")
    assert "bridge d1-s0 [of run a1b2c3]" in err and "1 things" in err
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("calibrate --from . --out new.json --repetitions 3 --json", "made by `deftbed calibrate`"),
        ("validate SMOKE --from . --json", "either scenarios or --from"),
        ("validate SMOKE --seeds 1,x --policies deft", "--seeds = '1,x'"),
        ("validate SMOKE --seeds=-1", "seeds of at least 0"),
        ("validate SMOKE --policies deft,ppo", "that need no training"),
        ("faults SMOKE --kinds kill-primary,flood --count 1 --seed 0", "--kinds = 'flood'"),
        ("throughput SMOKE --policy ppo --tcp 1 --l3-bytes 64", "one that needs no training"),
        ("throughput SMOKE --resolution 1 --acceptable-loss 0.1", "--resolution"),
        ("throughput SMOKE --acceptable-loss=-0.1", "--acceptable-loss"),
        ("move nobody --request 0 --function 0 --to n1 --shard 2 --json", "'nobody'"),
        ("scale nobody --request 0 --function 0 --instances 2", "'nobody'"),
        ("report . --include-invalid --json", "a results folder with a manifest.json"),
        ("trace . 0/0/0 --json", "the folder of one run"),
        ("run SMOKE --policy nothing --seed 3", "--policy = 'nothing'"),
        ("run SMOKE --results .", "--results"),
        ("compare SMOKE --results . --include-invalid", "--results"),
        ("train SMOKE --problem provisioning --algorithm sac", "ppo"),
        ("train SMOKE --problem nothing", "--problem = 'nothing'"),
        ("train SMOKE --topologies abilene", "e.g. sndlib/abilene"),
        ("evaluate . --seeds 3 --json", "no option but --json"),
        ("evaluate SMOKE --loads 1,1", "--loads = '1,1'"),
        ("evaluate SMOKE --topologies abilene --policies deft --loads 1", "sndlib/abilene"),
        ("bench flood --json", "bench = 'flood'"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    empty: Path, capsys: pytest.CaptureFixture[str], command: str, expected: str
) -> None:
    words = [SCENARIO if word == "SMOKE" else word for word in command.split()]
    out, err = said(capsys, *words, status=EXIT_INPUT)
    assert expected in err and not out
    assert not list(empty.iterdir())
