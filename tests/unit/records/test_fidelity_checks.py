"""Links and servers outside their tolerances are named, and by how much."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from testbed.records.fidelity_checks import (
    LinkFigures,
    ServerFigures,
    fidelity_reasons,
    link_reasons,
    loss_interval,
)
from testbed.results.summaries import compare
from testbed.scenario.impairments import GilbertElliott
from testbed.scenario.model import ToleranceSpec

MS = 1_000_000
TOLERANCES = ToleranceSpec(link_delay_s=0.0005, link_delay_share=0.01, link_rate_share=0.05)
GOOD = LinkFigures(
    name="s0>s1#0",
    asked_delay_ns=5 * MS,
    asked_jitter_ns=0,
    asked_rate_bps=100_000_000,
    asked_loss=0.0,
    loss_memory=0.0,
    probes=39,
    delay_p50_ns=5_300_000,
    rate_bps=98e6,
    train_ns=13 * MS,
    sent=160,
    lost=0,
)


def reasons(**changes: object) -> list[str]:
    return link_reasons(replace(GOOD, **changes), TOLERANCES, 30)  # type: ignore[arg-type]


def test_a_link_as_asked_has_no_reasons() -> None:
    assert reasons() == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"delay_p50_ns": 5_600_000},
            "link s0>s1#0: delay 5.600 ms, +0.600 ms off, expected at most 0.500 ms",
        ),
        (
            {"rate_bps": 90e6},
            "link s0>s1#0: rate 90.000 Mb/s, -10.0 % off, expected at most 5.0 %",
        ),
        (
            {"lost": 1},
            "link s0>s1#0: 1 of 160 frames lost, expected 0 to 0 for a loss of 0 %",
        ),
        ({"lost": 160, "delay_p50_ns": None}, "link s0>s1#0: none of 160 frames came"),
    ],
)
def test_what_is_off_is_said_with_how_much(changes: dict[str, object], reason: str) -> None:
    assert reasons(**changes) == [reason]


def test_a_long_delay_may_be_off_by_its_share_and_jitter_by_its_error() -> None:
    assert reasons(asked_delay_ns=100 * MS, delay_p50_ns=100_900_000) == []
    assert reasons(delay_p50_ns=6 * MS, asked_jitter_ns=2 * MS, probes=36) == []
    assert reasons(delay_p50_ns=7 * MS, asked_jitter_ns=2 * MS, probes=36) != []


def test_loss_is_judged_by_chance() -> None:
    assert reasons(asked_loss=0.1, lost=16) == []
    assert reasons(asked_loss=0.1, lost=1) != []
    assert reasons(asked_loss=0.1, lost=60) != []
    # A burst may take many at once.
    assert reasons(asked_loss=0.1, lost=40, loss_memory=0.8) == []


def test_the_interval_holds_what_gilbert_and_elliott_lose() -> None:
    burst = GilbertElliott(0.02, 0.3)
    rng = np.random.default_rng(5)
    outside = 0
    for _ in range(200):
        bad, lost = rng.random() < burst.bad_share, 0
        for chance in rng.random(1000):
            lost += bad
            bad = chance >= burst.to_good if bad else chance < burst.to_bad
        low, high = loss_interval(1000, burst.loss, 0.99, burst.memory)
        outside += not low <= lost <= high
    assert outside <= 8  # 2 are expected; the binomial interval alone fails some 60 times


def test_a_server_that_gets_less_than_its_quota_is_told() -> None:
    server = ServerFigures("server-3", 0.5, 0.4)
    fidelity = {"links": [asdict(GOOD)], "servers": [asdict(server)]}
    assert fidelity_reasons(fidelity, TOLERANCES) == [
        "server-3: 0.400 cores of CPU, -20.0 % off, expected at most 10 %"
    ]
    assert fidelity_reasons(None, TOLERANCES) == []


def run_of(seed: int, valid: bool, lost: int) -> dict[str, object]:
    return {
        "seed": seed, "valid": valid, "lost": lost, "goodput_bps": 1.0, "overload_s": 1.0,
        "latency_ns": {"p50": 10, "p99": 20},
    }  # fmt: skip


def test_invalid_runs_are_left_out_of_comparisons_unless_asked_for() -> None:
    ours = [run_of(seed, True, 2) for seed in range(4)]
    theirs = [run_of(seed, seed != 3, 100 if seed == 3 else 1) for seed in range(4)]
    table = compare({"ppo": ours, "deft": theirs}, "deft")
    assert table["ppo vs deft"]["lost"]["ratio"] == 2.0
    every = compare({"ppo": ours, "deft": theirs}, "deft", include_invalid=True)
    assert every["ppo vs deft"]["lost"]["ratio"] < 0.1
