"""Scenarios drawn from the published schema, for tests of what follows from any of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from testbed.scenario.model import Scenario

SCHEMA: dict[str, Any] = Scenario.model_json_schema()
NODES = ("a", "b", "c")
SMALL: dict[str, Any] = {
    "format": 1,
    "name": "drawn",
    "topology": {
        "nodes": [{"name": name} for name in NODES],
        "links": [
            {"a": "a", "b": "b", "length_km": 100},
            {"a": "b", "b": "c", "length_km": 100},
            {"a": "a", "b": "c", "length_km": 300},
        ],
    },
    "links": {"rate_bps": 50e6},
    "servers": {"default": {"cpu_cores": 0.5}},
    "chains": [
        {
            "name": "one",
            "functions": ["fw"],
            "rate_pps": 50,
            "l3_bytes": 200,
            "delay_bound_s": 0.05,
            "shards": 2,
        }
    ],
    "traffic": {"duration_s": 6, "initial_requests": 1},
    "policies": ["deft"],
    "seeds": [1],
}
"""A valid scenario, of which parts are drawn anew."""
_ENTRIES = 3
"""Of a list that is drawn, at most."""


def values(node: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a part of the schema allows, those at its bounds often."""
    if "$ref" in node:
        return st.deferred(lambda: values(SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]))
    for key in ("anyOf", "oneOf"):
        if key in node:
            return st.one_of([values(each) for each in node[key]])
    if "const" in node:
        return st.just(node["const"])
    if "enum" in node:
        return st.sampled_from(node["enum"])
    return _OF_TYPE[node["type"]](node)


def _integers(node: Mapping[str, Any]) -> st.SearchStrategy[int]:
    least = node.get("minimum", node.get("exclusiveMinimum", 0))
    most = node.get("maximum", node.get("exclusiveMaximum", 1) - 1)
    near = min(most, least + 5)
    return st.one_of(st.integers(least, near), st.sampled_from([least, most]))


def _numbers(node: Mapping[str, Any]) -> st.SearchStrategy[float]:
    least = node.get("minimum", node.get("exclusiveMinimum"))
    most = node.get("maximum", node.get("exclusiveMaximum"))
    if node.get("multipleOf") == 1:
        return st.integers(int(least), int(most)).map(float)
    within = st.floats(
        least, most,
        exclude_min="exclusiveMinimum" in node, exclude_max="exclusiveMaximum" in node,
    )  # fmt: skip
    ends = [node[key] for key in ("minimum", "maximum") if key in node]
    usual = [each for each in (0.01, 0.5, 1.0, 3.0, 1000.0) if least < each < most]
    return st.one_of(within, st.sampled_from([*ends, *usual] or [most / 2]))


def _texts(node: Mapping[str, Any]) -> st.SearchStrategy[str]:
    if "pattern" in node:
        return st.from_regex(node["pattern"].replace("$", r"\Z"))
    return st.sampled_from([*NODES, "d", ""])


def _lists(node: Mapping[str, Any]) -> st.SearchStrategy[list[Any]]:
    least = node.get("minItems", 0)
    most = min(node.get("maxItems", _ENTRIES), max(least, _ENTRIES))
    return st.lists(values(node["items"]), min_size=least, max_size=most)


def _objects(node: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    properties: dict[str, Any] = node.get("properties", {})
    if not properties:
        named = node.get("propertyNames")
        keys = values(named) if named else st.sampled_from(NODES)
        return st.dictionaries(keys, values(node["additionalProperties"]), max_size=_ENTRIES)
    needed = node.get("required", [])
    given = {key: values(properties[key]) for key in needed}
    free = {key: values(each) for key, each in properties.items() if key not in needed}
    # Few of the keys that may be left out: together they seldom fit.
    few: st.SearchStrategy[list[str]] = (
        st.lists(st.sampled_from(sorted(free)), max_size=3, unique=True) if free else st.just([])
    )
    return few.flatmap(lambda keys: st.fixed_dictionaries(given | {k: free[k] for k in keys}))


_OF_TYPE: dict[str, Any] = {
    "integer": _integers,
    "number": _numbers,
    "string": _texts,
    "array": _lists,
    "object": _objects,
    "boolean": lambda node: st.booleans(),
    "null": lambda node: st.none(),
}


def _parts(node: Mapping[str, Any], where: tuple[str | int, ...]) -> list[tuple[Any, Any]]:
    """(place, part of the schema) of all that SMALL has or could have as a key."""
    while "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]
    found: list[tuple[Any, Any]] = []
    for key, part in node.get("properties", {}).items():
        found.append(((*where, key), part))
        inner = _at(SMALL, (*where, key))
        if isinstance(inner, dict):
            found += _parts(part, (*where, key))
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            items = next(each for each in part.get("anyOf", [part]) if "items" in each)["items"]
            found += _parts(items, (*where, key, 0))
    return found


def _at(data: Any, where: tuple[str | int, ...]) -> Any:
    for part in where:
        if isinstance(data, dict) and part not in data:
            return None
        data = data[part]
    return data


PLACES = _parts(SCHEMA, ())


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """SMALL with one to four of its parts drawn from the schema."""
    data = copy.deepcopy(SMALL)
    for where, part in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=4)):
        inside: Any = data
        for step in where[:-1]:
            if isinstance(inside, dict):
                inside = inside.setdefault(step, {})
            else:
                inside = inside[step] if len(inside) else {}
            if not isinstance(inside, (dict, list)):
                break
        if isinstance(inside, dict):
            inside[where[-1]] = draw(values(part))
    return data
