"""An exported placement model decides as the checkpoint that it was exported from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from agents.common.seal import digest
from agents.placement.batch import DecisionBatch
from agents.placement.cells import Cell, cell_scenario
from agents.placement.export import (
    GreedyPlacement,
    agreement,
    export_checked,
    export_onnx,
    export_pt2,
    sealed,
    served_file,
    weights_digest,
)
from agents.placement.features import NODE_FEATURES, make_inputs
from agents.placement.model import NetworkSize, PpoPolicy, make_network, save_model
from agents.placement.network import Inputs, PlacementNetwork
from agents.placement.on_twin import play
from agents.placement.onnx_format import SEAL_MARK, open_session, read_metadata
from agents.placement.onnx_policy import OnnxPolicy
from agents.placement.plans import training_plans
from agents.placement.policies import make_policy
from agents.placement.timing import WARM_UP, decision_times
from agents.placement.types import BACKUP
from testbed.cli.main import main
from testbed.cli.options import EXIT_INPUT
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario
from testbed.scenario.types import Placement, RunPlan
from testbed.twin.pack import pack_plans
from tests.support.places import ROOT
from tests.support.twin_support import line_plan, make_request, random_plan

SIZE = NetworkSize(16, 2, 8)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def decided_network(seed: int = 0) -> PlacementNetwork:
    """A network whose choices are clear: its heads start at 0, which would hide what is tested."""
    made = make_network(SIZE, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in (made.primary_score, made.backup_score, made.reject):
            head.weight.normal_(generator=generator)
            head.bias.normal_(generator=generator)
        made.backup_delay.normal_(generator=generator)
    return made.eval()


@pytest.fixture(scope="module")
def network() -> PlacementNetwork:
    return decided_network()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, network: PlacementNetwork) -> Path:
    """A folder with model.pt, model.onnx and model.pt2 of one network."""
    folder = tmp_path_factory.mktemp("exported")
    save_model(folder / "model.pt", network, SIZE)
    export_onnx(network, folder / "model.onnx")
    export_pt2(network, folder / "model.pt2")
    return folder


def plans_on(topology: str | None) -> Sequence[RunPlan]:
    if topology is None:
        return [random_plan(seed, 4) for seed in range(1)]
    scenario = load_scenario(ROOT / "scenarios" / "abilene.yaml")
    own = None if topology == scenario.topology.topohub else topology
    return training_plans(cell_scenario(scenario, Cell(1.0, own, topology)), 8)


def states_of(
    plans: Sequence[RunPlan], network: PlacementNetwork, environments: int, steps: int
) -> Inputs:
    """What a network sees on the twin while it plays by chance: every decision of every step."""
    batch = DecisionBatch(pack_plans(plans), environments, 0)
    generator = torch.Generator().manual_seed(0)
    kept: list[Inputs] = []
    tasks: set[int] = set()
    for _ in range(steps):
        inputs = make_inputs(batch.observe())
        kept.append(inputs)
        tasks |= set(batch.asks.task.tolist())
        chosen = network.act(inputs, generator)
        primary = chosen.primary.numpy()
        primary = np.where(primary == inputs.delay.shape[0], -1, primary)
        batch.step(primary, chosen.backup.numpy())
    assert BACKUP in tasks
    columns = [torch.cat(parts) for parts in zip(*(part[:-1] for part in kept), strict=True)]
    return Inputs(*columns, kept[0].delay)  # type: ignore[call-arg]


SIZES = [(None, 4), ("sndlib/abilene", 12), ("sndlib/geant", 22), ("sndlib/germany50", 50)]


@pytest.mark.parametrize(("topology", "nodes"), SIZES)
def test_exports_take_the_checkpoints_decisions_on_states_of_the_twin(
    exported: Path, network: PlacementNetwork, topology: str | None, nodes: int
) -> None:
    inputs = states_of(plans_on(topology), network, 8, 256)
    assert inputs.node.shape[:2] == (2048, nodes)
    expected = network.act(inputs, None)
    assert len(set(expected.primary.tolist())) > nodes // 2  # they are not all alike
    found = agreement(network, exported / "model.onnx", inputs)
    assert (found.states, found.different) == (2048, 0)
    assert found.score_difference < 1e-4
    primary, backup, _, _ = torch.export.load(exported / "model.pt2").module()(*inputs)
    assert torch.equal(primary, expected.primary)
    assert torch.equal(backup, expected.backup)


def test_the_exported_module_is_the_networks_greedy_act(network: PlacementNetwork) -> None:
    inputs = states_of(plans_on(None), network, 16, 32)
    expected = network.act(inputs, None)
    primary, backup, primary_score, backup_score = GreedyPlacement(network)(*inputs)
    assert torch.equal(primary, expected.primary)
    assert torch.equal(backup, expected.backup)
    rows = torch.arange(len(primary))
    found = primary_score[rows, primary] + torch.where(backup >= 0, backup_score[rows, backup], 0)
    torch.testing.assert_close(found, expected.log_probability)


def test_a_network_with_other_weights_is_told_from_the_exported(
    exported: Path, network: PlacementNetwork
) -> None:
    inputs = states_of(plans_on(None), network, 16, 32)
    found = agreement(decided_network(1), exported / "model.onnx", inputs)
    assert found.different > 0
    assert found.score_difference > 0.1


def test_the_file_says_what_it_is_and_nothing_of_the_machine(
    exported: Path, network: PlacementNetwork
) -> None:
    said = read_metadata(open_session(exported / "model.onnx"))
    assert said["weights_sha256"] == weights_digest(network)
    assert said["weights_sha256"] != weights_digest(decided_network(1))
    assert (said["format"], said["kind"]) == ("2", "placement-ppo-greedy")
    assert said["node_features"] == str(NODE_FEATURES)
    assert str(ROOT).encode() not in (exported / "model.onnx").read_bytes()
    extra = {"weights_sha256.txt": ""}
    torch.export.load(exported / "model.pt2", extra_files=extra)
    assert extra["weights_sha256.txt"] == weights_digest(network)


def test_the_same_weights_give_the_same_file(
    exported: Path, tmp_path: Path, network: PlacementNetwork
) -> None:
    export_onnx(network, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (exported / "model.onnx").read_bytes()


def test_an_episode_decided_by_the_onnx_file_is_that_of_the_checkpoint(
    exported: Path, network: PlacementNetwork
) -> None:
    served = make_policy("ppo", 1, exported / "model.onnx")
    trained = make_policy("ppo", 1, exported / "model.pt")
    assert (type(served), type(trained)) == (OnnxPolicy, PpoPolicy)
    for plan in (plans_on("sndlib/abilene")[0], *(random_plan(seed) for seed in range(3))):
        one, other = play([plan], [served.decide])[0], play([plan], [trained.decide])[0]
        assert one.placements == other.placements
        assert one.backups == other.backups
        assert one.result.cost == other.result.cost


def test_a_policy_serves_networks_of_different_sizes_in_turn(exported: Path) -> None:
    """Each size has memory of its own, and an answer does not depend on what came before."""
    policy, fresh = OnnxPolicy(exported / "model.onnx"), OnnxPolicy(exported / "model.onnx")
    small, large = observations(random_plan(0, 4)), observations(random_plan(1, 9))
    alone = [fresh.decide(seen) for seen in small]
    mixed = [(policy.decide(one), policy.decide(two)) for one, two in zip(small, large)]  # noqa: B905
    assert [one for one, _ in mixed] == alone[: len(mixed)]
    assert len(mixed) > 10


def observations(plan: RunPlan) -> list[PlacementObservation]:
    kept: list[PlacementObservation] = []

    def decide(seen: PlacementObservation) -> Placement | None:
        kept.append(seen)
        alive = np.flatnonzero(seen.alive)
        if seen.task == "place":
            return Placement(int(alive[0]), int(alive[1]))
        free = [int(node) for node in alive if node not in seen.members]
        return Placement(seen.members[0], free[0]) if free else None

    play([plan], [decide])
    return kept


def test_decision_times_ask_about_every_observation_and_are_in_microseconds() -> None:
    asked: list[int] = []

    class Asked:
        def decide(self, observation: PlacementObservation) -> Placement | None:
            asked.append(observation.request)
            return None

    seen = observations(line_plan(tuple(make_request(number) for number in range(5))))
    found = decision_times(Asked(), seen)
    assert asked[WARM_UP:] == [observation.request for observation in seen]
    assert 0 < found.p50_us <= found.p99_us
    with pytest.raises(ValueError, match="at least one"):
        decision_times(Asked(), [])


def with_metadata(source: Path, out: Path, **changes: str) -> Path:
    proto = onnx.load(source)
    said = {entry.key: entry.value for entry in proto.metadata_props} | changes
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, said)
    out.write_bytes(sealed(proto.SerializeToString()))
    return out


def other_graph(out: Path, source: Path) -> Path:
    """A valid graph with the metadata of a placement model that takes something else."""
    value = onnx.helper.make_tensor_value_info("node", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("primary", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["node"], ["primary"])], "other", [value], [result]
    )
    opset = onnx.helper.make_opsetid("", 20)
    proto = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    proto.metadata_props.extend(onnx.load(source).metadata_props)
    out.write_bytes(sealed(proto.SerializeToString()))
    return out


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "a file that can be read"),
        ("empty", "a whole file of `deftbed export`"),
        ("text", "a whole file of `deftbed export`"),
        ("checkpoint", "a whole file of `deftbed export`"),
        ("unsealed", "a whole file of `deftbed export`"),
        ("outside", "a file as `deftbed export` wrote it; this one is damaged"),
        ("sealed text", "a model that ONNX Runtime"),
        ("sealed outside", "a model that ONNX Runtime"),
        ("features", f"node_features {NODE_FEATURES}, not 16"),
        ("graph", "the inputs node, request"),
    ],
)
def test_a_wrong_onnx_file_is_named(
    exported: Path, tmp_path: Path, kind: str, expected: str
) -> None:
    path, right = tmp_path / "wrong.onnx", exported / "model.onnx"
    if kind in ("empty", "text"):
        path.write_bytes(b"" if kind == "empty" else b"no model")
    elif kind == "checkpoint":
        shutil.copyfile(exported / "model.pt", path)
    elif kind == "sealed text":
        path.write_bytes(sealed(b"no model"))
    elif kind == "unsealed":
        path.write_bytes(right.read_bytes()[: -64 - len(SEAL_MARK)])
    elif kind in ("outside", "sealed outside"):
        # torch and others write weights into a file beside the model; that file is missing here.
        beside = {"location": "wrong.onnx.data", "size_threshold": 0, "convert_attribute": True}
        onnx.save(onnx.load(right), path, save_as_external_data=True, **beside)
        path.with_suffix(".onnx.data").unlink(missing_ok=True)
        if kind.startswith("sealed"):
            path.write_bytes(sealed(path.read_bytes()))
    elif kind == "features":
        with_metadata(right, path, node_features="16")
    elif kind == "graph":
        other_graph(path, right)
    with pytest.raises(InputError) as caught:
        make_policy("ppo", 1, path)
    assert (caught.value.field, caught.value.value) == ("model", str(path))
    assert expected in caught.value.expected
    assert "ONNXRuntimeError" not in caught.value.expected


def test_the_seal_is_part_of_a_model_that_others_read(exported: Path) -> None:
    path = exported / "model.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    last = onnx.load(path).metadata_props[-1]
    content = path.read_bytes()
    assert last.key == "sha256_before"
    assert last.value.encode() == content[-64:] == digest([content[: -64 - len(SEAL_MARK)]])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert read_metadata(session)["sha256_before"] == last.value


def test_the_command_writes_both_files_and_says_how_they_compare(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.onnx", tmp_path / "a.pt2"]
    model = str(exported / "model.pt")
    command = ["export", model, "--onnx", str(files[0]), "--pt2", str(files[1]), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["states"], facts["different"]) == (1500, 0)
    assert facts["score_difference"] < 1e-4
    assert all(path.is_file() for path in files)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == EXIT_INPUT
    assert "--onnx" in capsys.readouterr().err


def test_deciding_by_an_onnx_file_imports_no_torch(exported: Path) -> None:
    """Its import takes longer than many a run; a run with an exported model goes without."""
    code = (
        "import sys; from pathlib import Path; from agents.placement.policies import make_policy; "
        f"make_policy('ppo', 1, Path({str(exported / 'model.onnx')!r})); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_an_export_that_differs_is_refused_and_removed(
    tmp_path: Path, network: PlacementNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.placement.export.SCORE_TOLERANCE", -1.0)
    with pytest.raises(Exception, match="its scores differ"):
        export_checked(network, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_runs_decide_by_onnx_and_a_models_own_folder_stays_as_it_is(
    exported: Path, tmp_path: Path, network: PlacementNetwork
) -> None:
    given = tmp_path / "mine" / "model.pt"
    given.parent.mkdir()
    shutil.copyfile(exported / "model.pt", given)
    served = served_file(given, tmp_path / "results")
    assert served == tmp_path / "results" / "model.onnx"
    said = read_metadata(open_session(served))
    assert said["weights_sha256"] == weights_digest(network)
    assert [path.name for path in given.parent.iterdir()] == ["model.pt"]
    assert served_file(served, tmp_path / "none") == served
    assert not (tmp_path / "none").exists()


def test_the_example_of_the_guide_works(exported: Path, tmp_path: Path) -> None:
    shutil.copyfile(exported / "model.onnx", tmp_path / "ppo.onnx")
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    primary, backup = (int(part.split("]")[0]) for part in ran.stdout.split("array([")[1:])
    assert 0 <= primary <= 4
    assert -1 <= backup < 4
