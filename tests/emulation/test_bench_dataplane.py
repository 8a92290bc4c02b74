"""The benchmark of the data plane at tiny rates: its lines are JSON and have the promised names."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from bench import dataplane
from bench.dataplane import ARTEFACT, Case, Effort
from bench.rigs.chain_lab import laboratory

pytestmark = pytest.mark.emulation

TINY = Effort(runs=1, trial_s=0.1, resolution=3.0, latency_s=0.1, fastest_pps=4_000)
CASES = (
    Case("none", "none", flows=40),
    Case("fw", ARTEFACT, flows=40),
    Case("fw", "none", flows=40),
    Case("fw", "pipelined", flows=40),
)
RATES = {"1kpps", "half"}
LATENCIES = {f"added_latency_p{p}_us_at_{rate}" for p in (50, 99) for rate in RATES}


@pytest.fixture(scope="module")
def lines() -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    printed = [json.loads(json.dumps(line)) for line in dataplane.measure(CASES, TINY)]
    assert [line["bench"] for line in printed] == ["dataplane"] * len(CASES)
    return {(line["case"]["function"], line["case"]["replication"]): line for line in printed}


def test_each_case_has_the_promised_figures(
    lines: dict[tuple[str, str], dict[str, dict[str, float]]],
) -> None:
    of_all = {"loss_free_pps", "cpu_us_per_packet"}
    pipelined = lines["fw", "pipelined"]
    ratios = {"vs_unprotected_ratio", "vs_deft_artefact_ratio"}
    assert set(pipelined["figures"]) == of_all | LATENCIES | ratios
    assert set(pipelined["spread"]) == set(pipelined["figures"])
    assert set(lines["fw", "none"]["figures"]) == of_all | LATENCIES | {"vs_deft_artefact_ratio"}
    assert of_all < set(lines["none", "none"]["figures"])
    assert set(pipelined["case"]) == {
        "function", "replication", "frame_bytes", "chain_length", "flows"
    }  # fmt: skip


def test_ratios_are_of_the_rates_of_the_same_run(
    lines: dict[tuple[str, str], dict[str, dict[str, float]]],
) -> None:
    rates = {case: line["figures"]["loss_free_pps"] for case, line in lines.items()}
    figures = lines["fw", "pipelined"]["figures"]
    for name, reference in (("vs_unprotected", "none"), ("vs_deft_artefact", ARTEFACT)):
        expected = rates["fw", "pipelined"] / rates["fw", reference]
        assert figures[f"{name}_ratio"] == pytest.approx(expected, abs=1e-3)


def test_the_artefact_waits_for_a_full_batch(
    lines: dict[tuple[str, str], dict[str, dict[str, float]]],
) -> None:
    """80 packets at 1 kpps take 80 ms; what replicates without that waits for nothing."""
    artefact = lines["fw", ARTEFACT]["figures"]["added_latency_p50_us_at_1kpps"]
    assert 25_000 < artefact < 80_000
    assert lines["fw", "pipelined"]["figures"]["added_latency_p50_us_at_1kpps"] < 10_000


def test_a_packet_of_a_chain_of_three_passes_three_groups() -> None:
    with laboratory(3) as lab:
        bench = dataplane.Bench(lab, (), TINY)
        case = Case("fw", "pipelined", chain_length=3, flows=40)
        with bench.running(case):
            trial = bench.trial(case, 1_000, 0.2, 0)
            handled = [lab.order(f"p{group}", "stats")["processed"] for group in range(3)]
        assert trial.outcome.lost == 0
        assert handled[0] == handled[1] == handled[2] >= trial.sent.count
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert f"dbc{os.getpid()}" not in left.stdout
    assert not list(Path(lab.folder.parent).glob(lab.folder.name))
