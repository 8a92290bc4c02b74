"""The commands `deftbed train`, `tune` and `export`, and the models that they write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.problems import PROBLEMS, problem
from testbed.cli.options import CALIBRATION_HELP, AsJson, Calibrated, console, listed
from testbed.cli.screens.left_out import print_left_out, print_lines
from testbed.cli.screens.progress import progress_bar
from testbed.decisions.problem import Problem
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_checked
from testbed.scenario.model import Scenario, with_training
from testbed.scenario.modelled import require_modelled, words_left_out

ProblemName = Annotated[
    str | None, typer.Option("--problem", help=f"{' or '.join(PROBLEMS)} [the scenario's]")
]
Algorithm = Annotated[str | None, typer.Option(help="ppo, or dqn [ppo; dqn for provisioning]")]


def train(
    scenario: Annotated[Path, typer.Argument(help="a scenario file")],
    problem_name: ProblemName = None,
    algorithm: Algorithm = None,
    out: Annotated[Path | None, typer.Option(help="the model file to write [ALGORITHM.pt]")] = None,
    decisions: Annotated[
        int | None, typer.Option(help="[ppo: the scenario's; dqn: the config's]", min=1)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="[the scenario's]", min=0)] = None,
    topologies: Annotated[
        str, typer.Option(help="ppo: further graphs of topohub to learn on, with commas between")
    ] = "",
    resume: Annotated[bool, typer.Option(help="go on with a training that was cut off")] = False,
    logs: Annotated[
        Path | None, typer.Option(help="a folder for TensorBoard [OUT with -logs at its end]")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="a file with hyperparameters, e.g. of `deftbed tune`")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help=f"ppo: {CALIBRATION_HELP}")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a policy from nothing: ppo on the twin of a scenario, dqn in its paper's world."""
    from agents.placement.cells import Cell, cell_scenario
    from testbed.calibration.choice import choose_calibration
    from testbed.decisions.problem import TrainingJob
    from testbed.twin.calibration import DEFAULTS

    loaded = _with_training(load_checked(scenario), None, seed)
    learned, algorithm = learned_by(problem_name, algorithm, loaded.problem.name)
    out = out or Path(f"{algorithm}.pt")
    _check_new("--out", out)
    cells = [Cell(1.0, name, name) for name in listed(topologies)]
    substrates = [loaded, *(cell_scenario(loaded, cell) for cell in cells)]
    logs = logs or out.with_name(out.stem + "-logs")
    on_twin = algorithm in learned.on_twin
    host = choose_calibration(calibration) if on_twin or calibration else DEFAULTS
    if on_twin:
        print_left_out(console, substrates)
        print_lines(console, host.lines())
    job = TrainingJob(tuple(substrates), out, decisions, logs, resume, config, host)
    with progress_bar(console) as progress:
        report = learned.trainers[algorithm](
            job, lambda share: progress(f"training {algorithm}", share)
        )
    if as_json:
        print(json.dumps(report))
    else:
        console.print(f"{out}: trained in {report['wall_s']:.0f} s; curves in {logs}", markup=False)


def learned_by(name: str | None, algorithm: str | None, own: str) -> tuple[Problem, str]:
    """The problem called `name`, or the scenario's `own`; and its algorithm, or its usual one.

    Without a name, an algorithm that does not learn the scenario's problem stands for the first
    problem of the registry that it learns. Raises InputError for an unknown name, and for an
    algorithm that does not learn the named problem.
    """
    if name is not None:
        found = problem(name)
        if algorithm not in (None, *found.algorithms):
            expected = f"{' or '.join(found.algorithms)} for {found.name}"
            raise InputError("--algorithm", algorithm, expected)
        return found, algorithm or found.algorithms[0]
    every = [problem(each) for each in dict.fromkeys((own, *PROBLEMS))]
    for found in every:
        if algorithm in (None, *found.algorithms):
            return found, algorithm or found.algorithms[0]
    known = dict.fromkeys(each for found in every for each in found.algorithms)
    raise InputError("--algorithm", algorithm, f"one of {', '.join(known)}")


def _with_training(scenario: Scenario, decisions: int | None, seed: int | None) -> Scenario:
    changes: dict[str, Any] = {"decisions": decisions, "seed": seed}
    given = {key: value for key, value in changes.items() if value is not None}
    return with_training(scenario, **given)


def tune(
    scenario: Annotated[Path, typer.Argument(help="a scenario file")],
    problem_name: ProblemName = None,
    algorithm: Algorithm = None,
    trials: Annotated[
        int, typer.Option(help="trainings in all, resumed ones included", min=1)
    ] = 30,
    minutes: Annotated[
        float | None, typer.Option(help="stop after so many, with what there is", min=0.0)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="the file for the best config: YAML, or JSON if it ends so [ALGORITHM-tuned.yaml]"
        ),
    ] = None,
    decisions: Annotated[
        int | None, typer.Option(help="ppo of placement: of each training [the scenario's]", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="which configs are tried", min=0)] = 0,
    config: Annotated[
        Path | None, typer.Option(help="a config to start from, for what is not searched too")
    ] = None,
    resume: Annotated[bool, typer.Option(help="go on with a study that was cut off")] = False,
    calibration: Calibrated = None,
    as_json: AsJson = False,
) -> None:
    """Search hyperparameters; prints the best config, for `deftbed train --config`."""
    from testbed.calibration.choice import choose_calibration
    from testbed.decisions.tuning_job import TrialNote, TuningJob
    from testbed.twin.calibration import DEFAULTS

    loaded = load_checked(scenario)
    tuned, algorithm = learned_by(problem_name, algorithm, loaded.problem.name)
    if algorithm not in tuned.tuners:
        expected = f"one of {', '.join(tuned.tuners)}: nothing of {algorithm} is searched"
        raise InputError("--algorithm", algorithm, expected)
    out = out or Path(f"{algorithm}-tuned.yaml")
    on_twin = algorithm in tuned.on_twin
    host = choose_calibration(calibration) if on_twin else DEFAULTS
    if on_twin:
        loaded = _with_training(loaded, decisions, None)
        require_modelled(loaded)
        print_left_out(console, [loaded])
        print_lines(console, host.lines())
    elif calibration or decisions:
        given = "--calibration" if calibration else "--decisions"
        raise InputError(given, "given", f"none: {algorithm} learns {tuned.name} without a twin")
    if not resume:
        _check_new("--out", out)

    def tell(note: TrialNote) -> None:
        fate = "ended early" if note.pruned else "done"
        console.print(f"trial {note.number}: validation cost {note.cost:.4g}, {fate}")

    seconds = None if minutes is None else minutes * 60
    job = TuningJob(loaded, out, trials, seconds, seed, config, resume, host)
    with progress_bar(console) as progress:
        report = tuned.tuners[algorithm](
            job, lambda done: progress(f"tuning {algorithm}", done), tell
        )
    if as_json:
        left_out = words_left_out([loaded]) if on_twin else []
        facts = {"left_out": left_out, "calibration": host.identity()}
        print(json.dumps({**report.as_dict(), **facts}))
        return
    print(report.config_text, end="")
    console.print(
        f"{out}: validation cost {report.cost:.4g}, and {report.first_cost:.4g} for the config "
        f"that the search started from; {len(report.trials)} trials",
        markup=False,
    )


def export(
    model: Annotated[Path, typer.Argument(help="a model trained by `deftbed train`")],
    onnx: Annotated[
        Path | None, typer.Option(help="the ONNX file to write [MODEL with .onnx, if no --pt2]")
    ] = None,
    pt2: Annotated[Path | None, typer.Option(help="the .pt2 file to write [none]")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a trained placement network as a file that ONNX Runtime or torch runs elsewhere."""
    from agents.placement.export import export_checked, export_pt2, weights_digest
    from agents.placement.model import load_model

    network = load_model(model)
    if onnx is None and pt2 is None:
        onnx = model.with_suffix(".onnx")
    for field, path, suffix in (("--onnx", onnx, ".onnx"), ("--pt2", pt2, ".pt2")):
        _check_new(field, path)
        if path is not None and path.suffix != suffix:  # what reads such a file knows it by that
            raise InputError(field, str(path), f"a name that ends in {suffix}")
    facts: dict[str, Any] = {"model": str(model), "weights_sha256": weights_digest(network)}
    if onnx is not None:
        facts |= {"onnx": str(onnx), **export_checked(network, onnx)._asdict()}
    if pt2 is not None:
        export_pt2(network, pt2)
        facts["pt2"] = str(pt2)
    if as_json:
        print(json.dumps(facts))
        return
    for path in filter(None, (onnx, pt2)):
        console.print(f"{path}: the greedy decision of {model}", markup=False)
    if onnx is not None:
        console.print(
            f"{facts['different']} of {facts['states']} decisions differ from the model's, scores "
            f"by {facts['score_difference']:.1e} at most"
        )


def _check_new(field: str, path: Path | None) -> None:
    if path is not None and path.exists():
        raise InputError(field, str(path), "a file that does not exist yet")
    if path is not None and not path.parent.is_dir():
        raise InputError(field, str(path), "a file in a folder that exists")


def given_models(scenario: Scenario, given: dict[str, tuple[str, Path | None]]) -> dict[str, Path]:
    """Each policy's model of those that are given, by option; InputError for one without use."""
    found: dict[str, Path] = {}
    for option, (policy, file) in given.items():
        if file is None:
            continue
        if policy not in problem(scenario.problem.name).learned:
            raise InputError(option, str(file), f"no model for {policy}, which learns nothing")
        if policy not in scenario.problem.policies:
            among = ", ".join(scenario.problem.policies)
            raise InputError(
                option, str(file), f"no model: {policy} is none of the policies {among}"
            )
        if not file.is_file():
            raise InputError(option, str(file), "a model file written by `deftbed train`")
        found[policy] = file
    return found
