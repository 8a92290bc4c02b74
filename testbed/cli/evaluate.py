"""The command `deftbed evaluate`."""

from __future__ import annotations

import contextlib
import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from agents.problems import problem
from testbed.cli.options import AsJson, Calibrated, console, listed
from testbed.cli.screens.left_out import print_lines
from testbed.cli.screens.progress import progress_bar
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario

if TYPE_CHECKING:
    from testbed.decisions.contest import Contest
    from testbed.decisions.evaluation_job import EvaluationJob


def evaluate(
    scenario: Annotated[
        Path,
        typer.Argument(help="a scenario file; or an evaluation's folder, to sum it up anew"),
    ],
    policies: Annotated[
        str, typer.Option(help="with commas between [the baseline, online heuristics, models']")
    ] = "",
    loads: Annotated[
        str, typer.Option(help="factors on the requests [0.5,1,1.5,2; provisioning: its streams']")
    ] = "",
    topologies: Annotated[
        str,
        typer.Option(
            help="graphs of topohub [the scenario's own]; provisioning: numbers of data centres "
            "[its streams']"
        ),
    ] = "",
    seeds: Annotated[
        int | None,
        typer.Option(help="streams in each cell [20; provisioning: its streams']", min=1),
    ] = None,
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
    """Compare policies over loads, topologies and many request streams: on the twin, or in the
    paper's world of provisioning."""
    from testbed.calibration.choice import choose_calibration
    from testbed.cli.screens.evaluation_screen import print_evaluation
    from testbed.decisions.evaluation_job import EvaluationJob
    from testbed.results.evaluation.evaluation_folder import write_evaluation
    from testbed.twin.calibration import DEFAULTS

    if scenario.is_dir():
        if any((policies, loads, topologies, seeds, model, models, calibration, results)):
            wanted = "a scenario file; a folder is summed up anew, with no option but --json"
            raise InputError("scenario", str(scenario), wanted)
        folder = scenario
        summary, contest = write_evaluation(folder, problem("placement").evaluation.contest)
    else:
        loaded = load_scenario(scenario)
        on_twin = bool(problem(loaded.problem.name).on_twin)
        job = EvaluationJob(
            loaded,
            tuple(listed(policies)),
            _loads(loads) if loads else (),
            tuple(listed(topologies)),
            seeds,
            _models(model or [], models),
            choose_calibration(calibration) if on_twin or calibration else DEFAULTS,
        )
        folder, summary, contest = _evaluate(scenario, job, results)
    if as_json:
        print(json.dumps({**summary, "results": str(folder)}))
    else:
        print_evaluation(summary, folder, contest)


def _evaluate(
    path: Path, job: EvaluationJob, results: Path | None
) -> tuple[Path, dict[str, object], Contest]:
    from testbed.results.evaluation.evaluation_folder import measure, write_evaluation
    from testbed.results.folder import results_folder

    asked = problem(job.scenario.problem.name)
    contest = asked.evaluation.contest
    sweep = asked.evaluation.sweep(job)
    print_lines(console, sweep.notes)
    folder = results_folder(results, f"evaluation-{job.scenario.name}", linked=False)
    with _told_what_is_kept(folder, console):
        with progress_bar(console) as progress:
            measure(path, asked.name, sweep, contest, folder, progress)
        summary, _ = write_evaluation(folder, contest)
    return folder, summary, contest


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
