"""The formats of scenario files: what decides stands in `problem`; files of format 1 are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.scenario.errors import InputError
from testbed.scenario.load import load_scenario, parse_scenario
from testbed.scenario.model import LIFTED
from tests.support.places import SCENARIOS, SMOKE

FILES = [
    path
    for path in sorted([*SCENARIOS.glob("*.yaml"), *SCENARIOS.glob("validation/*.yaml")])
    if load_scenario(path).problem.name == "placement"
]


def smoke(**changes: Any) -> dict[str, Any]:
    """The content of the smoke scenario, with other keys at its top; None takes one away."""
    content = {**yaml.safe_load(SMOKE.read_text(encoding="utf-8")), **changes}
    return {key: value for key, value in content.items() if value is not None}


def error_of(content: dict[str, Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_scenario(yaml.safe_dump(content))
    return caught.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_format_1_says_the_same_as_one_of_format_2(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    section = content.pop("problem")
    assert section.pop("name") == "placement" and set(section) <= set(LIFTED)
    older = {**content, **section, "format": 1}
    assert parse_scenario(yaml.safe_dump(older)) == load_scenario(path)


def test_what_is_wrong_in_a_file_of_format_1_has_the_key_that_stands_there() -> None:
    wrong = smoke(format=1, problem=None, policies=["deft", "best"], seeds=[1])
    error = error_of(wrong)
    assert (error.field, error.value) == ("policies.1", "best")
    assert "greedy-delay" in error.expected
    wrong = smoke(format=1, problem=None, policies=["deft"], training={"decisions": 0})
    assert error_of(wrong).field == "training.decisions"
    assert error_of(smoke(format=1, problem=None)).field == "policies"


def test_format_1_knows_no_problem() -> None:
    assert "format 2" in error_of(smoke(format=1)).expected


def test_what_decides_has_its_keys_in_format_2() -> None:
    assert error_of(smoke(problem=None)).field == "problem"
    error = error_of(smoke(problem={"name": "placement", "policies": ["deft", "best"]}))
    assert error.field == "problem.policies.1"
    error = error_of(smoke(policies=["deft"]))
    assert error.field == "policies" and "problem" in error.expected


@pytest.mark.parametrize("name", [None, "routing", 3, ["placement"]])
def test_a_problem_that_is_not_known_is_named_with_those_that_are(name: Any) -> None:
    section = {"policies": ["deft"]} if name is None else {"name": name, "policies": ["deft"]}
    error = error_of(smoke(problem=section))
    assert error.field == "problem.name"
    assert "placement" in error.expected and "provisioning" in error.expected


def test_a_problem_has_keys_of_its_own() -> None:
    streams = {"data_centres": [3], "loads": [2.0], "count": 2}
    section = {"name": "provisioning", "policies": ["deft", "dqn"], "streams": streams}
    scenario = parse_scenario(yaml.safe_dump(smoke(problem=section)))
    assert scenario.problem.name == "provisioning"
    assert scenario.problem.streams.data_centres == [3]
    error = error_of(smoke(problem={**section, "name": "placement"}))
    assert error.field == "problem.streams"


def test_another_format_is_refused() -> None:
    error = error_of(smoke(format=3))
    assert (error.field, error.value, error.expected) == ("format", 3, "1 or 2")


def test_policies_stand_once_and_the_baseline_is_one_of_them() -> None:
    for policies, baseline in ((["deft", "deft"], "deft"), (["ppo"], "deft")):
        section = {"name": "placement", "policies": policies, "baseline": baseline}
        assert error_of(smoke(problem=section)).field == "problem"
