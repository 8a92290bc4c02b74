"""The command `deftbed throughput`: how much a scenario's chain carries, in packets and TCP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from agents.problems import problem
from testbed.cli.options import AsJson, console, need_root
from testbed.cli.screens.tables import Column, FittedTable
from testbed.results.folder import check_new
from testbed.scenario.errors import InputError
from testbed.scenario.load import load_checked


def throughput(
    scenario: Annotated[Path, typer.Argument(help="a scenario file, e.g. scenarios/smoke.yaml")],
    policy: Annotated[str, typer.Option(help="who places the chain; none that is trained")] = (
        "greedy-delay"
    ),
    seed: Annotated[int | None, typer.Option(help="[the scenario's first]", min=0)] = None,
    request: Annotated[int, typer.Option(help="whose chain, by its number", min=0)] = 0,
    trial: Annotated[
        float, typer.Option(help="seconds of a trial; RFC 2544 asks for 60", min=0.1)
    ] = 10.0,
    pause: Annotated[float, typer.Option(help="seconds between trials", min=0.0)] = 5.0,
    resolution: Annotated[
        float, typer.Option(help="the search ends when the rates are this share apart")
    ] = 0.02,
    acceptable_loss: Annotated[
        float, typer.Option(help="share of the packets that may be lost")
    ] = 0.0,
    highest: Annotated[
        float | None,
        typer.Option(help="packets/s to begin with [what links and servers could do]", min=1.0),
    ] = None,
    l3_bytes: Annotated[
        int | None, typer.Option(help="size of a packet [the chain's]", min=64, max=1400)
    ] = None,
    tcp: Annotated[
        int, typer.Option(help="whole seconds of TCP by iperf3; 0: none", min=0, max=86_400)
    ] = 10,
    results: Annotated[
        Path | None, typer.Option(help="the folder to make [results/throughput-<name>-<time>]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the highest rate without loss (RFC 2544) and TCP's metrics (RFC 6349) of a chain."""
    loaded = load_checked(scenario)
    for name, share, low in (("--resolution", resolution, 1e-4), ("--acceptable-loss",
                             acceptable_loss, 0.0)):  # fmt: skip
        if not low <= share < 1:
            raise InputError(name, share, f"at least {low:g} and below 1")
    check_new(results)
    placement = problem("placement")
    if policy in placement.learned:
        raise InputError("--policy", policy, "one that needs no training")
    need_root("run an emulation")
    from testbed.lab.throughput.measure import Options, measure_throughput

    options = Options(
        policy=policy,
        seed=loaded.seeds[0] if seed is None else seed,
        request=request,
        trial_s=trial,
        pause_s=pause,
        resolution=resolution,
        acceptable_loss=acceptable_loss,
        highest_pps=highest,
        l3_bytes=l3_bytes,
        tcp_s=tcp,
    )
    folder, report = measure_throughput(
        loaded,
        placement.make_policy,
        options,
        results,
        lambda line: console.print(line, markup=False),
    )
    if as_json:
        print(json.dumps({**report, "results": str(folder)}))
    else:
        show(report, folder, Console(highlight=False))


def show(report: Mapping[str, Any], folder: Path, out: Console) -> None:
    """The trials of a measurement and what was found."""
    rows = []
    for trial in report["trials"]:
        metrics, p50 = trial["metrics"], trial["metrics"]["delay_ns"]["p50"]["value"]
        late_ns = trial["sender_lag_p99_ns"]
        rows.append(
            (
                f"{trial['rate_pps']:,.1f}",
                str(metrics["sent"]),
                str(metrics["lost"]),
                "-" if p50 is None else f"{p50 / 1e6:.2f}",
                "-" if late_ns is None else f"{late_ns / 1e6:.2f}",
                "passed" if trial["passed"] else "failed" if trial["punctual"] else "sender late",
            )
        )
    titles = ("packets/s", "sent", "lost", "delay p50 ms", "sender late p99 ms", "result")
    out.print(FittedTable(tuple(map(Column, titles)), tuple(rows)))
    found = report["throughput"]
    rate = found["pps"]
    text = (
        "no rate passed" if rate is None else f"{rate:,.1f} packets/s, {found['l3_bps']:,.0f} b/s"
    )
    failed = found["failed_pps"]
    beyond = "" if failed is None else f"; {failed:,.1f} failed ({found['limit']})"
    out.print(f"throughput (RFC 2544): {text}{beyond}", style="bold")
    for note in found["notes"]:
        out.print(f"  {note}")
    if "tcp" in report:
        out.print(f"TCP (RFC 6349): {_tcp_text(report['tcp'])}", style="bold", soft_wrap=True)
    if not report["valid"]:
        out.print("NOT VALID, so these figures support no claim:", style="red")
        for reason in report["reasons"]:
            out.print(f"  {reason}", markup=False, soft_wrap=True)
    out.print(f"records: {folder}", soft_wrap=True)


def _tcp_text(tcp: Mapping[str, Any]) -> str:
    if "error" in tcp:
        return str(tcp["error"])
    actual, ideal = tcp["actual_bps"] / 1e3, tcp["ideal_bps"] / 1e3
    rtt_ms, least_ms = tcp["mean_rtt_ns"] / 1e6, tcp["baseline_rtt_ns"] / 1e6
    return (
        f"{actual:,.0f} kb/s of {ideal:,.0f} ({tcp['bottleneck']}), "
        f"ratio {tcp['throughput_ratio']:.2f}, efficiency {tcp['efficiency_percent']:.2f} %, "
        f"buffer delay {tcp['buffer_delay_percent']:.0f} % "
        f"(RTT {rtt_ms:.1f} ms, baseline {least_ms:.1f} ms)"
    )
