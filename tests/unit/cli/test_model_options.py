"""Commands with models: the least usual combination works, or the command says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agents.placement import model as placement
from agents.placement.model import NetworkSize, make_network
from agents.provisioning import model as provisioning
from testbed.cli.main import main
from testbed.cli.options import EXIT_INPUT
from testbed.lab.comparison import _kept
from tests.support.places import SMOKE
from tests.unit.agents.provisioning.test_dqn import TINY

ABILENE = SMOKE.with_name("abilene.yaml")
Told = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each learned policy."""
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("models")
    size = NetworkSize(8, 1, 4)
    placement.save_model(made / "ppo.pt", make_network(size, 0), size)
    provisioning.save_model(made / "dqn.pt", provisioning.make_network(TINY, 0), TINY)
    return made


@pytest.fixture
def refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Told:
    """Runs a command that is refused for its input and leaves nothing; what it says."""
    monkeypatch.chdir(tmp_path)

    def told(*command: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in command])
        assert ended.value.code == EXIT_INPUT
        assert not list(tmp_path.iterdir())
        return capsys.readouterr().err

    return told


def test_a_run_takes_a_model_for_a_policy_that_learns_from_one(folder: Path, refused: Told) -> None:
    model = folder / "ppo.pt"
    assert "which learns nothing" in refused("run", SMOKE, "--model", model)
    assert "milp, which" in refused("run", SMOKE, "--policy", "milp", "--model", model)
    said = refused("run", SMOKE, "--policy", "ppo", "--model", folder / "none.pt")
    assert said.startswith("deftbed: --model = ")


def test_a_comparison_takes_models_of_its_policies_alone(folder: Path, refused: Told) -> None:
    for option, name in (("--model", "ppo"), ("--dqn-model", "dqn")):
        said = refused("compare", SMOKE, option, folder / f"{name}.pt")
        assert f"deftbed: {option} = " in said and f"{name} is none of the policies" in said
    said = refused("compare", ABILENE, "--dqn-model", folder)
    assert "--dqn-model = " in said


def test_an_evaluation_takes_models_of_one_learned_policy(folder: Path, refused: Told) -> None:
    ppo, dqn = folder / "ppo.pt", folder / "dqn.pt"
    said = refused("evaluate", SMOKE, "--policies", "deft", "--model", ppo)
    assert "none of the policies learns from one" in said
    assert "one learned policy" in refused(
        "evaluate", SMOKE, "--policies", "ppo,dqn", "--model", ppo
    )
    assert "a model for ppo" in refused("evaluate", SMOKE, "--policies", "deft,ppo")
    assert "kind placement-ppo, not provisioning-dqn" in refused(
        "evaluate", SMOKE, "--models", str(folder / "*.pt")
    )
    assert "kind provisioning-dqn, not placement-ppo" in refused(
        "evaluate", SMOKE, "--policies", "deft,dqn", "--model", dqn, "--model", ppo
    )
    assert "file names without repetition" in refused(
        "evaluate", SMOKE, "--model", ppo, "--model", ppo
    )
    for more in (("--model", ppo), ("--seeds", 3), ("--policies", "deft"), ("--loads", "1")):
        assert "summed up anew" in refused("evaluate", folder, *more)


def test_an_export_is_named_by_what_reads_it(folder: Path, refused: Told, tmp_path: Path) -> None:
    model = folder / "ppo.pt"
    for option, suffix in (("--onnx", ".onnx"), ("--pt2", ".pt2")):
        assert f"a name that ends in {suffix}" in refused("export", model, option, "a.bin")
        assert f"a name that ends in {suffix}" in refused(
            "export", model, "--onnx", "a.onnx", option, "a.other"
        )
        assert "a folder that exists" in refused("export", model, option, f"none/a{suffix}")
        assert "does not exist yet" in refused("export", model, option, folder)
    exported = folder / "wrong.onnx"
    exported.write_bytes(b"an exported model is no model to export")
    assert "a whole file of `deftbed train`" in refused("export", exported)
    assert "can be read" in refused("export", folder / "none.pt")


def test_a_model_keeps_its_name_among_the_results_unless_another_has_it(tmp_path: Path) -> None:
    results, given = tmp_path / "model", tmp_path / "given" / "ppo.pt"
    given.parent.mkdir()
    given.write_text("the dqn's")
    assert _kept("dqn", given, results) == results / "ppo.pt"
    (results / "ppo.pt").write_text("trained just now")
    kept = _kept("dqn", given, results)
    assert kept == results / "dqn-ppo.pt" and kept.read_text() == "the dqn's"
    assert _kept("ppo", results / "ppo.pt", results).read_text() == "trained just now"
