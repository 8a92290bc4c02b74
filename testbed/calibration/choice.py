"""Chooses the calibration of a command: one rule for every command that uses the twin.

The command says which one it is and how its host differs from this one, and notes that among its
results.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.results.folder import RESULTS
from testbed.scenario.errors import InputError
from testbed.twin.calibration import DEFAULTS, Calibration, Chosen, parse_calibration

DEFAULT_FILE = Path(RESULTS) / "calibration.json"
NONE = Path("none")


def choose_calibration(option: Path | None, backends: Mapping[str, Any] | None = None) -> Chosen:
    """The calibration of a command by its `--calibration`: the one rule of all commands.

    That file; `none`: the twin's defaults; not given: the default file if there is one, else the
    defaults. `backends` are those that the command has chosen, if it emulates. Raises InputError
    for a file that cannot be read or is no calibration.
    """
    if option == NONE or (option is None and not DEFAULT_FILE.is_file()):
        return DEFAULTS
    file = option or DEFAULT_FILE
    found = read_calibration(file)
    here = host_facts(backends or {})
    if backends is None:
        del here["backends"]
    return Chosen(found, str(file), doubts(found, here))


def read_calibration(file: Path) -> Calibration:
    """The calibration in a file; raises InputError if it cannot be read or is none."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        expected = f"a file written by `deftbed calibrate`, or none ({error})"
        raise InputError("--calibration", str(file), expected) from error
    return parse_calibration(data)


def host_facts(backends: Mapping[str, Any]) -> dict[str, Any]:
    """What the constants depend on: processor, cores, kernel and back ends."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "backends": dict(backends),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor())


def doubts(calibration: Calibration, here: Mapping[str, Any]) -> tuple[str, ...]:
    """Why a calibration may not be of the host with the facts `here`, in words.

    `here` holds some of what `host_facts` gives; what either side does not know is not compared.
    """
    found = []
    for name in ("cpu", "cores", "kernel", "backends"):
        there = calibration.host.get(name)
        if there is not None and name in here and there != here[name]:
            found.append(f"{name}: made with {_words(there)}, used with {_words(here[name])}")
    reasons = calibration.source.get("reasons", ())
    return (*found, *(f"a run of it was not valid: {reason}" for reason in reasons))


def _words(fact: Any) -> str:
    if isinstance(fact, Mapping):
        return ", ".join(f"{name} {value}" for name, value in sorted(fact.items()))
    return str(fact)
