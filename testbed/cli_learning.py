"""Commands that learn: `deftbed train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from testbed.scenario.errors import InputError
from testbed.scenario.load import load_checked
from testbed.scenario.model import Scenario

PROBLEMS = ("placement",)
ALGORITHMS = ("ppo", "dqn")
console = Console(stderr=True, highlight=False)


def train(
    scenario: Annotated[Path, typer.Argument(help="a scenario file")],
    problem: Annotated[str, typer.Option(help="placement")] = "placement",
    algorithm: Annotated[str, typer.Option(help="ppo or dqn")] = "ppo",
    out: Annotated[Path | None, typer.Option(help="the model file to write [ALGORITHM.pt]")] = None,
    decisions: Annotated[int | None, typer.Option(help="[the scenario's]", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="[the scenario's]", min=0)] = None,
    topologies: Annotated[
        str, typer.Option(help="further graphs of topohub to learn on, with commas between")
    ] = "",
    resume: Annotated[bool, typer.Option(help="go on with a training that was cut off")] = False,
    logs: Annotated[
        Path | None, typer.Option(help="a folder for TensorBoard [OUT with -logs at its end]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Train a placement policy from nothing on the twin of a scenario."""
    from agents.placement.cells import Cell, cell_scenario

    from testbed.training import train_policy

    for field, value, known in (
        ("--problem", problem, PROBLEMS),
        ("--algorithm", algorithm, ALGORITHMS),
    ):
        if value not in known:
            raise InputError(field, value, f"one of {', '.join(known)}")
    out = out or Path(f"{algorithm}.pt")
    if out.exists():
        raise InputError("--out", str(out), "a file that does not exist yet")
    loaded = _with_training(load_checked(scenario), decisions, seed)
    names = [name.strip() for name in topologies.split(",") if name.strip()]
    cells = [Cell(1.0, name, name) for name in names]
    substrates = [loaded, *(cell_scenario(loaded, cell) for cell in cells)]
    logs = logs or out.with_name(out.stem + "-logs")
    report = train_policy(algorithm, substrates, out, console, logs, resume)
    if as_json:
        print(json.dumps(report))
    else:
        console.print(f"{out}: trained in {report['wall_s']:.0f} s; curves in {logs}")


def _with_training(scenario: Scenario, decisions: int | None, seed: int | None) -> Scenario:
    changes: dict[str, Any] = {"decisions": decisions, "seed": seed}
    given = {key: value for key, value in changes.items() if value is not None}
    return scenario.model_copy(update={"training": scenario.training.model_copy(update=given)})
