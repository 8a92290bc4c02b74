"""What an exported placement model looks like from outside, and how it is opened. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from agents.common.headers import differences
from agents.common.seal import read_sealed
from agents.placement.features import NODE_FEATURES, REQUEST_FEATURES, InputArrays
from testbed.scenario.errors import InputError

IntArray = NDArray[np.int64]
Float32Array = NDArray[np.float32]


class Outputs(NamedTuple):
    """M greedy decisions over N nodes, and the log-probabilities that they follow from."""

    primary: IntArray  # [M], N rejects
    backup: IntArray  # [M], -1 where there is none
    primary_score: Float32Array  # [M, N + 1]
    backup_score: Float32Array  # [M, N], given that primary


INPUTS: tuple[str, ...] = InputArrays._fields
OUTPUTS: tuple[str, ...] = Outputs._fields
HEADER = {
    "format": "2",  # 1: no seal, and other features
    "kind": "placement-ppo-greedy",
    "node_features": str(NODE_FEATURES),
    "request_features": str(REQUEST_FEATURES),
}
"""Metadata that a file must have to be used here."""
WEIGHTS_KEY = "weights_sha256"
_SEAL_KEY = b"sha256_before"
SEAL_MARK = bytes((0x72, len(_SEAL_KEY) + 68, 0x0A, len(_SEAL_KEY))) + _SEAL_KEY + b"\x12\x40"
"""The last entry of a file's metadata, up to its value: the digest of all bytes before the entry.

In ONNX's encoding (protobuf) such an entry may stand behind a model, and is part of it then.
"""

_REFUSALS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def open_session(path: Path) -> Any:
    """An ONNX Runtime session on the CPU, with one thread that does not spin.

    Raises InputError naming "model" if the file is not one of `agents.placement.export`.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    content = bytes(read_sealed(path, "model", SEAL_MARK, "`deftbed export`"))
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _REFUSALS as error:
        wanted = f"a model that ONNX Runtime {onnxruntime.__version__} can run"
        raise InputError("model", str(path), wanted) from error
    found = read_metadata(session)
    different = differences(HEADER, {key: found.get(key) for key in HEADER})
    if different:
        raise InputError("model", str(path), f"a placement model with {different}")
    names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    if names != list(INPUTS) or outputs != list(OUTPUTS):
        given = f"{', '.join(names)} and {', '.join(outputs)}"
        expected = f"the inputs {', '.join(INPUTS)} and the outputs {', '.join(OUTPUTS)}"
        raise InputError("model", str(path), f"{expected}, not {given}")
    return session


def read_metadata(session: Any) -> dict[str, str]:
    """What the file of a session says of itself."""
    return dict(session.get_modelmeta().custom_metadata_map)


def session_outputs(session: Any, inputs: InputArrays) -> Outputs:
    """The session's answers for B decisions."""
    return Outputs(*session.run(list(OUTPUTS), inputs._asdict()))
