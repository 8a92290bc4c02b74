"""A trained placement network as a file that runs without this project: ONNX, or torch's `.pt2`.

What is exported is the greedy decision: the most likely primary, then the most likely backup given
it. Numbers of decisions and of nodes stay open. The inputs are those of
`agents.placement.network.Inputs`, under the names of its fields; `agents.placement.features` makes
them from observations.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from agents.common.categorical import MASKED
from agents.common.seal import digest
from agents.placement.features import (
    DELAY_SCALE_NS,
    NODE_FEATURES,
    REQUEST_FEATURES,
    InputArrays,
)
from agents.placement.model import load_model
from agents.placement.network import Inputs, PlacementNetwork
from agents.placement.onnx_format import (
    HEADER,
    INPUTS,
    OUTPUTS,
    SEAL_MARK,
    WEIGHTS_KEY,
    Outputs,
    open_session,
    session_outputs,
)
from testbed import __version__
from testbed.records.files import whole, write_bytes
from testbed.scenario.errors import RunError

OPSET = 20
SCORE_TOLERANCE = 1e-4
"""Two runtimes add in different orders: log-probabilities in float32 may differ by this."""
CHECKED_STATES = 500
CHECKED_NODES = (2, 12, 50)
"""An export is compared with its network on so many random states of each of these sizes."""


class GreedyPlacement(nn.Module):
    """What a network chooses when it takes the most likely, as `PlacementNetwork.act` does."""

    def __init__(self, network: PlacementNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        node: Tensor,
        request: Tensor,
        alive: Tensor,
        primary_mask: Tensor,
        backup_mask: Tensor,
        delay: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(primary [M], backup [M], primary_score [M, N + 1], backup_score [M, N]).

        primary is N to reject, backup -1 where there is none. Scores are log-probabilities, the
        backup's given that primary; what is masked has one near -1e9.
        """
        inputs = Inputs(node, request, alive, primary_mask, backup_mask, delay)
        encoded = self.network.encode(inputs)
        primary_score = self.network.primary_logits(inputs, encoded).log_softmax(-1)
        primary = primary_score.argmax(-1)
        scores, chosen = self.network.backup_logits(inputs, encoded, primary)
        backup_score = scores.log_softmax(-1)
        backup = torch.where(chosen, backup_score.argmax(-1), -1)
        return primary, backup, primary_score, backup_score


def weights_digest(network: PlacementNetwork) -> str:
    """SHA-256 of names, shapes and values of all weights: what a file was exported from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def metadata(network: PlacementNetwork) -> dict[str, str]:
    """What an exported file says of itself."""
    return {
        **HEADER,
        WEIGHTS_KEY: weights_digest(network),
        "deftbed": __version__,
        "delay_scale_ns": repr(DELAY_SCALE_NS),
        "width": str(network.width),
        "heads": str(network.heads),
        "parameters": str(sum(tensor.numel() for tensor in network.parameters())),
    }


def export_onnx(network: PlacementNetwork, path: Path) -> None:
    """Write the greedy decision as ONNX; the file is there as a whole or as it was before."""
    import onnx

    with _quiet():
        program = torch.onnx.export(
            _exported(network),
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=OUTPUTS,
            verbose=False,
        )
    if program is None:
        raise RunError("torch.onnx gave no program")
    proto = program.model_proto
    _tidy(proto.graph)
    onnx.helper.set_model_props(proto, metadata(network))
    onnx.checker.check_model(proto, full_check=True)
    write_bytes(path, sealed(proto.SerializeToString(deterministic=True)))


def sealed(model: bytes) -> bytes:
    """A serialised ONNX model with the entry that tells later whether it is as it was written."""
    return model + SEAL_MARK + digest([model])


def export_pt2(network: PlacementNetwork, path: Path) -> None:
    """Write the greedy decision for torch.export.load; the metadata is its extra file."""
    program = _exported(network)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # the paths of this machine
    extra = {f"{key}.txt": value for key, value in metadata(network).items()}
    with whole(path) as beside:
        torch.export.save(program, beside, extra_files=extra)


class Agreement(NamedTuple):
    """How an exported file and the network that it came from compare on the same states."""

    states: int
    different: int
    """Decisions that differ; where two scores are equal in float32, either may win."""
    score_difference: float
    """The largest, of scores that are not masked."""


def agreement(network: PlacementNetwork, onnx_file: Path, inputs: Inputs) -> Agreement:
    """Compare the ONNX file's answers with the network's. Raises InputError for a wrong file."""
    arrays = InputArrays(*(column.numpy() for column in inputs))
    found = session_outputs(open_session(onnx_file), arrays)
    with torch.no_grad():
        answers = GreedyPlacement(network.eval())(*inputs)
    expected = Outputs(*(answer.numpy() for answer in answers))
    same = (found.primary == expected.primary) & (found.backup == expected.backup)
    gaps = [
        np.max(np.abs(one - other), where=other > MASKED / 2, initial=0.0)
        for one, other in (
            (found.primary_score, expected.primary_score),
            (found.backup_score[same], expected.backup_score[same]),
        )
    ]
    return Agreement(len(same), int(np.sum(~same)), float(max(gaps)))


def export_checked(network: PlacementNetwork, path: Path) -> Agreement:
    """`export_onnx`, then the file against the network on random states of several sizes.

    Raises RunError if scores differ by more than SCORE_TOLERANCE; the file is then removed.
    """
    export_onnx(network, path)
    generator = torch.Generator().manual_seed(0)
    parts = [
        agreement(network, path, _random_inputs(CHECKED_STATES, nodes, generator))
        for nodes in CHECKED_NODES
    ]
    total = Agreement(
        sum(part.states for part in parts),
        sum(part.different for part in parts),
        max(part.score_difference for part in parts),
    )
    if not total.score_difference <= SCORE_TOLERANCE:
        path.unlink()
        raise RunError(f"{path}: its scores differ from the model's by {total.score_difference}")
    return total


def served_file(model: Path, folder: Path) -> Path:
    """The ONNX file that runs decide by: `model` itself, or what a checkpoint is exported to.

    The export goes into `folder`, which is made: a model's own folder is its owner's. Raises
    InputError naming "model".
    """
    if model.suffix == ".onnx":
        return model
    network = load_model(model)
    folder.mkdir(exist_ok=True)
    served = folder / f"{model.stem}.onnx"
    export_checked(network, served)
    return served


def _random_inputs(states: int, nodes: int, generator: torch.Generator) -> Inputs:
    def mask(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) < 0.8

    primary_mask = mask(states, nodes + 1)
    primary_mask[:, -1] = True
    return Inputs(
        node=torch.randn(states, nodes, NODE_FEATURES, generator=generator),
        request=torch.randn(states, REQUEST_FEATURES, generator=generator),
        alive=mask(states, nodes),
        primary_mask=primary_mask,
        backup_mask=mask(states, nodes),
        delay=torch.rand(nodes, nodes, generator=generator),
    )


def _exported(network: PlacementNetwork) -> ExportedProgram:
    """The graph of the greedy decision, traced with sizes that no constant could be taken for."""
    network = network.cpu().eval()
    decisions, nodes = Dim("decisions"), Dim("nodes", min=2)
    batch, count = 3, 5
    example = Inputs(
        node=torch.zeros(batch, count, NODE_FEATURES),
        request=torch.zeros(batch, REQUEST_FEATURES),
        alive=torch.ones(batch, count, dtype=torch.bool),
        primary_mask=torch.ones(batch, count + 1, dtype=torch.bool),
        backup_mask=torch.ones(batch, count, dtype=torch.bool),
        delay=torch.zeros(count, count),
    )
    shapes = {
        "node": {0: decisions, 1: nodes},
        "request": {0: decisions},
        "alive": {0: decisions, 1: nodes},
        "primary_mask": {0: decisions, 1: nodes + 1},
        "backup_mask": {0: decisions, 1: nodes},
        "delay": {0: nodes, 1: nodes},
    }
    module = GreedyPlacement(network)
    return torch.export.export(module, tuple(example), dynamic_shapes=shapes)


def _tidy(graph: Any) -> None:
    """Name the open sizes, and take out torch's notes, which have this machine's paths."""
    graph.name = "greedy_placement"
    del graph.value_info[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
        part.doc_string = ""
    sizes = graph.input[0].type.tensor_type.shape.dim
    names = {sizes[0].dim_param: "decisions", sizes[1].dim_param: "nodes"}
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                parts = size.dim_param.split(" ")
                size.dim_param = " ".join(names.get(part, part) for part in parts)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that are no part of this project."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
