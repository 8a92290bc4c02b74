"""Hyperparameters of `ppo` from a file, the values that each may have, and which are searched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from agents.common.config import (
    COUNT,
    NO_LESS_THAN_0,
    POSITIVE,
    SHARE,
    WIDTH,
    Bounds,
    changed,
    read_values,
)
from agents.placement.ppo import PpoConfig


class Between(NamedTuple):
    """Search between two numbers, on a logarithmic scale if `log`."""

    low: float
    high: float
    log: bool = False


class OneOf(NamedTuple):
    """Search among these."""

    values: tuple[int, ...]


BOUNDS: dict[str, Bounds] = {
    "gamma": SHARE,
    "lam": SHARE,
    "clip": Bounds(0.0, 1.0, open=True),
    "learning_rate": Bounds(0.0, 1.0, open=True),
    "epochs": COUNT,
    "minibatch": Bounds(2, COUNT.most),  # advantages are divided by their deviation within it
    "potential_discount": SHARE,
    "steps": COUNT,
    "entropy": NO_LESS_THAN_0,
    "value": NO_LESS_THAN_0,
    "gradient_norm": POSITIVE,
    "size.width": WIDTH,
    "size.heads": WIDTH,
    "size.score_width": WIDTH,
    "pool": COUNT,
    "validation": COUNT,
    "held_out": COUNT,
    "segment": COUNT,
    "slot_s": POSITIVE,
    "weights.reference_s": POSITIVE,
    "weights.deviation": NO_LESS_THAN_0,
    "weights.loss": NO_LESS_THAN_0,
    "weights.headroom": NO_LESS_THAN_0,
    "weights.headroom_from": NO_LESS_THAN_0,
    "weights.overload": NO_LESS_THAN_0,
    "weights.packets": POSITIVE,
}
"""Every number of the config."""

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
    return config_from(read_values(path))


def config_from(values: Mapping[Any, Any], base: PpoConfig | None = None) -> PpoConfig:
    """`base`, or the defaults, with these values. Raises InputError naming the field."""
    return changed(base or PpoConfig(), values, BOUNDS)


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
