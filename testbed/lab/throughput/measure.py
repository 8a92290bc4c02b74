"""`deftbed throughput`: build the network, search for the loss-free rate, then try TCP."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from testbed.decisions.placement import ledger_of
from testbed.decisions.problem import MakePolicy
from testbed.lab.lab import open_lab
from testbed.lab.throughput.chain_under_test import ChainUnderTest
from testbed.lab.throughput.search import Found, Trial, search
from testbed.lab.throughput.tcp import IperfError, tcp_metrics
from testbed.orchestration.deploying import backups, users
from testbed.orchestration.deploying.watchers import start_servers
from testbed.records.files import write_json
from testbed.records.revision import git_revision
from testbed.results.folder import hand_back, results_folder
from testbed.results.not_done import death
from testbed.scenario.endings import Endings
from testbed.scenario.errors import InputError, RunError, run_error
from testbed.scenario.model import Scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.types import NS_PER_S, Placement, Request, RunPlan
from testbed.substrate.backend_choice import able_host
from testbed.substrate.ownership import clean
from testbed.vnf.dataplane.nsh import HEADER_BYTES

FORMAT = 1
HEADROOM = 1.25
"""The search begins this much above what the servers' capacity model lets through at most."""
BASELINE_S = 3
BASELINE_RATE = "100K"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What `deftbed throughput` takes, beside the scenario."""

    policy: str
    seed: int
    request: int
    trial_s: float
    pause_s: float
    resolution: float
    acceptable_loss: float
    highest_pps: float | None
    l3_bytes: int | None
    tcp_s: int


def measure_throughput(
    scenario: Scenario,
    make_policy: MakePolicy,
    options: Options,
    results: Path | None,
    progress: Progress,
) -> tuple[Path, dict[str, Any]]:
    """Measure; the results folder, and the content of its throughput.json.

    Raises InputError before anything is built, RunError if the network or the chain fails.
    """
    plan, request, placements = _plan(scenario, make_policy, options)
    capabilities, backends = able_host(scenario)
    l3_bytes = options.l3_bytes or request.l3_bytes
    highest_pps = options.highest_pps or _highest_pps(plan, request, placements, l3_bytes)
    folder = _folder(scenario, results)
    run_id = secrets.token_hex(3)
    report = {
        "format": FORMAT,
        "scenario": scenario.name,
        "options": {**asdict(options), "l3_bytes": l3_bytes, "highest_pps": highest_pps},
        "chain": asdict(request),
        "placements": [list(placement.nodes) for placement in placements],
        "backends": asdict(backends),
        "git_revision": git_revision(),
    }
    realtime = capabilities.realtime.available
    with Endings() as endings:
        endings.add(hand_back, folder)
        endings.add(write_json, folder / "throughput.json", report)
        endings.add(clean, run_id)
        try:
            with open_lab(scenario, plan, run_id, folder, backends, realtime) as lab:
                start_servers(lab.site)
                users.start_edges(lab.site)
                chain = ChainUnderTest.set_up(lab, request, placements, l3_bytes)
                report |= _carry_out(chain, options, highest_pps, progress)
        except (RunError, OSError) as error:
            raise run_error(error, "throughput", folder) from error
    return folder, report


def _carry_out(
    chain: ChainUnderTest, options: Options, highest_pps: float, progress: Progress
) -> dict[str, Any]:
    def carry_out(rate_pps: float) -> Trial:
        progress(f"trial {len(chain.trials) + 1}: {rate_pps:,.1f} packets/s")
        trial = chain.trial(rate_pps, options.trial_s, options.pause_s)
        passed = trial.passed(options.acceptable_loss)
        chain.trials[-1]["passed"] = passed
        why = "" if trial.punctual else ", the sender was late"
        lost = trial.sent - trial.received
        progress(f"  {'passed' if passed else 'failed'}: {lost} of {trial.sent} lost{why}")
        return trial

    found = search(carry_out, highest_pps, options.resolution, options.acceptable_loss)
    report: dict[str, Any] = {
        "trials": chain.trials,
        "throughput": _throughput(chain, found, options),
    }
    if options.tcp_s > 0:
        progress(f"TCP, {options.tcp_s:g} s")
        # A search that loss did not end has not found what the chain carries.
        chain_pps = found.rate_pps if found.limit == "loss" else None
        report["tcp"] = _tcp(chain, options, chain_pps)
    return {**report, **_validity(chain, report.get("tcp", {}))}


def _throughput(chain: ChainUnderTest, found: Found, options: Options) -> dict[str, Any]:
    """The result, with the delays of the trial at that rate (RFC 2544 section 26.2)."""
    best = next((t for t in chain.trials if t["passed"] and t["rate_pps"] == found.rate_pps), None)
    notes = []
    if options.trial_s < 60:
        notes.append(f"trials of {options.trial_s:g} s; RFC 2544 section 24 asks for 60 s")
    if found.limit == "sender":
        notes.append("the sender was late at the rate that failed: the chain may carry more")
    if found.limit == "highest rate tried":
        notes.append("the highest rate that was tried passed: the chain may carry more")
    rate = found.rate_pps
    return {
        "pps": rate,
        "l3_bps": None if rate is None else rate * chain.l3_bytes * 8,
        "failed_pps": found.failed_pps,
        "limit": found.limit,
        "delay_ns": None if best is None else best["metrics"]["delay_ns"],
        "notes": notes,
    }


def _tcp(chain: ChainUnderTest, options: Options, chain_pps: float | None) -> dict[str, Any]:
    link_bps = min(link.rate_bps for link in chain.lab.site.plan.topology.links)
    try:
        baseline = chain.tcp(BASELINE_S, BASELINE_RATE)
        loaded = chain.tcp(options.tcp_s)
        write_json(chain.lab.site.run_dir / "iperf3-baseline.json", baseline)
        write_json(chain.lab.site.run_dir / "iperf3-loaded.json", loaded)
        return tcp_metrics(baseline, loaded, link_bps, HEADER_BYTES, chain_pps).to_json()
    except IperfError as error:
        return {"error": f"iperf3: {error}"}


def _validity(chain: ChainUnderTest, tcp: Mapping[str, Any]) -> dict[str, Any]:
    least = chain.lab.site.scenario.tolerances.host_idle_percent
    busy = [
        f"trial {trial['number'] + 1}: the host was {trial['host_idle_percent']} % idle, expected "
        f"at least {least} %"
        for trial in chain.trials
        if trial["host_idle_percent"] < least
    ]
    failed = [f"TCP failed: {tcp['error']}"] if "error" in tcp else []
    died = [death(*each) for each in chain.lab.site.spawner.died().items()]
    reasons = [*busy, *failed, *died]
    return {"valid": not reasons, "reasons": reasons}


def _plan(
    scenario: Scenario, make_policy: MakePolicy, options: Options
) -> tuple[RunPlan, Request, tuple[Placement, ...]]:
    """The plan with the one request that is served, and where the policy puts it."""
    plan = make_plan(scenario, options.seed)
    if options.request >= len(plan.requests):
        expected = f"below {len(plan.requests)}, the number of requests of seed {options.seed}"
        raise InputError("--request", options.request, expected)
    request = replace(plan.requests[options.request], arrival_ns=0, start_ns=0)
    policy = make_policy(options.policy, options.seed, None, plan)
    ledger = ledger_of(plan)
    wanted = scenario.replication.backups_wanted
    placements: list[Placement] = []
    for _ in request.functions:
        choice = backups.place(policy, ledger, request, placements, wanted)
        if isinstance(choice, str):
            raise InputError("--policy", options.policy, f"one that places the request: {choice}")
        placements.append(choice)
    return replace(plan, requests=(request,), faults=()), request, tuple(placements)


def _highest_pps(
    plan: RunPlan, request: Request, placements: Sequence[Placement], l3_bytes: int
) -> float:
    """What the slowest link lets through, or a little more than the busiest server does."""
    link_bps = min(link.rate_bps for link in plan.topology.links)
    by_link = link_bps / ((l3_bytes + HEADER_BYTES) * 8)
    work_ns: dict[int, float] = {}
    for name, placement in zip(request.functions, placements, strict=True):
        profile = plan.profiles[name]
        costs = [profile.service_ns, *[profile.backup_service_ns] * len(placement.backups)]
        for node, cost_ns in zip(placement.nodes, costs, strict=True):
            work_ns[node] = work_ns.get(node, 0.0) + cost_ns
    cores = {server.node: server.cpu_cores for server in plan.servers}
    by_server = min(
        (cores[node] * NS_PER_S / cost_ns for node, cost_ns in work_ns.items() if cost_ns),
        default=by_link,
    )
    return min(by_link, HEADROOM * by_server)


def _folder(scenario: Scenario, results: Path | None) -> Path:
    folder = results_folder(results, f"throughput-{scenario.name}")
    (folder / "raw").mkdir()
    return folder
