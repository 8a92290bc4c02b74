"""How placement policies are compared on the twin: figures, and the sweep of them."""

from __future__ import annotations

from dataclasses import asdict

from agents.placement.cells import cell_scenario, cells_of
from agents.placement.policies import BOUNDS, HEURISTICS, LEARNED, make_policy
from agents.placement.sweep import rows_of
from testbed.decisions.contest import Contest, Figure
from testbed.decisions.evaluation_job import EvaluationJob, Sweep, check_policies, contestants_of
from testbed.scenario.modelled import left_out, require_modelled, words_left_out
from testbed.scenario.plan import make_plan
from testbed.scenario.problems.deciding import POLICIES
from testbed.twin.constants import CostWeights, constants_for

LOADS = (0.5, 1.0, 1.5, 2.0)
STREAMS = 20
CONTEST = Contest(
    figures=(
        Figure("acceptance", "accepted", "%", 100.0, ".1f", True, "points", most=1.0),
        Figure("latency_mean_ns", "latency mean", "ms", 1e-6, ".1f", told=False),
        Figure("latency_p50_ns", "latency p50", "ms", 1e-6, ".1f", logarithmic=True),
        Figure("latency_p99_ns", "latency p99", "ms", 1e-6, ".1f", logarithmic=True),
        Figure("loss", "loss", "%", 100.0, ".2f", False, "points", True, 1.0, told=False),
        Figure("lost", "lost", "packets", 1.0, ",.1f", adds_up=True),
        Figure("overload_s", "overload", "s", 1.0, ".2f", adds_up=True),
        Figure("goodput_pps", "goodput", "packets/s", 1.0, ".1f", True, adds_up=True),
        Figure("cost", "cost", "", 1.0, ".2f"),
        Figure(
            "decision_p50_ns", "decision p50", "ms", 1e-6, ".3f", compared=False, logarithmic=True
        ),
        Figure("decision_p99_ns", "decision p99", "ms", 1e-6, ".3f", compared=False),
    ),
    best="cost",
    headline=("latency_p99_ns", "lost", "overload_s", "acceptance", "cost"),
    screen=(
        "acceptance", "latency_p99_ns", "overload_s", "cost", "loss", "latency_p50_ns",
        "goodput_pps", "decision_p50_ns",
    ),
    plotted=(
        "acceptance", "latency_p50_ns", "latency_p99_ns", "lost", "overload_s", "goodput_pps",
        "cost", "decision_p50_ns",
    ),
    world="on the twin",
    place="topology",
    places="topologies",
    method=(
        (
            "what runs",
            "The digital twin of the scenario, not the emulated network. Every policy places the "
            "same streams of requests, with the same load steps and faults; the streams' seeds are "
            "used for nothing else, and no policy was trained on them.",
        ),
        (
            "streams",
            "A stream is a plan: requests, life times, load steps, faults. Figures are computed "
            "for each stream by itself.",
        ),
        (
            "load",
            "Load 1 is the scenario's own. A load multiplies the requests at the start and the "
            "rate of arrivals; rates per request stay.",
        ),
        (
            "topologies",
            "Another topology keeps chains and traffic. Each of its servers has the capacity of "
            "one of the scenario's own, drawn by a generator that the topology's name seeds; "
            "arrivals are scaled with the total capacity; which server dies is drawn for each "
            "stream.",
        ),
        (
            "accepted",
            "Share of requests that the policy placed and admission control admitted.",
        ),
        (
            "latency",
            "Of delivered packets: read it beside accepted and lost.",
        ),
        (
            "lost, loss",
            "Packets of accepted requests that were not delivered, and their share. Packets of "
            "refused requests are not among them: read it beside accepted.",
        ),
        ("overload", "Server-seconds with a demand of 95 % of the capacity or more."),
        ("goodput", "Packets delivered within their request's delay bound, a second."),
        (
            "cost",
            "What the twin's cost sums up and learning minimises: latency beyond the shortest "
            "path, losses, refused requests, crowded servers.",
        ),
        (
            "decision",
            "Wall time to decide a request, all its functions together, p50 and p99 over the "
            "requests of a stream. It is this machine's.",
        ),
        (
            "bound",
            "milp-hindsight knows all requests beforehand. It bounds what can be accepted; its "
            "cost on the twin contains queueing, which it does not foresee. It is no competitor.",
        ),
    ),
)  # fmt: skip


def sweep_of(job: EvaluationJob) -> Sweep:
    """An evaluation on the twin, checked.

    Raises InputError for a load, a topology, a policy or a model that cannot be used, and for what
    the twin refuses.
    """
    scenario, baseline = job.scenario, job.scenario.problem.baseline
    cells = cells_of(scenario, job.loads or LOADS, job.places)
    moved = [cell_scenario(scenario, cell) for cell in cells]
    for each in moved:
        require_modelled(each)
        make_plan(each, 0)
    policies = check_policies(job.policies or _usual(job), POLICIES)
    for policy, model in contestants_of(policies, LEARNED, job.models):
        if model is not None:
            make_policy(policy, 0, model)  # a model that is none is told of before the sweep
    calibration = job.host.calibration
    told = dict.fromkeys(f"the twin leaves out {each}" for one in moved for each in left_out(one))
    streams = job.streams or STREAMS
    return Sweep(
        policies=policies,
        baseline=baseline if baseline in policies else policies[0],
        heuristics=tuple(name for name in policies if name in HEURISTICS),
        learned=tuple(name for name in policies if name in LEARNED),
        bounds=tuple(name for name in policies if name in BOUNDS),
        models=job.models,
        cells=tuple((cell.place, cell.load) for cell in cells),
        streams=streams,
        facts={
            "scenario": scenario.name,
            "constants": asdict(constants_for(scenario, calibration)),
            "calibration": job.host.identity(),
            "weights": asdict(CostWeights()),
            "left_out": words_left_out(moved),
        },
        notes=(*told, *job.host.lines()),
        rows=lambda progress: rows_of(
            scenario, contestants_of(policies, LEARNED, job.models), cells, streams, calibration,
            progress,
        ),
    )  # fmt: skip


def _usual(job: EvaluationJob) -> tuple[str, ...]:
    """The baseline, the online heuristics, and `ppo` if there are models."""
    learned = ("ppo",) if job.models else ()
    return (job.scenario.problem.baseline, "deft", *HEURISTICS, *learned)
