"""Hyperparameters of `ppo` in a file, the values that each may have, and those that are searched.

The file is YAML, or JSON, which is YAML: names of `PpoConfig`'s fields and their values, groups
(`size`, `weights`) as mappings. What is left out keeps its default.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import yaml

from agents.placement.ppo import PpoConfig
from testbed.scenario.errors import InputError
from testbed.scenario.load import parse_mapping


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
        low = f"{'above' if self.open else 'at least'} {self.least:g}"
        return low if self.most == math.inf else f"{low} and at most {self.most:g}"


class Between(NamedTuple):
    """Search between two numbers, on a logarithmic scale if `log`."""

    low: float
    high: float
    log: bool = False


class OneOf(NamedTuple):
    """Search among these."""

    values: tuple[int, ...]


POSITIVE = Bounds(0.0, open=True)
COUNT = Bounds(1)
SHARE = Bounds(0.0, 1.0)

BOUNDS: dict[str, Bounds] = {
    "gamma": SHARE,
    "lam": SHARE,
    "clip": Bounds(0.0, 1.0, open=True),
    "learning_rate": Bounds(0.0, 1.0, open=True),
    "epochs": COUNT,
    "minibatch": Bounds(2),  # advantages are divided by their deviation within it
    "steps": COUNT,
    "entropy": Bounds(0.0),
    "value": Bounds(0.0),
    "gradient_norm": POSITIVE,
    "size.width": COUNT,
    "size.heads": COUNT,
    "size.score_width": COUNT,
    "pool": COUNT,
    "validation": COUNT,
    "held_out": COUNT,
    "segment": COUNT,
    "slot_s": POSITIVE,
    "weights.reference_s": POSITIVE,
    "weights.deviation": Bounds(0.0),
    "weights.loss": Bounds(0.0),
    "weights.headroom": Bounds(0.0),
    "weights.headroom_from": Bounds(0.0),
    "weights.packets": POSITIVE,
}
"""Every field of the config."""

SPACE: dict[str, Between | OneOf] = {
    "gamma": Between(0.5, 0.99),
    "lam": Between(0.8, 0.98),
    "clip": Between(0.1, 0.3),
    "learning_rate": Between(5e-4, 5e-3, log=True),
    "epochs": OneOf((1, 2, 3, 4)),
    "minibatch": OneOf((256, 512, 1024, 2048)),
    "steps": OneOf((8, 16, 32, 64)),
    "entropy": Between(1e-4, 3e-2, log=True),
    "value": Between(0.25, 1.0),
    "gradient_norm": Between(0.25, 2.0, log=True),
    "size.width": OneOf((16, 32, 64)),
    "size.heads": OneOf((1, 2, 4)),
    "size.score_width": OneOf((8, 16, 32)),
}
"""What `deftbed tune` searches; the default of each is in it. Not the cost (`weights`), by which
configs are compared, nor the plans and time slots, which say how much is known of each."""


def read_config(path: Path) -> PpoConfig:
    """The config in a file. Raises InputError naming the field, or "config" for the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("config", str(path), f"a readable file ({error})") from error
    return config_from(parse_mapping(text, "config"))


def config_from(values: Mapping[Any, Any], base: PpoConfig | None = None) -> PpoConfig:
    """`base`, or the defaults, with these values. Raises InputError naming the field."""
    made: PpoConfig = _changed(base or PpoConfig(), values, "")
    return made


def with_values(config: PpoConfig, values: Mapping[str, float]) -> PpoConfig:
    """The config with other values, by names as in SPACE (`size.width`). Raises InputError."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        group, _, field = name.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[field] = value
    return config_from(nested, config)


def value_of(config: PpoConfig, name: str) -> Any:
    """The value of a field by its name as in SPACE."""
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


def config_text(config: PpoConfig, as_json: bool = False) -> str:
    """The whole config as a file that `read_config` reads: YAML, or JSON."""
    values = asdict(config)
    if as_json:
        return json.dumps(values, indent=2) + "\n"
    return yaml.safe_dump(values, sort_keys=False)


def _changed(config: Any, values: Mapping[Any, Any], prefix: str) -> Any:
    types = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in types:
            raise InputError(name, value, _unknown(str(key), list(types)))
        if dataclasses.is_dataclass(types[key]):
            if not isinstance(value, Mapping):
                raise InputError(name, value, "a mapping of keys to values")
            changes[key] = _changed(getattr(config, key), value, f"{name}.")
        else:
            changes[key] = _number(name, value, types[key])
    return dataclasses.replace(config, **changes)


def _number(name: str, value: object, kind: type) -> float:
    kinds, called = ((int,), "a whole number") if kind is int else ((int, float), "a number")
    bounds = BOUNDS[name]
    # True is an int to Python.
    if isinstance(value, bool) or not isinstance(value, kinds) or value not in bounds:
        raise InputError(name, value, f"{called}, {bounds}")
    assert isinstance(value, (int, float))
    return value if kind is int else float(value)


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"one of the keys {', '.join(known)}{hint}"
