"""Options that commands share, the screen for messages, and the check for root."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from testbed.scenario.errors import InputError

EXIT_FAILED = 1
EXIT_INPUT = InputError.exit_status
console = Console(stderr=True, highlight=False)
"""Messages go to standard error; standard output is for what a command was asked for."""
CALIBRATION_HELP = (
    "a file of `deftbed calibrate`, or none for the twin's defaults "
    "[results/calibration.json if it is there, else the defaults]"
)

ScenarioPath = Annotated[Path, typer.Argument(help="a scenario file, e.g. scenarios/abilene.yaml")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]
Results = Annotated[
    Path | None, typer.Option(help="the folder to make for the results [results/<name>-<time>]")
]
IncludeInvalid = Annotated[
    bool, typer.Option("--include-invalid", help="compare runs that are not valid, too")
]
Calibrated = Annotated[Path | None, typer.Option("--calibration", help=CALIBRATION_HELP)]
Model = Annotated[
    Path | None, typer.Option(help="a model trained by `deftbed train`, instead of training one")
]


def need_root(what: str) -> None:
    """Refuse, before anything is built, what a user who is not root cannot do."""
    if os.geteuid() != 0:
        command = shutil.which(sys.argv[0]) or sys.argv[0]
        again = " ".join(["sudo", command, *sys.argv[1:]])
        raise InputError("user", os.geteuid(), f"root, which it takes to {what}; try: {again}")


def listed(text: str) -> list[str]:
    """The parts of an option that takes several, with commas between."""
    return [part.strip() for part in text.split(",") if part.strip()]
