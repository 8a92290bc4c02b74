"""The command `deftbed evaluate`."""

from __future__ import annotations

import contextlib
import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from testbed.cli.options import AsJson, Calibrated, console, listed
from testbed.cli.screens.progress import progress_bar
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario
from testbed.scenario.model import Scenario

LOADS = "0.5,1,1.5,2"
STREAMS = 20


def evaluate(
    scenario: Annotated[
        Path,
        typer.Argument(help="a scenario file; or an evaluation's folder, to sum it up anew"),
    ],
    policies: Annotated[
        str, typer.Option(help="with commas between [deft, all online heuristics, models']")
    ] = "",
    loads: Annotated[str, typer.Option(help="factors on the requests")] = LOADS,
    topologies: Annotated[
        str, typer.Option(help="graphs of topohub, with commas between [the scenario's own]")
    ] = "",
    seeds: Annotated[int, typer.Option(help="request streams in each cell", min=1)] = STREAMS,
    model: Annotated[
        list[Path] | None,
        typer.Option(help="a model of --policies' ppo or dqn [ppo]; once for each"),
    ] = None,
    models: Annotated[str, typer.Option(help="a pattern of such files, in quotes")] = "",
    calibration: Calibrated = None,
    results: Annotated[
        Path | None, typer.Option(help="the folder to make [results/evaluation-<name>-<time>]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare policies on the twin: over loads, topologies and many request streams."""
    from agents.placement.evaluation import write_evaluation
    from testbed.cli.screens.evaluation_screen import print_evaluation

    if scenario.is_dir():
        given = (policies, topologies, model, models, calibration, results)
        if any(given) or (loads, seeds) != (LOADS, STREAMS):
            wanted = "a scenario file; a folder is summed up anew, with no option but --json"
            raise InputError("scenario", str(scenario), wanted)
        folder, summary = scenario, write_evaluation(scenario)
    else:
        files = _models(model or [], models)
        folder, summary = _evaluate(
            scenario, policies, loads, topologies, seeds, files, calibration, results
        )
    if as_json:
        print(json.dumps({**summary, "results": str(folder)}))
    else:
        print_evaluation(summary, folder)


def _evaluate(
    path: Path,
    policies: str,
    loads: str,
    topologies: str,
    streams: int,
    models: tuple[Path, ...],
    calibration: Path | None,
    results: Path | None,
) -> tuple[Path, dict[str, object]]:
    from agents.placement.cells import cell_scenario, cells_of
    from agents.placement.evaluation import measure, write_evaluation
    from agents.placement.policies import make_policy
    from agents.placement.sweep import SweepSpec, contestants_of
    from testbed.calibration.choice import choose_calibration
    from testbed.cli.screens.left_out import print_left_out, print_lines
    from testbed.results.folder import results_folder
    from testbed.scenario.modelled import require_modelled
    from testbed.scenario.plan import make_plan

    scenario = load_scenario(path)
    cells = cells_of(scenario, _loads(loads), tuple(listed(topologies)))
    for cell in cells:
        moved = cell_scenario(scenario, cell)
        require_modelled(moved)
        make_plan(moved, 0)  # what cannot be run is told of at once
    chosen = _policies(policies, scenario, bool(models))
    host = choose_calibration(calibration)
    spec = SweepSpec(scenario, chosen, cells, streams, models, host.calibration)
    for policy, file in contestants_of(spec):
        if file is not None:
            make_policy(policy, 0, file)  # a model that is none is told of before the sweep
    print_left_out(console, [cell_scenario(scenario, cell) for cell in cells])
    print_lines(console, host.lines())
    folder = results_folder(results, f"evaluation-{scenario.name}", linked=False)
    with _told_what_is_kept(folder, console):
        with progress_bar(console) as progress:
            measure(path, spec, folder, progress, host.identity())
        summary = write_evaluation(folder)
    return folder, summary


@contextlib.contextmanager
def _told_what_is_kept(folder: Path, console: Console) -> Iterator[None]:
    """If the block does not reach its end, say where the values are and how to sum them up."""
    from testbed.results.evaluation.values import VALUES

    done = False
    try:
        yield
        done = True
    finally:
        if not done and (folder / VALUES).is_file():
            console.print(
                f"what was measured is kept in {folder / VALUES}; "
                f"`deftbed evaluate {folder}` sums it up",
                markup=False,
                soft_wrap=True,
            )


def _policies(text: str, scenario: Scenario, with_models: bool) -> tuple[str, ...]:
    """The policies that are named; else the baseline, the online heuristics and the models'."""
    from agents.placement.policies import HEURISTICS, LEARNED
    from testbed.scenario.problems.deciding import POLICIES

    if not text:
        learned = [name for name in LEARNED if name == "ppo"] if with_models else []
        return tuple(dict.fromkeys([scenario.problem.baseline, "deft", *HEURISTICS, *learned]))
    names = listed(text)
    for name in names:
        if name not in POLICIES:
            raise InputError("--policies", name, f"some of {', '.join(POLICIES)}")
    learned = [name for name in names if name in LEARNED]
    if len(learned) > 1:
        raise InputError("--policies", text, "one learned policy: models are files of one")
    return tuple(dict.fromkeys(names))


def _models(files: list[Path], pattern: str) -> tuple[Path, ...]:
    found = [*files, *(Path(each) for each in sorted(glob.glob(pattern, recursive=True)))]
    if pattern and len(found) == len(files):
        raise InputError("--models", pattern, "a pattern that some file matches")
    for path in found:
        if not path.is_file():
            raise InputError("--model", str(path), "a model file written by `deftbed train`")
    return tuple(found)


def _loads(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(each) for each in listed(text))
    except ValueError:
        found = ()
    if not found or not all(0 < load < 1e3 for load in found) or len(set(found)) != len(found):
        raise InputError("--loads", text, "numbers above 0 without repetition, e.g. 0.5,1,2")
    return found
