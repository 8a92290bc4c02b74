"""Reads a scenario file and says precisely what is wrong with it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from testbed.scenario.errors import InputError
from testbed.scenario.model import Scenario
from testbed.scenario.plan import make_plan

_UNITS = {
    "_bps": "bits per second",
    "_pps": "packets per second",
    "_s": "seconds",
    "_bytes": "bytes",
    "_km": "kilometres",
    "_cores": "reference cores",
    "_deg": "degrees",
}


class _Loader(yaml.SafeLoader):
    """YAML as its users write it: 100e6 is a number, a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise InputError(str(key), "given twice", f"one value (line {line})")
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_scenario(path: Path | str) -> Scenario:
    """The checked scenario in the file at `path`.

    Raises InputError that names the field, its value and what was expected.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("scenario", str(path), f"a readable file ({error})") from error
    return parse_scenario(text)


def load_checked(path: Path) -> Scenario:
    """`load_scenario`, and a look at whether the runs of all its seeds can be planned."""
    scenario = load_scenario(path)
    for seed in scenario.seeds:
        make_plan(scenario, seed)
    return scenario


def parse_scenario(text: str) -> Scenario:
    """The checked scenario in YAML `text`; raises InputError."""
    try:
        return Scenario.model_validate(parse_mapping(text, "scenario"))
    except ValidationError as error:
        raise _input_error(error) from error


def parse_mapping(text: str, field: str) -> Mapping[Any, Any]:
    """The mapping in YAML `text`, or in JSON, which is YAML; InputError naming `field` if none."""
    try:
        # _Loader is a SafeLoader: it builds plain values only.
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise InputError(field, "not YAML", " ".join(str(error).split())) from error
    if not isinstance(data, Mapping):
        raise InputError(field, data, "a mapping of keys to values")
    return data


def _input_error(error: ValidationError) -> InputError:
    details = error.errors()
    first = _describe(details[0])
    if len(details) > 1:
        more = "; ".join(str(_describe(detail)) for detail in details[1:4])
        expected = f"{first.expected}; and {len(details) - 1} more: {more}"
        return InputError(first.field, first.value, expected)
    return first


def _describe(detail: ErrorDetails) -> InputError:
    field = ".".join(str(part) for part in detail["loc"]) or "scenario"
    kind, value = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        return InputError(field, value, _unknown_key(detail["loc"]))
    if kind == "missing":
        return InputError(field, None, "a value (the key is missing)")
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return InputError(field, "this combination", message)
    unit = next((u for end, u in _UNITS.items() if field.endswith(end)), None)
    text = message.removeprefix("Input should be ").replace("Input should have", "to have")
    return InputError(field, value, f"{text} ({unit})" if unit else text)


def _unknown_key(location: tuple[int | str, ...]) -> str:
    known = _known_keys(location[:-1])
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"one of the keys {', '.join(known)}{hint}" if known else "no such key"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Scenario
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        model = _inner_model(field.annotation) or model
    return list(model.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None
