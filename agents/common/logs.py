"""Curves of a training for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from testbed.scenario.errors import InputError

AXES = ("round", "decisions")
"""What says where a point is, and is no figure."""


class Log:
    """Writes figures by the number of decisions into a folder; into nothing where it is None."""

    def __init__(self, folder: Path | None, resumed_at: int = 0) -> None:
        """The training goes on after `resumed_at` decisions, whose points are in the folder.

        TensorBoard leaves out what the folder has beyond them: points that are written again, or
        an earlier training's where this one begins at 0. Raises InputError naming "logs" for a
        folder that cannot be written to.
        """
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            first = resumed_at + 1 if resumed_at else 0
            try:
                self._writer = SummaryWriter(str(folder), purge_step=first)
            except OSError as error:
                wanted = f"a folder that can be written to ({error.strerror})"
                raise InputError("logs", str(folder), wanted) from error

    def write(self, point: Mapping[str, float]) -> None:
        """Add each figure at the point's "decisions"."""
        if self._writer is not None:
            at = round(point["decisions"])
            for name, value in point.items():
                if name not in AXES:
                    self._writer.add_scalar(name, value, at)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
