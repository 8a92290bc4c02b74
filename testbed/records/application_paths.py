"""The paths to which the real applications of a run write their results."""

from __future__ import annotations

from pathlib import Path


def application_path(folder: Path, number: int, kind: str) -> Path:
    """The file of application `number` of the scenario in the run's folder."""
    return folder / "raw" / f"application-{number}-{kind}.json"
