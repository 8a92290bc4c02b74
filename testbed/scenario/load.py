"""Reads a scenario file; what is wrong with it is an InputError that says so precisely."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from testbed.scenario.errors import InputError
from testbed.scenario.model import FORMATS, Scenario, schema_of
from testbed.scenario.plan import make_plan
from testbed.scenario.wording import input_error, short
from testbed.scenario.yaml_text import parse_mapping, read_mapping


def load_scenario(path: Path | str) -> Scenario:
    """The checked scenario in the file at `path`.

    Raises InputError that names the field, its value and what was expected.
    """
    return _scenario(read_mapping(Path(path), "scenario"))


def load_checked(path: Path) -> Scenario:
    """`load_scenario`, and a look at whether the runs of all its seeds can be planned."""
    scenario = load_scenario(path)
    for seed in scenario.seeds:
        make_plan(scenario, seed)
    return scenario


def parse_scenario(text: str) -> Scenario:
    """The checked scenario in YAML `text`; raises InputError."""
    return _scenario(parse_mapping(text, "scenario"))


def _scenario(data: Mapping[str, Any]) -> Scenario:
    version = data.get("format", 2)
    if type(version) is not int or version not in FORMATS:  # no other key can be told then
        raise InputError("format", short(version), "1 or 2")
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        raise input_error(error, data, schema_of(version)) from error
