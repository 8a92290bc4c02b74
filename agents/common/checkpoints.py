"""Models and trainings in files: tensors and plain values, sealed."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents.common.headers import differences, flat
from agents.common.seal import digest, read_sealed
from testbed.records.files import whole
from testbed.scenario.errors import InputError

_MARK = b"deftbed sealed 1 "
_TRAIN = "`deftbed train`"


def checkpoint_of(out: Path) -> Path:
    """Where a training that writes its model to `out` keeps what it needs to go on."""
    return out.with_name(out.name + ".checkpoint")


def earlier(out: Path, resume: bool, expected: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a training into `out` that was cut off has kept; None if there is nothing to go on from.

    `expected` are its arguments. Raises InputError naming "resume" if it had others, or if it would
    be written over without `resume`.
    """
    kept = checkpoint_of(out)
    if not kept.exists():
        return None
    if not resume:
        wanted = f"--resume, or another --out: {kept} has a training that was cut off"
        raise InputError("resume", False, wanted)
    return read_checkpoint(kept, "resume", expected)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values; the file is there as a whole or as it was before."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    body = buffer.getbuffer()
    with whole(path) as beside, beside.open("wb") as file:
        file.writelines((body, _MARK, digest([body])))


def read_checkpoint(path: Path, field: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    """What `write_checkpoint` wrote; InputError naming `field` if it is not `expected`.

    `expected` are values that the file must hold. Nothing in the file is executed.
    """
    body = read_sealed(path, field, _MARK, _TRAIN)
    try:
        content = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        wanted = f"a file of {_TRAIN}: tensors and plain values"
        raise InputError(field, str(path), wanted) from error
    if not isinstance(content, dict):
        raise InputError(field, str(path), f"a file of {_TRAIN} with names for what it holds")
    different = differences(flat(expected), flat({k: content.get(k) for k in expected}))
    if different:
        raise InputError(field, str(path), f"a file with {different}")
    return content


def load_weights(network: nn.Module, weights: object, path: Path) -> None:
    """Give a network weights from the file at `path`; InputError naming "model" if none fit."""
    mine = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    given = weights if isinstance(weights, dict) else {}
    theirs = {
        str(name): list(value.shape) if isinstance(value, torch.Tensor) else value
        for name, value in given.items()
    }
    different = differences(mine, theirs)
    if different:
        raise InputError("model", str(path), f"weights that fit its network: {different}")
    network.load_state_dict(given)
