"""What a comparison of trainings and rules says, and how sure it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from agents.provisioning.evaluation import HEURISTICS, Outcomes, compare, judge
from agents.provisioning.model import make_network
from tests.unit.agents.provisioning.test_dqn import TINY


def outcomes(acceptance: np.ndarray) -> Outcomes:
    return Outcomes(acceptance, *(np.ones_like(acceptance) for _ in range(4)))


def test_a_comparison_has_what_is_learned_each_rule_and_the_bound() -> None:
    torch.set_num_threads(1)
    networks = [make_network(TINY, seed) for seed in (0, 1)]
    found = compare(networks, (1,), 6, (2, 9), arrival_steps=4)
    assert found == compare(networks, (1,), 6, (2, 9), arrival_steps=4)
    for one in found:
        assert (one.streams, one.trainings) == (6, 2)
        assert set(one.rules) == set(HEURISTICS)
        ours, theirs = one.learned["acceptance"].value, one.rules["priority"]["acceptance"].value
        assert one.bound is not None and ours is not None and theirs is not None
        assert theirs <= one.bound
        change = one.change["learned"]["acceptance"]
        assert change.value == pytest.approx(ours / theirs - 1.0)
        assert change.value is not None and change.low is not None and change.high is not None
        assert change.low <= change.value <= change.high
        assert set(one.change["learned"]) == set(one.beyond) == set(Outcomes._fields)


def test_the_luck_of_a_training_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    streams = 0.5 + 0.01 * rng.random(20)
    rules = {name: outcomes(streams[None]) for name in HEURISTICS}
    alike = judge(2, 1.0, outcomes(np.stack([streams * 1.1] * 5)), rules, None)
    factors = np.array([0.9, 1.0, 1.1, 1.2, 1.3])
    apart = judge(2, 1.0, outcomes(factors[:, None] * streams), rules, None)
    for one in (alike, apart):
        assert one.change["learned"]["acceptance"].value == pytest.approx(0.1)
    narrow, wide = (one.change["learned"]["acceptance"] for one in (alike, apart))
    assert narrow.low == pytest.approx(narrow.high) == pytest.approx(0.1)
    assert wide.low is not None and wide.high is not None
    assert wide.low < 0.0 < 0.2 < wide.high
    assert dataclasses.asdict(alike)["trainings"] == 5


def test_a_change_is_from_the_rule_that_it_names() -> None:
    levels = {"priority": 0.5, "lean": 0.4, "packing": 0.6}
    rules = {name: outcomes(np.full((1, 8), level)) for name, level in levels.items()}
    found = judge(2, 1.0, outcomes(np.full((1, 8), 0.66)), rules, None)
    changes = {name: each["acceptance"].value for name, each in found.change.items()}
    assert changes == pytest.approx({"learned": 0.32, "lean": -0.2, "packing": 0.2})
    assert found.beyond["acceptance"].value == pytest.approx(0.1)
