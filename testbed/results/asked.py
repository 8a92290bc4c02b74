"""The runs that a results folder should hold: by its manifest, or by its runs if it is torn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.records.manifest import read_results_manifest
from testbed.records.raw import RawFormatError

BASELINE = "deft"


def read_asked(results_dir: Path) -> tuple[Mapping[str, Any], str | None]:
    """The manifest of a results folder, and why it is not as it was written, if it is not.

    Then policies and seeds are those that have a folder, and the baseline is `deft` if that ran.
    Raises RawFormatError if there is no run either.
    """
    try:
        return read_results_manifest(results_dir / "manifest.json"), None
    except RawFormatError as error:
        seeds = {path: _seed_of(path) for path in results_dir.glob("*/seed-*")}
        known = {path: seed for path, seed in seeds.items() if seed is not None}
        if not known:
            raise
        policies = sorted({path.parent.name for path in known})
        found = {
            "scenario": results_dir.name,
            "complete": False,
            "baseline": BASELINE if BASELINE in policies else policies[0],
            "policies": policies,
            "seeds": sorted(set(known.values())),
        }
        return found, f"{error}; policies and seeds are those that have a folder"


def _seed_of(path: Path) -> int | None:
    text = path.name.removeprefix("seed-")
    return int(text) if text.isascii() and text.isdigit() else None
