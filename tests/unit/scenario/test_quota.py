"""What the kernel would refuse as a quota is told by `check`, before a network is built."""

from __future__ import annotations

import pytest
import yaml

from testbed.scenario.errors import InputError
from testbed.scenario.load import parse_scenario
from testbed.scenario.plan import make_plan
from testbed.scenario.quota import cpu_quota_us, refusal
from tests.support.places import SMOKE


def plan_with(cores: float, period_s: float, capacity_model: str = "quota") -> None:
    data = yaml.safe_load(SMOKE.read_text(encoding="utf-8"))
    name = data["topology"]["nodes"][1]["name"]
    data["servers"] |= {
        "capacity_model": capacity_model,
        "quota_period_s": period_s,
        "by_node": {name: {"cpu_cores": cores}},
    }
    make_plan(parse_scenario(yaml.safe_dump(data)), 1)


def test_a_quota_that_the_kernel_refuses_is_bad_input() -> None:
    with pytest.raises(InputError) as caught:
        plan_with(0.01, 0.005)
    assert (caught.value.field, caught.value.value) == ("servers.quota_period_s", 0.005)
    assert "at least 0.1 s" in caught.value.expected
    assert "server " in caught.value.expected
    plan_with(0.01, 0.005, "service-time")  # which asks the kernel for no quota


@pytest.mark.parametrize("period_s", [0.0005, 2.0])
def test_a_period_that_the_kernel_refuses_is_bad_input(period_s: float) -> None:
    assert "0.001 s to 1 s" in str(refusal(1.0, period_s))
    with pytest.raises(InputError) as caught:
        plan_with(1.0, period_s)
    assert (caught.value.field, caught.value.value) == ("servers.quota_period_s", period_s)
    assert "from 0.001 to 1" in caught.value.expected


def test_the_least_period_that_is_told_is_taken() -> None:
    assert refusal(0.01, 0.1) is None
    assert cpu_quota_us(0.01, 0.1) == (1_000, 100_000)
