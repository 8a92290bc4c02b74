"""A training that was cut off goes on as if it had not been: all that it was, in one file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from testbed.records.files import whole
from testbed.scenario.errors import InputError


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values; the file is there as a whole or as it was before."""
    with whole(path) as beside:
        torch.save(content, beside)


def read_checkpoint(path: Path, field: str, expected: dict[str, Any]) -> dict[str, Any]:
    """What `write_checkpoint` wrote; InputError naming `field` if it is not `expected`.

    `expected` are values that the file must hold. Nothing in the file is executed.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(field, str(path), f"a readable file ({first})") from error
    found = {k: content.get(k) for k in expected} if isinstance(content, dict) else None
    if found != expected:
        raise InputError(field, str(path), f"a file with {expected}, not {found}")
    return dict(content)
