"""The command `deftbed`.

Exit status: 0 done; 1 a run failed, or refused an order; 2 bad input, or a host that cannot do
what was asked (nothing was built); 130 interrupted (what was measured is kept).
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from typer.core import TyperGroup
from typer.exceptions import TyperException

from testbed.cli import learning as cli_learning
from testbed.cli import throughput as cli_throughput
from testbed.cli import trace as cli_trace
from testbed.cli import twin as cli_twin
from testbed.cli.evaluate import register as register_evaluate
from testbed.cli.screens.left_out import print_left_out
from testbed.results.folder import check_new
from testbed.scenario.errors import DeftbedError, InputError, Interrupted
from testbed.scenario.link_plan import SURELY_CARRIED_BPS, fastest_bps
from testbed.scenario.load import load_checked, load_scenario
from testbed.scenario.model import PolicyName, Scenario
from testbed.scenario.modelled import left_out
from testbed.scenario.plan import make_plan
from testbed.scenario.remarks import remarks
from testbed.scenario.types import RunPlan

EXIT_FAILED = 1
INTERRUPT_AGAIN_S = 0.01
EXIT_INPUT = InputError.exit_status
POLICIES: tuple[str, ...] = get_args(PolicyName)
BENCHMARKS = ("dataplane", "fidelity", "recovery", "substrate", "twin")


class _Commands(TyperGroup):
    """The commands; an interrupt keeps what was noted on it, which typer would throw away."""

    def invoke(self, ctx: Any) -> Any:
        """As typer does it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(interrupt) from interrupt


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A testbed for stateful network functions: emulate, place, break, measure.",
)
app.command()(cli_twin.calibrate)
app.command()(cli_twin.validate)
app.command()(cli_trace.trace)
app.command()(cli_throughput.throughput)
console = Console(stderr=True, highlight=False)

ScenarioPath = Annotated[Path, typer.Argument(help="a scenario file, e.g. scenarios/abilene.yaml")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]
Results = Annotated[
    Path | None, typer.Option(help="the folder to make for the results [results/<name>-<time>]")
]
IncludeInvalid = Annotated[
    bool, typer.Option("--include-invalid", help="compare runs that are not valid, too")
]
Calibrated = Annotated[Path | None, typer.Option("--calibration", help=cli_twin.CALIBRATION_HELP)]
Model = Annotated[
    Path | None, typer.Option(help="a model trained by `deftbed train`, instead of training one")
]


@app.command()
def check(scenario: ScenarioPath, as_json: AsJson = False) -> None:
    """Validate a scenario and say what its runs would be; nothing that it builds stays.

    Where links are faster than 100 Mb/s, root also measures what links this host carries.
    """
    loaded = load_scenario(scenario)
    plans = {seed: make_plan(loaded, seed) for seed in loaded.seeds}
    first = next(iter(plans.values()))
    said = list(remarks(loaded, plans.values()))
    twin = left_out(loaded)
    facts = {
        "scenario": loaded.name,
        "valid": True,
        "nodes": len(first.topology.nodes),
        "links": len(first.topology.links),
        "policies": list(loaded.policies),
        "seeds": {str(seed): len(plan.requests) for seed, plan in plans.items()},
        "links_note": _links_note(loaded, plans.values()),
        "remarks": said,
        "twin": {
            "left_out": [str(each) for each in twin if not each.refused],
            "refused": [str(each) for each in twin if each.refused],
        },
    }
    if as_json:
        print(json.dumps(facts))
        return
    requests = ", ".join(f"{len(plan.requests)} (seed {seed})" for seed, plan in plans.items())
    console.print(
        f"{scenario}: valid. {facts['nodes']} nodes, {facts['links']} links, policies "
        f"{', '.join(loaded.policies)}, requests {requests}."
    )
    for remark in said:
        console.print(f"Note: {remark}.", style="yellow", markup=False, soft_wrap=True)
    if facts["links_note"] is not None:
        console.print(facts["links_note"], style="yellow", markup=False, soft_wrap=True)
    print_left_out(console, [loaded])


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this host can do, and which back ends a run would choose."""
    from testbed.cli.screens.doctor import print_report
    from testbed.substrate.doctor import diagnose

    report = diagnose()
    if as_json:
        print(json.dumps(report))
    else:
        print_report(report)
    if not report["able"]:
        raise typer.Exit(EXIT_INPUT)


@app.command()
def run(
    scenario: ScenarioPath,
    policy: Annotated[str, typer.Option(help=f"one of {', '.join(POLICIES)}")] = "deft",
    seed: Annotated[int | None, typer.Option(help="[the scenario's first]", min=0)] = None,
    model: Model = None,
    calibration: Calibrated = None,
    results: Results = None,
    as_json: AsJson = False,
) -> None:
    """Carry out one run: one policy, one seed."""
    loaded = load_checked(scenario)
    if policy not in POLICIES:
        raise InputError("--policy", policy, f"one of {', '.join(POLICIES)}")
    chosen = loaded.model_copy(
        update={
            "policies": [policy],
            "baseline": policy,
            "seeds": [loaded.seeds[0] if seed is None else seed],
        }
    )
    models = cli_learning.given_models(chosen, {"--model": (policy, model)})
    _compare(scenario, chosen, models, results, as_json, calibration)


@app.command()
def compare(
    scenario: ScenarioPath,
    model: Model = None,
    dqn_model: Annotated[
        Path | None, typer.Option(help="the same for `dqn`; --model is that of `ppo`")
    ] = None,
    calibration: Calibrated = None,
    results: Results = None,
    include_invalid: IncludeInvalid = False,
    as_json: AsJson = False,
) -> None:
    """Run every policy with every seed on the same requests, packets and faults, and compare."""
    loaded = load_checked(scenario)
    given = {"--model": ("ppo", model), "--dqn-model": ("dqn", dqn_model)}
    models = cli_learning.given_models(loaded, given)
    _compare(scenario, loaded, models, results, as_json, calibration, include_invalid)


app.command()(cli_learning.train)
app.command()(cli_learning.tune)
app.command()(cli_learning.export)


@app.command()
def faults(
    scenario: ScenarioPath,
    count: Annotated[int, typer.Option(help="how many faults", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="which faults, when and where", min=0)] = 1,
    kinds: Annotated[
        str, typer.Option(help="which kinds, with commas between [all that the scenario allows]")
    ] = "",
    results: Results = None,
    as_json: AsJson = False,
) -> None:
    """Break things under load, one after another, and check that every promise was kept."""
    from testbed.cli.screens.faults import CampaignScreen
    from testbed.lab.faults.campaign import prepare, run_campaign

    loaded = load_checked(scenario)
    check_new(results)
    _need_root("run an emulation")
    chosen = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    spec = prepare(loaded, count, seed, chosen, results, scenario)
    screen = CampaignScreen(console, as_json)
    totals = run_campaign(spec, screen.progress, screen.row)
    screen.end(totals, spec.folder)
    if totals["violations"] or totals["lost_undeclared"]:
        raise typer.Exit(EXIT_FAILED)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
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
        _need_root("run an emulation")
    sys.path.insert(0, str(root))  # benchmarks are no part of what is installed
    importlib.import_module(f"bench.{name}").main(context.args)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="a results folder, e.g. results/latest")],
    include_invalid: IncludeInvalid = False,
    as_json: AsJson = False,
) -> None:
    """Compute the summary and the report anew from the packets and events of a results folder."""
    from testbed.cli.screens.summary import print_summary
    from testbed.lab.comparison import write_results

    if not (results / "manifest.json").is_file():
        raise InputError("results", str(results), "a results folder with a manifest.json")
    summary = write_results(results, include_invalid)
    if as_json:
        print(json.dumps(summary))
    else:
        print_summary(summary, results)


Run = Annotated[
    str | None,
    typer.Argument(help="a run's id or results folder; by default the only run under way"),
]
RequestNumber = Annotated[
    int, typer.Option("--request", help="numbered by their arrival, from 0", min=0)
]
FunctionNumber = Annotated[
    int, typer.Option("--function", help="its place in the chain, from 0", min=0)
]


@app.command()
def move(
    request: RequestNumber,
    function: FunctionNumber,
    to: Annotated[str, typer.Option(help="the name of a node")],
    run: Run = None,
    shard: Annotated[
        int | None,
        typer.Option(help="this one alone; by default all where the first one is", min=0),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Move a function of a run that is under way to another server; nothing is lost."""
    order = {"request": request, "function": function, "to": to, "shard": shard}
    _order(run, "move", order, as_json)


@app.command()
def scale(
    request: RequestNumber,
    function: FunctionNumber,
    instances: Annotated[int, typer.Option(help="how many servers, at most its shards", min=1)],
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """Spread a function of a run that is under way over more servers, or over fewer."""
    order = {"request": request, "function": function, "instances": instances}
    _order(run, "scale", order, as_json)


register_evaluate(app, console)


def _order(run: str | None, op: str, order: dict[str, Any], as_json: bool) -> None:
    from testbed.lab.live_orders import describe, find_run, give_order

    _need_root("give orders to a run")
    report = give_order(find_run(run), op, order)
    if as_json:
        print(json.dumps(report))
        return
    for line in describe(report):
        console.print(line, markup=False, soft_wrap=True)


@app.command()
def clean(
    dry_run: Annotated[bool, typer.Option(help="only say what would be removed")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what runs that died have left on this host; nothing else is touched."""
    from testbed.substrate.ownership import clean_stale

    _need_root("clean")
    removed = clean_stale(dry_run=dry_run)
    if as_json:
        print(json.dumps({"removed": removed, "dry_run": dry_run}))
        return
    for line in removed:
        console.print(line)
    console.print("nothing to remove" if not removed else f"{len(removed)} things")


def _compare(
    path: Path,
    scenario: Scenario,
    models: dict[str, Path],
    results: Path | None,
    as_json: bool,
    calibration: Path | None,
    include_invalid: bool = False,
) -> None:
    check_new(results)
    _need_root("run an emulation")
    from testbed.cli.screens.summary import print_summary
    from testbed.lab.comparison import compare_policies

    folder, summary = compare_policies(
        path, scenario, models, results, console, include_invalid, calibration
    )
    if as_json:
        print(json.dumps({**summary, "results": str(folder)}))
    else:
        print_summary(summary, folder)


def _links_note(scenario: Scenario, plans: Iterable[RunPlan]) -> str | None:
    """That links are faster than this host carries, or who can tell; None if all is well."""
    wanted_bps = fastest_bps(plans)
    if wanted_bps <= SURELY_CARRIED_BPS:
        return None
    from testbed.substrate.choice import able_host
    from testbed.substrate.greatest_rate import rate_note

    try:
        _, backends = able_host(scenario)
    except InputError:  # this user, or this host, cannot carry links at all
        return f"links of {wanted_bps / 1e6:,.0f} Mb/s: as root, check measures what links carry"
    return rate_note(wanted_bps, backends, scenario.tolerances)


def _need_root(what: str) -> None:
    if os.geteuid() != 0:
        command = shutil.which(sys.argv[0]) or sys.argv[0]
        again = " ".join(["sudo", command, *sys.argv[1:]])
        raise InputError("user", os.geteuid(), f"root, which it takes to {what}; try: {again}")


def _on_signal(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _on_ignored(ignored: sys.UnraisableHookArgs) -> None:
    """Send an interrupt again that came inside a destructor, where Python ignores errors."""
    if ignored.exc_type is KeyboardInterrupt:
        again = threading.Timer(INTERRUPT_AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(ignored)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command `deftbed`."""
    # A closed terminal or a SIGTERM ends a run like Ctrl-C: in order, and cleaned up.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    sys.unraisablehook = _on_ignored
    sys.exit(_status(lambda: app(args=arguments, standalone_mode=False)))


def _tell(words: str, error: BaseException) -> None:
    """Say what happened on standard error, and below it what was noted on the error."""
    for line in (f"deftbed: {words}", *getattr(error, "__notes__", ())):
        console.print(line, style="red", markup=False, soft_wrap=True)


def _status(command: Callable[[], Any]) -> int:
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except DeftbedError as error:
        _tell(str(error), error)
        return error.exit_status
    except OSError as error:  # a disk that is full, a folder that may not be written
        _tell(str(error), error)
        return EXIT_FAILED
    except typer.Exit as end:
        return end.exit_code
    except TyperException as error:
        console.print(error.format_message(), markup=False)
        return EXIT_INPUT
    except (KeyboardInterrupt, typer.Abort) as error:  # before a command began
        ended = Interrupted(error)
        _tell(str(ended), ended)
        return ended.exit_status
