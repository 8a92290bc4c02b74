"""How provisioning policies are compared in the paper's world: figures, and the sweep of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.provisioning.batch import Actor
from agents.provisioning.bound import accepted_at_most
from agents.provisioning.evaluation import COMPARISON, Outcomes, run_policy
from agents.provisioning.generator import GeneratorConfig, draw_stream
from agents.provisioning.heuristic import lean_heuristic, packing_heuristic, priority_heuristic
from agents.provisioning.types import Stream
from testbed.decisions.contest import Contest, Figure
from testbed.decisions.evaluation_job import EvaluationJob, Sweep, check_policies, contestants_of
from testbed.scenario.errors import InputError
from testbed.scenario.problems.provisioning import ProvisioningSpec, StreamsSpec
from testbed.twin.calibration import DEFAULTS

HEURISTICS: Mapping[str, Actor] = {
    "priority": priority_heuristic,
    "lean": lean_heuristic,
    "packing": packing_heuristic,
}
LEARNED = ("dqn", "ppo")
BOUND = "bound"
POLICIES = (*HEURISTICS, BOUND, *LEARNED)
MOST_CENTRES, MOST_LOAD = 100, 1000.0
CONTEST = Contest(
    figures=(
        Figure("acceptance", "accepted", "%", 100.0, ".1f", True, "points", most=1.0),
        Figure("delay_ms", "delay", "ms", 1.0, ".2f"),
        Figure("storage_gb_ms", "storage", "GB s", 1e-3, ",.1f"),
        Figure("cpu_ms", "CPU", "core s", 1e-3, ",.2f"),
        Figure("ram_gb_ms", "RAM", "GB s", 1e-3, ",.2f"),
    ),
    best="acceptance",
    headline=("acceptance", "delay_ms", "storage_gb_ms"),
    screen=("acceptance", "delay_ms", "storage_gb_ms", "cpu_ms", "ram_gb_ms"),
    plotted=("acceptance", "delay_ms", "storage_gb_ms", "cpu_ms"),
    world="in the paper's world",
    place="data centres",
    places="numbers of data centres",
    method=(
        (
            "what runs",
            "The world of Onsu et al. (2024) as docs/provisioning.md describes it, not the "
            "emulated network. Every policy meets the same streams of requests; no policy was "
            "trained on them.",
        ),
        ("streams", "A stream is the data centres, their distances, and all requests."),
        ("load", "Multiplies the bundles of the paper."),
        ("accepted", "Share of the requests that were satisfied within their bound."),
        ("delay", "From arrival to the destination, mean over the satisfied requests."),
        (
            "storage, CPU, RAM",
            "Used from the first step to the last: cores, gigabytes of memory, gigabytes of "
            "storage times seconds. Storage is used from an installation until it is undone.",
        ),
        (
            "priority, lean, packing",
            "priority allocates what the most urgent chain needs that is best served here; lean "
            "uninstalls what is idle, too; packing lets chains wait that do not fill an instance "
            "while they have time.",
        ),
        (
            "bound",
            "A linear programme that knows all requests beforehand and forgets everything but CPU "
            "and RAM: no policy can accept more, and no policy need reach it.",
        ),
    ),
)


def sweep_of(job: EvaluationJob) -> Sweep:
    """An evaluation in the paper's world, checked.

    Places are numbers of data centres. Raises InputError for one that is none, for a policy or a
    model that cannot be used, and for a calibration: none plays a part.
    """
    if job.host != DEFAULTS:
        raise InputError("--calibration", "given", "none: the paper's world has no host")
    spec, section = StreamsSpec(), job.scenario.problem
    if isinstance(section, ProvisioningSpec):
        spec = section.streams
    usual = (*HEURISTICS, BOUND, *(("dqn",) if job.models else ()))
    policies = check_policies(job.policies or usual, POLICIES)
    actors = {model: _actor(name, model) for name, model in _learned(policies, job.models)}
    centres = [_centres(place) for place in job.places] or spec.data_centres
    cells = tuple((each, load) for each in centres for load in job.loads or spec.loads)
    count = spec.count if job.streams is None else job.streams
    seeds = job.scenario.seeds if job.streams is None else job.scenario.seeds[:1]
    return Sweep(
        policies=policies,
        baseline="priority" if "priority" in policies else policies[0],
        heuristics=tuple(name for name in policies if name in HEURISTICS),
        learned=tuple(name for name in policies if name in LEARNED),
        bounds=tuple(name for name in policies if name == BOUND),
        models=job.models,
        cells=tuple((_label(count), load) for count, load in cells),
        streams=count * len(seeds),
        facts={
            "scenario": job.scenario.name,
            "seeds": list(seeds),
            "arrival_steps": spec.arrival_steps,
        },
        notes=(),
        rows=lambda progress: _rows(
            contestants_of(policies, LEARNED, job.models), actors, cells, seeds, count,
            spec.arrival_steps, progress,
        ),
    )  # fmt: skip


def _learned(policies: Sequence[str], models: Sequence[Path]) -> list[tuple[str, Path]]:
    found = contestants_of(policies, LEARNED, models)
    return [(name, model) for name, model in found if model is not None]


def _actor(name: str, model: Path) -> Actor:
    import torch

    from agents.provisioning.model import load_model, network_actor

    torch.set_num_threads(1)  # two threads make small batches slower where a core is busy
    return network_actor(load_model(model, name))


def _label(centres: int) -> str:
    return f"{centres} data centre{'' if centres == 1 else 's'}"


def _centres(place: str) -> int:
    if not place.isdecimal() or not 1 <= int(place) <= MOST_CENTRES:
        expected = f"numbers of data centres, 1 to {MOST_CENTRES}: the problem is provisioning"
        raise InputError("--topologies", place, expected)
    return int(place)


def _rows(
    contestants: Sequence[tuple[str, Path | None]],
    actors: Mapping[Path, Actor],
    cells: Sequence[tuple[int, float]],
    seeds: Sequence[int],
    count: int,
    arrival_steps: int,
    progress: Callable[[str, float], None],
) -> Iterator[dict[str, Any]]:
    total, done = len(cells) * len(contestants), 0
    for centres, load in cells:
        config = GeneratorConfig((centres, centres), load=(load, load), arrival_steps=arrival_steps)
        streams = [
            draw_stream(config, (seed, COMPARISON, centres, i))
            for seed in seeds
            for i in range(count)
        ]
        for name, model in contestants:
            progress(f"{name}, {_label(centres)}, load {load:g}", done / total)
            outcomes = _outcomes(name, None if model is None else actors[model], streams)
            for number in range(len(streams)):
                values = {key: float(each[number]) for key, each in outcomes._asdict().items()}
                where = {"topology": _label(centres), "load": load, "stream": number}
                label = "" if model is None else model.name
                yield {"policy": name, **where, "model": label, **values}
            done += 1
    progress("done", 1.0)


def _outcomes(name: str, actor: Actor | None, streams: Sequence[Stream]) -> Outcomes:
    if name == BOUND:
        none = np.full(len(streams), np.nan)
        most = np.array([accepted_at_most(stream) for stream in streams])
        return Outcomes(most, none, none, none, none)
    return run_policy(HEURISTICS[name] if actor is None else actor, streams)
