"""Says what is wrong with a scenario file: the key as the file has it, and what is allowed there.

What is allowed is read from the published schema, so that the words and the checks cannot differ.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from testbed.scenario.base import PATTERN_WORDS
from testbed.scenario.errors import InputError

_UNITS = {
    "_km_per_s": "kilometres per second",
    "_per_s": "per second",
    "_bps": "bits per second",
    "_pps": "packets per second",
    "_s": "seconds",
    "_bytes": "bytes",
    "_km": "kilometres",
    "_cores": "reference cores",
    "_deg": "degrees",
    "_percent": "percent",
}
_SHOWN = 4
"""Errors that are told at once."""
_NOTHING = object()

Json = Mapping[str, Any]
Path = tuple[int | str, ...]


def input_error(error: ValidationError, data: object, schema: Json) -> InputError:
    """What a person reads of `error`, which the model of `schema` raised for `data`."""
    paths = [(_path(detail, data), detail) for detail in error.errors()]
    found: dict[Path, InputError] = {}
    for path, detail in paths:
        # Of a union, the alternative that was meant is the one whose errors lie deepest.
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other, _ in paths)
        if detail["type"] == "value_error" or not deeper:
            found.setdefault(path, _describe(path, detail, data, schema))
    first, *others = found.values()
    if not others:
        return first
    more = "; ".join(str(each) for each in others[: _SHOWN - 1])
    expected = f"{first.expected}; and {len(others)} more: {more}"
    return InputError(first.field, first.value, expected)


def _path(detail: ErrorDetails, data: object) -> Path:
    """The keys and places that lead to the error in the file; pydantic names alternatives too."""
    path: list[int | str] = []
    missing = detail["type"] == "missing"
    location = detail["loc"][:-1] if missing else detail["loc"]
    for part in location:
        step = _NOTHING if isinstance(part, str) and part == "[key]" else _value(data, part)
        if step is not _NOTHING:
            data = step
            path.append(part)
    return (*path, detail["loc"][-1]) if missing else tuple(path)


def _describe(path: Path, detail: ErrorDetails, data: object, schema: Json) -> InputError:
    field = ".".join(map(str, path)) or "scenario"
    value = _value_at(data, path)
    kind = detail["type"]
    if kind == "value_error":
        shown = "this combination" if isinstance(value, (Mapping, list)) else value
        return InputError(field, shown, detail["msg"].removeprefix("Value error, "))
    if kind == "missing":
        return InputError(field, None, "a value (the key is missing)")
    if kind == "extra_forbidden":
        return InputError(field, short(value), _unknown_key(path, data, schema))
    if detail["loc"][-1] == "[key]":
        keys = [node.get("propertyNames", {}) for node in _nodes_at(schema, path[:-1], data)]
        return InputError(field, "this key", _one_of(keys[0].get("enum", ["text"])))
    nodes = _nodes_at(schema, path, data)
    key, tags = _tags(nodes)
    if tags and isinstance(value, Mapping):
        expected = _one_of(tags)
        if key in value:
            return InputError(f"{field}.{key}", short(value[key]), expected)
        return InputError(f"{field}.{key}", None, f"{expected} (the key is missing)")
    return InputError(field, short(value), _allowed(path, nodes, value))


def _value(data: object, part: int | str) -> object:
    """What is at a key of a mapping, or at a place of a list; _NOTHING if nothing is."""
    if isinstance(data, Mapping):
        return data.get(part, _NOTHING)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return _NOTHING


def _value_at(data: object, path: Path) -> object:
    for part in path:
        data = _value(data, part)
    return None if data is _NOTHING else data


def short(value: object) -> object:
    """A value as an error shows it: what is long or nested is cut."""
    if isinstance(value, (list, dict, str)) and len(repr(value)) > 80:
        return reprlib.repr(value)
    return value


def _nodes_at(schema: Json, path: Path, data: Any) -> list[Json]:
    """The parts of the schema that a value at `path` may follow; unions are taken apart."""
    nodes = list(_alternatives(schema, schema, data))
    for part in path:
        data = _value_at(data, (part,))
        steps = [step for node in nodes if (step := _step(node, part)) is not None]
        nodes = [each for step in steps for each in _alternatives(step, schema, data)]
    return nodes


def _step(node: Json, part: int | str) -> Json | None:
    if isinstance(part, int):
        items: Json | None = node.get("items")
        return items
    properties: Json = node.get("properties", {})
    inner = properties.get(part, node.get("additionalProperties"))
    return inner if isinstance(inner, Mapping) else None


def _alternatives(node: Json, schema: Json, data: Any) -> Iterator[Json]:
    """The node without references and unions; of kinds only the one that `data` has."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    told_apart: Json = node.get("discriminator", {})
    mapping: Mapping[str, str] | None = told_apart.get("mapping")
    if mapping is not None:
        key = told_apart["propertyName"]
        kind = data.get(key) if isinstance(data, Mapping) else None
        if isinstance(kind, str) and kind in mapping:
            yield from _alternatives({"$ref": mapping[kind]}, schema, data)
        else:
            yield {"told_apart_by": key, "kinds": sorted(mapping)}
        return
    for key in ("anyOf", "oneOf"):
        for each in node.get(key, ()):
            yield from _alternatives(each, schema, data)
    if "anyOf" not in node and "oneOf" not in node and node.get("type") != "null":
        yield node


def _tags(nodes: Sequence[Json]) -> tuple[str, list[str]]:
    """The key that tells alternatives apart, and its values; none where there are none."""
    for node in nodes:
        if "kinds" in node:
            return node["told_apart_by"], node["kinds"]
    return "", []


def _allowed(path: Path, nodes: Sequence[Json], value: object) -> str:
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    unit = next((unit for end, unit in _UNITS.items() if key.endswith(end)), None)
    return ", or ".join(dict.fromkeys(_words(node, value, unit) for node in nodes))


def _words(node: Json, value: object, unit: str | None) -> str:
    kind = node.get("type")
    if "kinds" in node:
        return f"a mapping whose {node['told_apart_by']} is {_one_of(node['kinds'])}"
    if "const" in node:
        return str(node["const"])
    if "enum" in node:
        return _one_of(node["enum"])
    if kind in ("integer", "number"):
        digits = ", in decimal digits without quotes" if isinstance(value, str) else ""
        return _number(node) + digits + (f" ({unit})" if unit else "")
    if kind == "boolean":
        return "true or false"
    if kind == "string":
        return PATTERN_WORDS[node["pattern"]] if "pattern" in node else "text"
    if kind == "array":
        return "a list" + _count(node.get("minItems"), node.get("maxItems"))
    return "a mapping of keys to values"


def _one_of(values: Sequence[object]) -> str:
    return str(values[0]) if len(values) == 1 else f"one of {', '.join(map(str, values))}"


def _number(node: Json) -> str:
    whole = node["type"] == "integer" or node.get("multipleOf") == 1
    name = "a whole number" if whole else "a number"
    least, above = node.get("minimum"), node.get("exclusiveMinimum")
    most, below = node.get("maximum"), node.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f"{name} from {_figure(least)} to {_figure(most)}"
    bounds = (("at least", least), ("above", above), ("at most", most), ("below", below))
    told = " and ".join(f"{word} {_figure(bound)}" for word, bound in bounds if bound is not None)
    return f"{name} {told}" if told else name


def _figure(value: float) -> str:
    return f"{value:.15g}"


def _count(least: int | None, most: int | None) -> str:
    if least is None:
        return "" if most is None else f" of at most {most}"
    if most is None:
        return f" of at least {least}"
    return f" of {least}" if least == most else f" of {least} to {most}"


def _unknown_key(path: Path, data: object, schema: Json) -> str:
    nodes = _nodes_at(schema, path[:-1], data)
    known = list(dict.fromkeys(key for node in nodes for key in node.get("properties", ())))
    near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"one of the keys {', '.join(known)}{hint}" if known else "no such key"
