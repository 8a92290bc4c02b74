"""What a calibration is: the constants of one host, and where they are from. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from testbed.scenario.errors import InputError
from testbed.scenario.types import ReplicationMode, Topology

FORMAT = 1
LATENCY_CONSTANTS = (
    "edge_ns", "hop_ns", "switch_ns", "port_ns", "commit_pipelined_ns", "commit_deft_ns",
)  # fmt: skip
CONSTANTS = (
    *LATENCY_CONSTANTS, "jitter_ratio", "service_ns", "detection_ns", "backup_start_ns",
    "chain_start_ns", "instance_start_ns",
)  # fmt: skip
COMMIT_ROUND_TRIPS: dict[ReplicationMode, float] = {"none": 0.0, "pipelined": 1.0, "deft": 2.0}
"""Round trips between primary and backup before a packet leaves; DEFT commits in two phases."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A fitted constant, its standard error, and how many observations it rests on."""

    value: float
    standard_error: float
    samples: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """The constants of one host, by the names of `CONSTANTS`; times in nanoseconds.

    edge_ns              a packet at the two edges and the end hosts
    hop_ns               frame handling of an instance (or the last edge)
    switch_ns, port_ns   crossing a switch: a base, and for each port of all switches
    commit_pipelined_ns, commit_deft_ns   a log entry and its acknowledgement, beside the path
    jitter_ratio         standard deviation of a crossing over its mean
    service_ns           what a packet occupies a server beyond its service time
    detection_ns         from a server's death until a backup serves, beyond the failure time-out
    backup_start_ns      from a detected failure until a new backup has caught up
    chain_start_ns, instance_start_ns     deploying a chain: a base, and for each instance

    `host` and `source` say where it is from (free-form facts); `identity` is for manifests.
    """

    constants: Mapping[str, Estimate]
    host: Mapping[str, Any]
    source: Mapping[str, Any]

    def value(self, name: str) -> float:
        """The value of a constant, 0 if it was not fitted."""
        found = self.constants.get(name)
        return 0.0 if found is None else found.value

    def identity(self) -> dict[str, Any]:
        """What a manifest says of the calibration that was used."""
        return {**self.source, "constants": {name: e.value for name, e in self.constants.items()}}

    def to_json(self) -> dict[str, Any]:
        """The content of a calibration file."""
        return {
            "format": FORMAT,
            "constants": {name: dataclasses.asdict(e) for name, e in self.constants.items()},
            "host": dict(self.host),
            "source": dict(self.source),
        }


def parse_calibration(data: Any) -> Calibration:
    """The calibration in the content of a file; raises InputError that names the field."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, Mapping) else type(data).__name__
        raise InputError("calibration.format", found, str(FORMAT))
    constants = {}
    for name, entry in data.get("constants", {}).items():
        if name not in CONSTANTS:
            raise InputError(f"calibration.constants.{name}", name, f"one of {CONSTANTS}")
        try:
            estimate = Estimate(
                float(entry["value"]), float(entry["standard_error"]), int(entry["samples"])
            )
        except (KeyError, TypeError, ValueError) as error:
            expected = "value, standard_error and samples"
            raise InputError(f"calibration.constants.{name}", entry, expected) from error
        if not np.isfinite(estimate.value):
            raise InputError(f"calibration.constants.{name}.value", estimate.value, "a number")
        constants[name] = estimate
    return Calibration(constants, dict(data.get("host", {})), dict(data.get("source", {})))


def switch_ports(topology: Topology) -> int:
    """Ports of all switches: two for each link, and each node's server and user host."""
    return 2 * len(topology.links) + 2 * len(topology.nodes)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The calibration that a command's twin has, where it is from, and what is to be said of it.

    Without one (`calibration` None) the twin has its defaults. `doubts` says how the host on which
    it was made differs from that on which it is used, and why its runs were not valid.
    """

    calibration: Calibration | None = None
    file: str | None = None
    doubts: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any] | None:
        """What a manifest or a report says of it; None for the defaults."""
        if self.calibration is None:
            return None
        facts = self.calibration.identity()
        return {**facts, "file": self.file, "doubts": list(self.doubts)}

    def lines(self) -> list[str]:
        """What a person is told of it."""
        if self.calibration is None:
            return ["the twin has its default constants: no calibration"]
        made = self.calibration.source.get("date", "at an unknown time")
        doubts = [f"the calibration is in doubt: {doubt}" for doubt in self.doubts]
        return [f"the twin is calibrated by {self.file}, made {made}", *doubts]


DEFAULTS = Chosen()
"""The twin's own constants."""
