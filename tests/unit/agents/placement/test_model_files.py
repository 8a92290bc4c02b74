"""A file of a model or a training that is damaged, cut off or none at all is named; all readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.common.checkpoints import checkpoint_of, earlier, write_checkpoint
from agents.common.hyperparameters import config_text
from agents.placement import config as ppo_config
from agents.placement import model as placement
from agents.placement.config import PpoConfig
from agents.placement.export import export_onnx
from agents.placement.model import NetworkSize, make_network
from agents.placement.onnx_format import open_session
from agents.provisioning import config as dqn_config
from agents.provisioning import model as provisioning
from agents.provisioning.model import training_header
from testbed.cli.main import main
from testbed.cli.options import EXIT_INPUT
from testbed.scenario.errors import InputError
from tests.support.places import SMOKE
from tests.unit.agents.provisioning.test_dqn import TINY
from tests.unit.agents.provisioning.test_dqn_config import TINY_FILE

Reader = Callable[[Path], object]
HEADER = training_header(TINY, 1)


def resumed(path: Path) -> object:
    """What a training goes on from, of which `path` is the checkpoint."""
    return earlier(path.with_name(path.name.removesuffix(".checkpoint")), True, HEADER)


READERS: dict[str, Reader] = {
    "ppo.pt": placement.load_model,
    "dqn.pt": provisioning.load_model,
    "a.pt.checkpoint": resumed,
    "ppo.onnx": open_session,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole file for each reader."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    size = NetworkSize(8, 1, 4)
    network = make_network(size, 0)
    placement.save_model(folder / "ppo.pt", network, size)
    export_onnx(network, folder / "ppo.onnx")
    provisioning.save_model(folder / "dqn.pt", provisioning.make_network(TINY, 0), TINY)
    write_checkpoint(folder / "a.pt.checkpoint", {**HEADER, "curve": [{"cost": 1.0}] * 9})
    return folder


def refused(read: Reader, path: Path) -> str:
    """What is said of a file that is no model."""
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.field in ("model", "resume")
    assert caught.value.value == str(path)
    said = str(caught.value)
    assert "weights_only" not in said and "Error" not in said and "\n" not in said
    return said


@pytest.mark.parametrize("name", READERS)
def test_a_whole_file_is_read(files: Path, name: str) -> None:
    assert READERS[name](files / name) is not None


@pytest.mark.parametrize("name", READERS)
def test_a_file_with_a_flipped_bit_is_named_wherever_it_is(
    files: Path, tmp_path: Path, name: str
) -> None:
    content, path = (files / name).read_bytes(), tmp_path / name
    rng = np.random.default_rng(0)
    places = {*range(64), *range(len(content) - 128, len(content))}
    places |= set(rng.integers(0, len(content), 400).tolist())
    for at in places:
        flipped = content[at] ^ (1 << int(rng.integers(8)))
        path.write_bytes(content[:at] + bytes([flipped]) + content[at + 1 :])
        refused(READERS[name], path)


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_was_cut_or_grew_is_named(files: Path, tmp_path: Path, name: str) -> None:
    content, path = (files / name).read_bytes(), tmp_path / name
    rng = np.random.default_rng(1)
    lengths = {0, 1, 63, 64, 65, *range(len(content) - 100, len(content))}
    for length in lengths | set(rng.integers(0, len(content), 200).tolist()):
        path.write_bytes(content[:length])
        refused(READERS[name], path)
        path.write_bytes(content[length:])
        if length:
            refused(READERS[name], path)
    for more in (b"\n", content, b"\0" * 5000):
        path.write_bytes(content + more)
        if more != content:
            refused(READERS[name], path)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "content", [b"hello\n", b"", b"\0" * 999, b"PK\x03\x04", "é".encode() * 99]
)
def test_what_is_no_model_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert "a whole file of `deftbed" in refused(READERS[name], path)


@pytest.mark.parametrize("name", READERS)
def test_a_folder_and_another_kind_of_file_are_named(
    files: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    refused(READERS[name], tmp_path / name)
    for other in READERS:
        if other != name:
            path = tmp_path / "other.checkpoint"
            path.write_bytes((files / other).read_bytes())
            refused(READERS[name], path)


def test_a_model_of_another_problem_is_told_in_words(files: Path) -> None:
    said = refused(placement.load_model, files / "dqn.pt")
    assert "kind placement-ppo, not provisioning-dqn" in said
    assert "kind provisioning-dqn, not placement-ppo" in refused(
        provisioning.load_model, files / "ppo.pt"
    )
    said = refused(provisioning.load_model, files / "a.pt.checkpoint")
    assert "kind provisioning-dqn, not provisioning-dqn-checkpoint" in said


def test_weights_of_another_shape_are_told_in_words(files: Path, tmp_path: Path) -> None:
    right = torch.load(files / "dqn.pt", weights_only=True)
    odd = dict(right["weights"])
    odd["own.0.bias"] = torch.zeros(3)
    write_checkpoint(tmp_path / "a.pt", {**right, "weights": odd})
    said = refused(provisioning.load_model, tmp_path / "a.pt")
    assert "own.0.bias [128], not [3]" in said
    for weights in (None, [1], {"own.0.bias": 3}, {1: torch.zeros(1)}):
        write_checkpoint(tmp_path / "a.pt", {**right, "weights": weights})
        refused(provisioning.load_model, tmp_path / "a.pt")


def test_the_commands_name_the_file(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "not-a-model.pt"
    path.write_bytes(b"hello\n")
    other = str(files / "dqn.pt")
    for command in (
        ["export", str(path)],
        ["export", other],
        ["evaluate", str(SMOKE), "--policies", "ppo", "--model", str(path)],
        ["evaluate", str(SMOKE), "--model", other],
        ["evaluate", str(SMOKE), "--policies", "dqn", "--model", str(files / "ppo.onnx")],
    ):
        results = ["--results", str(tmp_path / "results")] if command[0] == "evaluate" else []
        with pytest.raises(SystemExit) as ended:
            main([*command, *results])
        assert ended.value.code == EXIT_INPUT
        said = capsys.readouterr().err
        assert "deftbed: model = " in said and "weights_only" not in said
        assert not (tmp_path / "results").exists()
    assert not checkpoint_of(path).exists()


CONFIGS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "ppo": (config_text(PpoConfig()), ppo_config.read_config),
    "ppo.json": (config_text(PpoConfig(), as_json=True), ppo_config.read_config),
    "dqn": (TINY_FILE, dqn_config.read_config),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_damaged_config_is_read_or_refused_by_an_input_error(tmp_path: Path, name: str) -> None:
    text, read = CONFIGS[name]
    content, path = text.encode(), tmp_path / name
    rng, refusals = np.random.default_rng(2), 0
    for number in range(600):
        at = int(rng.integers(len(content)))
        changed = bytes(rng.integers(0, 256, int(rng.integers(1, 4)), dtype=np.uint8))
        path.write_bytes(content[:at] + (b"" if number % 3 == 0 else changed + content[at + 1 :]))
        try:
            read(path)
        except InputError as error:
            refusals += 1
            assert error.field and "Error" not in str(error)
    assert refusals > 200


@pytest.mark.parametrize("read", [ppo_config.read_config, dqn_config.read_config])
@pytest.mark.parametrize(
    "text",
    [
        "gamma: 2020-13-45", "gamma: 1_0", "gamma: 010", "gamma: [", "? [a]\n: 1", "{a: 1}: 2",
        "[" * 5000, "{a: " * 3000, "gamma: !!python/object:os.system x", "gamma: !!int a",
        "gamma: \0", "gamma: 1" + "0" * 5000, "gamma: {}", "size: []", "size: {width: }",
        "gamma: .nan", "&a [*a]", "gamma: *a", "1: 2", "null: 1", "size: null", "gamma: null",
        "n" * 300_000, "--- 1\n--- 2", "learning_rate: 1e400", "\ufeff- 1",
    ],
)  # fmt: skip
def test_an_odd_config_is_refused_by_an_input_error(
    tmp_path: Path, read: Callable[[Path], Any], text: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read(path)
    assert "Error" not in str(caught.value) and "dataclass" not in str(caught.value)


def test_a_config_may_merge_its_mappings(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("size: &a {width: 16, heads: 1}\n<<: {gamma: 0.5}\nlam: 0.7\n")
    found = ppo_config.read_config(path)
    assert (found.gamma, found.lam, found.size.width) == (0.5, 0.7, 16)


@pytest.mark.parametrize(
    ("read", "bounds"),
    [
        (ppo_config.read_config, ppo_config.BOUNDS),
        (dqn_config.read_config, dqn_config.BOUNDS),
    ],
)
def test_no_number_is_without_end(
    tmp_path: Path, read: Callable[[Path], Any], bounds: dict[str, Any]
) -> None:
    path = tmp_path / "config.yaml"
    for name in bounds:
        group, _, field = name.rpartition(".")
        for value in ("1e300", "1" + "0" * 30, "-1e300"):
            inner = f"{field}: {value}"
            path.write_text(f"{group}: {{{inner}}}" if group else inner)
            with pytest.raises(InputError) as caught:
                read(path)
            assert caught.value.field == name
