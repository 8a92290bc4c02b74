"""The command `deftbed bench`: the benchmarks of a checkout."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from testbed.cli.options import need_root
from testbed.scenario.errors import InputError

BENCHMARKS = ("dataplane", "fidelity", "recovery", "substrate", "twin")
OWN_OPTIONS = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
"""The options of a benchmark are its own."""


def bench(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="dataplane, fidelity, recovery, substrate or twin; then its own options"
        ),
    ],
) -> None:
    """Measure; `deftbed bench NAME --help` says what a benchmark measures and takes."""
    root = Path(__file__).resolve().parents[2]
    if name not in BENCHMARKS or not (root / "bench" / f"{name}.py").is_file():
        raise InputError("bench", name, f"one of {', '.join(BENCHMARKS)}, in a checkout")
    if name != "twin" and "--help" not in context.args:
        need_root("run an emulation")
    sys.path.insert(0, str(root))  # benchmarks are no part of what is installed
    importlib.import_module(f"bench.{name}").main(context.args)
