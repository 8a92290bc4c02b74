"""Hyperparameters in a file: YAML, or JSON, which is YAML, read into a config's dataclass.

The file has names of the config's fields and their values, groups as mappings. What is left out
keeps its default. Each number has bounds, by its name (`size.width`).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import yaml

from testbed.scenario.errors import InputError
from testbed.scenario.yaml_text import read_mapping


class Bounds(NamedTuple):
    """What a number must be: at least (or, `open`, above) `least`, and at most `most`."""

    least: float
    most: float = math.inf
    open: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, (int, float))
        above = value > self.least if self.open else value >= self.least
        return above and value <= self.most and math.isfinite(value)

    def __str__(self) -> str:
        low = f"{'above' if self.open else 'at least'} {self.least:,.12g}"
        return low if self.most == math.inf else f"{low} and at most {self.most:,.12g}"


class Between(NamedTuple):
    """Search between two numbers, on a logarithmic scale if `log`."""

    low: float
    high: float
    log: bool = False


class OneOf(NamedTuple):
    """Search among these."""

    values: tuple[int, ...]


Space = Mapping[str, Between | OneOf]
"""What a search goes through, by the names of numbers (`size.width`)."""
Config = TypeVar("Config")
LARGE = 1e9
"""Beyond every use, and far from where sums of float32 end."""
POSITIVE = Bounds(0.0, LARGE, open=True)
NO_LESS_THAN_0 = Bounds(0.0, LARGE)
COUNT = Bounds(1, 1_000_000)
WIDTH = Bounds(1, 4096)
SHARE = Bounds(0.0, 1.0)
ANY = Bounds(-LARGE, LARGE)


def read_values(path: Path) -> Mapping[str, Any]:
    """The mapping in a file. Raises InputError naming "config"."""
    return read_mapping(path, "config")


def changed(
    config: Config, values: Mapping[Any, Any], bounds: Mapping[str, Bounds], prefix: str = ""
) -> Config:
    """The config with other values. Raises InputError naming the field."""
    types = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in types:
            raise InputError(name, value, _unknown(str(key), list(types)))
        if _is_group(types[key]):
            if not isinstance(value, Mapping):
                raise InputError(name, value, "a mapping of keys to values")
            changes[key] = changed(getattr(config, key), value, bounds, f"{name}.")
        else:
            changes[key] = _value(name, value, types[key], bounds)
    if dataclasses.is_dataclass(config):
        made: Config = dataclasses.replace(config, **changes)  # type: ignore[type-var]
    else:
        made = config._replace(**changes)  # type: ignore[attr-defined]
    return made


def with_values(
    config: Config, values: Mapping[str, float], bounds: Mapping[str, Bounds]
) -> Config:
    """The config with other values, by names as in a `Space` (`size.width`). Raises InputError."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        group, _, field = name.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[field] = value
    return changed(config, nested, bounds)


def value_of(config: object, name: str) -> Any:
    """The value of a field by its name as in a `Space`."""
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


def config_text(config: Any, as_json: bool = False) -> str:
    """The whole config as a file that `read_values` reads: YAML, or JSON."""
    values = plain(dataclasses.asdict(config))
    if as_json:
        return json.dumps(values, indent=2) + "\n"
    return yaml.safe_dump(values, sort_keys=False)


def plain(value: Any) -> Any:
    """A config's values as files have them: groups as mappings, rows as lists."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _is_group(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")


def _value(name: str, value: object, kind: Any, bounds: Mapping[str, Bounds]) -> Any:
    if kind is bool:
        if not isinstance(value, bool):
            raise InputError(name, value, "true or false")
        return value
    if get_origin(kind) is tuple:
        return _row(name, value, get_args(kind), bounds)
    return _number(name, value, kind, bounds[name])


def _row(
    name: str, value: object, kinds: tuple[Any, ...], bounds: Mapping[str, Bounds]
) -> tuple[Any, ...]:
    """A tuple, of a length that its type gives or (`...`) of at least one."""
    if not isinstance(value, (list, tuple)):
        raise InputError(name, value, "a list of values")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * max(1, len(value))
    if len(value) != len(kinds):
        raise InputError(name, value, f"a list of {len(kinds)}")
    pairs = zip(value, kinds, strict=True)
    return tuple(_value(name, each, kind, bounds) for each, kind in pairs)


def _number(name: str, value: object, kind: type, bounds: Bounds) -> float:
    kinds, called = ((int,), "a whole number") if kind is int else ((int, float), "a number")
    # True is an int to Python.
    if isinstance(value, bool) or not isinstance(value, kinds) or value not in bounds:
        raise InputError(name, value, f"{called}, {bounds}")
    assert isinstance(value, (int, float))
    return value if kind is int else float(value)


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"one of the keys {', '.join(known)}{hint}"
