"""Curves of a training for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class Log:
    """Writes figures by the number of decisions into a folder; into nothing where it is None."""

    def __init__(self, folder: Path | None, resumed_at: int = 0) -> None:
        """What the folder has from `resumed_at` on is left out by TensorBoard."""
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            purge = resumed_at or None
            self._writer = SummaryWriter(str(folder), purge_step=purge)

    def write(self, point: Mapping[str, float]) -> None:
        """Add each figure at the point's "decisions"."""
        if self._writer is not None:
            at = round(point["decisions"])
            for name, value in point.items():
                if name != "decisions":
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
