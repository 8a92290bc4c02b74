"""The rows of the report's section on real applications."""

from __future__ import annotations

from typing import Any

from testbed.results.report.read_results import Json, Results


def application_rows(results: Results) -> list[dict[str, str]]:
    """One for each application of each run: policy, run, what it was, its goodput and the rest."""
    return [
        {
            "policy": policy,
            "run": f"{policy}, seed {run['seed']}",
            "what": f"{each['kind']}, request {each['request']}",
            "goodput": _kilobits(each.get("goodput_bps")),
            "rest": each["error"] or (_iperf(each) if each["kind"] == "iperf3" else _http(each)),
        }
        for policy in results.policies
        for run in results.summaries(policy)
        for each in run.get("applications", [])
    ]


def _kilobits(bps: float | None) -> str:
    return "–" if bps is None else f"{bps / 1e3:,.0f}"


def _iperf(entry: Json) -> str:
    return f"{entry['retransmits']} retransmissions, mean round trip {_ms(entry['mean_rtt_ns'])}"


def _http(entry: Json) -> str:
    total: dict[str, Any] = entry["total_ns"]
    median = total["p50"]["value"]
    tail = total["p95"]["value"]
    times = f"whole after {_ms(median)} (p50), {_ms(tail)} (p95)"
    return f"{entry['fetches']:,} fetches, {entry['failed']} failed; {times}"


def _ms(ns: float | None) -> str:
    return "–" if ns is None else f"{ns / 1e6:,.1f} ms"
