"""Placement decided by ONNX Runtime: an exported model, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from agents.placement.features import NODE_FEATURES, REQUEST_FEATURES, InputArrays, input_arrays
from agents.placement.observe import pack_observations
from agents.placement.onnx_format import IntArray, open_session
from testbed.decisions.placement import PlacementObservation
from testbed.scenario.types import Placement


class OnnxPolicy:
    """Takes the decision of an exported network.

    Inputs and answers have their memory for each number of nodes, bound to the session once: a
    call of the session converts nothing. A policy serves one thread.
    """

    def __init__(self, path: Path) -> None:
        """Raises InputError naming "model" for a file that is not an exported placement model."""
        self._session = open_session(path)
        self._bound: dict[int, _Bound] = {}

    def decide(self, observation: PlacementObservation) -> Placement | None:
        """The network's choice; None where it rejects."""
        nodes = len(observation.alive)
        bound = self._bound.get(nodes)
        if bound is None:
            bound = self._bound[nodes] = _bind(self._session, nodes)
        arrays = input_arrays(pack_observations([observation]))
        for memory, array in zip(bound.inputs, arrays, strict=True):
            memory[...] = array
        self._session.run_with_iobinding(bound.binding)
        primary, backup = int(bound.primary[0]), int(bound.backup[0])
        if primary == nodes:
            return None
        return Placement(primary, None if backup < 0 else backup)


class _Bound(NamedTuple):
    """The memory that a session reads one decision from and writes its answer to."""

    binding: Any
    inputs: InputArrays
    primary: IntArray  # [1]
    backup: IntArray  # [1]


def _bind(session: Any, nodes: int) -> _Bound:
    inputs = InputArrays(
        node=np.zeros((1, nodes, NODE_FEATURES), dtype=np.float32),
        request=np.zeros((1, REQUEST_FEATURES), dtype=np.float32),
        alive=np.zeros((1, nodes), dtype=np.bool_),
        primary_mask=np.zeros((1, nodes + 1), dtype=np.bool_),
        backup_mask=np.zeros((1, nodes), dtype=np.bool_),
        delay=np.zeros((nodes, nodes), dtype=np.float32),
    )
    primary, backup = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    binding = session.io_binding()
    for name, array in inputs._asdict().items():
        # On the CPU such a value is the array's own memory, not a copy.
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for name, array in (("primary", primary), ("backup", backup)):
        binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    return _Bound(binding, inputs, primary, backup)
