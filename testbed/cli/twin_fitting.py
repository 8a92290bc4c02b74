"""The commands `deftbed calibrate` and `validate`: fit the twin to a host, measure its error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from agents.problems import problem
from testbed.cli.options import AsJson, Calibrated, console, listed, need_root
from testbed.cli.screens.progress import progress_bar
from testbed.results.folder import check_new
from testbed.scenario.errors import InputError

HELD_OUT = ("scenarios/smoke.yaml", "scenarios/validation/ring.yaml", "scenarios/abilene.yaml")


def calibrate(
    out: Annotated[
        Path, typer.Option(help="the calibration file to write; one that is there is replaced")
    ] = Path("results/calibration.json"),
    results: Annotated[
        Path | None,
        typer.Option(help="the folder to make for the runs [results/calibration-<time>]"),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="fit the runs of this folder anew; run nothing")
    ] = None,
    repetitions: Annotated[int, typer.Option(help="how often each run is made", min=1)] = 2,
    as_json: AsJson = False,
) -> None:
    """Measure this host by short emulation runs and fit the twin's constants to them."""
    from testbed.calibration.calibrate import calibrate as carry_out
    from testbed.calibration.calibrate import refit
    from testbed.cli.screens.calibration_screen import print_calibration

    if source is not None:
        calibration, folder = refit(source, out), source
    else:
        need_root("run an emulation")
        check_new(results)
        with progress_bar(console) as progress:
            calibration, folder = carry_out(
                out, results, repetitions, problem("placement").make_policy, progress
            )
    if as_json:
        print(json.dumps({**calibration.to_json(), "file": str(out), "results": str(folder)}))
    else:
        print_calibration(calibration, out)


def validate(
    scenarios: Annotated[
        list[Path] | None, typer.Argument(help=f"[{', '.join(HELD_OUT)}]", show_default=False)
    ] = None,
    calibration: Calibrated = None,
    policies: Annotated[
        str, typer.Option(help="with commas between [each scenario's, but for learned ones]")
    ] = "",
    seeds: Annotated[
        str, typer.Option(help="with commas between [each scenario's first three]")
    ] = "",
    source: Annotated[
        list[Path] | None,
        typer.Option("--from", help="a results folder to use; run nothing (may be repeated)"),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="the folder to make [results/validation-<time>]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run scenarios in the emulation and in the twin, placements the same: the twin's error."""
    from testbed.calibration.choice import choose_calibration
    from testbed.calibration.validate import (
        chosen_scenario,
        new_folder,
        run_scenarios,
        validate_into,
    )
    from testbed.cli.screens.calibration_screen import print_validation

    constants = choose_calibration(calibration)
    if source and scenarios:
        raise InputError("--from", str(source[0]), "either scenarios or --from")
    check_new(results)
    if source:
        folders, folder = list(source), results
    else:
        paths = scenarios or [Path(name) for name in HELD_OUT]
        chosen = [chosen_scenario(path, listed(policies), _numbers(seeds)) for path in paths]
        need_root("run an emulation")
        folder = new_folder(results)
        with progress_bar(console) as progress:
            folders = run_scenarios(folder, chosen, problem("placement").make_policy, progress)
    content, folder = validate_into(folder, folders, constants)
    if as_json:
        print(json.dumps({**content, "validation": str(folder)}))
    else:
        print_validation(content, folder)


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in listed(text)]
    except ValueError as error:
        raise InputError("--seeds", text, "whole numbers with commas between") from error
    if any(seed < 0 for seed in found):
        raise InputError("--seeds", text, "seeds of at least 0")
    return found
