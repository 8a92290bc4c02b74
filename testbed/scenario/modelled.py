"""What of a scenario the digital twin has a model of, key by key, and why not of the rest.

The one list of it: training, tuning, evaluation, validation and `deftbed check` tell by it what a
scenario has that the twin leaves out. Each key of the schema stands in it (a test walks the
schema), as

- MODELLED, the twin's figures follow it;
- NO_EFFECT, it changes nothing that the twin's figures are about;
- an `Unmodelled`, with the reason. Whether a scenario has it depends on its value: a loss of 0 is
  none. What makes the twin's traffic another than the scenario's is `refused`; the rest is told,
  and the twin goes on without it.

A `*` in a key stands for any item of a list or any name, and `**` at its end for all that is below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from testbed.scenario.errors import InputError
from testbed.scenario.model import Scenario

Has = Callable[[Any, Scenario], bool]


def _given(value: Any, _: Scenario) -> bool:
    return bool(value)


@dataclass(frozen=True, slots=True)
class Plain:
    """A key that leaves nothing out."""

    kind: str


@dataclass(frozen=True, slots=True)
class Unmodelled:
    """A key that the twin has no model of; `has` says whether a value of it asks for anything."""

    reason: str
    has: Has = _given
    refused: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a scenario has that the twin has no model of; `key` as in the file, of its first use."""

    key: str
    value: str
    reason: str
    refused: bool

    def __str__(self) -> str:
        """As people read it."""
        return f"{self.key} = {self.value}: {self.reason}"


MODELLED: Final = Plain("modelled")
NO_EFFECT: Final = Plain("no effect")


def _other(usual: Any) -> Has:
    return lambda value, _: value != usual


def _in_deft(usual: Any) -> Has:
    return lambda value, scenario: scenario.replication.mode == "deft" and value != usual


def _with_moves(usual: Any) -> Has:
    def has(value: Any, scenario: Scenario) -> bool:
        return value != usual and bool(scenario.moves or scenario.scaling or scenario.overload)

    return has


_NO_LOSS = "links of the twin lose no frames"
_NO_JITTER = "links of the twin have a constant delay"
_IN_ORDER = "frames of the twin stay in order"
_NO_COPIES = "links of the twin give each frame once"
_NO_QUEUE = "the twin has no queues at links: nothing waits or is dropped there"
_MEAN_RATE = "links of the twin have one rate, here the mean of the trace"

_SETTINGS: Mapping[str, Plain | Unmodelled] = {
    "rate_bps": MODELLED,
    "jitter_s": Unmodelled(_NO_JITTER),
    "jitter_reorders": Unmodelled(_IN_ORDER),
    "loss": Unmodelled(_NO_LOSS),
    "burst_loss.**": Unmodelled(_NO_LOSS, lambda value, _: value is not None),
    "reorder": Unmodelled(_IN_ORDER),
    "duplicate": Unmodelled(_NO_COPIES),
    "trace": Unmodelled(_MEAN_RATE),
}
"""Of all links, and of one that differs."""

STANDING: Mapping[str, Plain | Unmodelled] = {
    "format": NO_EFFECT,
    "name": NO_EFFECT,
    "description": NO_EFFECT,
    "topology.topohub": MODELLED,
    "topology.mean_length_km": MODELLED,
    "topology.nodes.*.name": MODELLED,
    "topology.nodes.*.longitude_deg": NO_EFFECT,
    "topology.nodes.*.latitude_deg": NO_EFFECT,
    "topology.links.*.a": MODELLED,
    "topology.links.*.b": MODELLED,
    "topology.links.*.length_km": MODELLED,
    "links.backend": Unmodelled(
        "links of the twin have their delays and rates, bare wires have none",
        lambda value, _: value == "none",
    ),
    "links.propagation_km_per_s": MODELLED,
    "links.queue_bytes": Unmodelled(_NO_QUEUE, _other(250_000)),
    **{f"links.{key}": standing for key, standing in _SETTINGS.items()},
    "links.by_link.*.between": MODELLED,
    "links.by_link.*.delay_s": MODELLED,
    "links.by_link.*.queue_bytes": Unmodelled(_NO_QUEUE),
    **{f"links.by_link.*.{key}": standing for key, standing in _SETTINGS.items()},
    "links.changes.**": Unmodelled("links of the twin stay as they are at the start"),
    "servers.default.cpu_cores": MODELLED,
    "servers.default.memory_bytes": MODELLED,
    "servers.by_node.*.cpu_cores": MODELLED,
    "servers.by_node.*.memory_bytes": MODELLED,
    "servers.capacity_model": Unmodelled(
        "servers of the twin work at a constant speed, a quota stops them for part of each period",
        lambda value, _: value == "quota",
    ),
    "servers.quota_period_s": NO_EFFECT,  # told with capacity_model
    "servers.queue_s": MODELLED,
    "servers.admission": MODELLED,
    "functions.*.service_s": MODELLED,
    "functions.*.backup_service_s": MODELLED,
    "functions.*.memory_bytes": MODELLED,
    "chains.*.name": NO_EFFECT,
    "chains.*.functions": MODELLED,
    "chains.*.rate_pps": MODELLED,
    "chains.*.l3_bytes": Unmodelled(
        "packets of the twin all have the mean size", lambda value, _: value == "imix"
    ),
    "chains.*.delay_bound_s": MODELLED,
    "chains.*.flows": NO_EFFECT,
    "chains.*.shards": Unmodelled(
        "chains of the twin are not divided into shards", lambda value, _: value > 1
    ),
    "chains.*.weight": MODELLED,
    "traffic.duration_s": MODELLED,
    "traffic.initial_requests": MODELLED,
    "traffic.arrivals_per_s": MODELLED,
    "traffic.arrivals.**": MODELLED,  # the plan draws the requests
    "traffic.mean_lifetime_s": MODELLED,
    "traffic.setup_s": MODELLED,
    "traffic.drain_s": MODELLED,
    "traffic.process": Unmodelled(
        "packets of the twin come as a Poisson process, and wait longer than evenly spaced ones",
        lambda value, _: value == "cbr",
    ),
    "traffic.process.**": Unmodelled(
        "packets of the twin come as a Poisson process at a rate that all requests share; "
        "poisson or cbr is needed",
        lambda value, _: isinstance(value, BaseModel),
        refused=True,
    ),
    "traffic.pairs": MODELLED,
    "traffic.load_steps.*.at_s": MODELLED,
    "traffic.load_steps.*.factor": MODELLED,
    "traffic.applications.**": Unmodelled(
        "the twin has no TCP, and no traffic of it", refused=True
    ),
    "traffic.load.**": MODELLED,  # the plan draws its steps
    "replication.mode": MODELLED,
    "replication.backups": Unmodelled(
        "groups of the twin have one backup at most",
        lambda value, scenario: scenario.replication.backups_wanted > 1,
    ),
    "replication.batch_packets": Unmodelled(
        "what a batch waits for is a constant of the twin", _in_deft(80)
    ),
    "replication.batch_s": Unmodelled(
        "what a batch waits for is a constant of the twin", _in_deft(0.0)
    ),
    "replication.gap_timeout_s": NO_EFFECT,
    "replication.retransmit_s": NO_EFFECT,
    "replication.buffer_packets": Unmodelled("buffers of the twin have no bound", _other(4096)),
    "replication.heartbeat_s": NO_EFFECT,
    "replication.failure_timeout_s": MODELLED,
    "replication.lease_s": Unmodelled(
        "primaries of the twin hold no lease", lambda value, _: value is not None
    ),
    "replication.fdu_members": NO_EFFECT,
    "replication.without_backup": MODELLED,
    "replication.replace_backups": MODELLED,
    "replication.share_s": NO_EFFECT,
    "replication.move_hold_s": Unmodelled("moves of the twin hold no packets", _with_moves(0.1)),
    "replication.move_overflow": Unmodelled(
        "moves of the twin hold no packets", _with_moves("refuse")
    ),
    "faults.*.kind": MODELLED,
    "faults.*.at_s": MODELLED,
    "faults.*.node": MODELLED,
    "moves.**": Unmodelled("nothing moves in the twin but what a policy moves in overload"),
    "scales.**": Unmodelled("each function of a chain has one primary in the twin"),
    "scaling.**": Unmodelled("each function of a chain has one primary in the twin"),
    "overload.high": MODELLED,
    "overload.period_s": Unmodelled(
        "loads of the twin are those of its slots, not measured", _other(0.5)
    ),
    "overload.hold_s": MODELLED,
    "overload.cool_s": MODELLED,
    "captures.**": NO_EFFECT,
    "problem.**": NO_EFFECT,
    "seeds": NO_EFFECT,
    "tolerances.**": NO_EFFECT,
    "trace.**": NO_EFFECT,
}
"""How each key stands, in the schema's order."""


def left_out(scenario: Scenario) -> tuple[LeftOut, ...]:
    """What the scenario has that the twin has no model of; each key of the schema once."""
    found = []
    for pattern, standing in STANDING.items():
        if not isinstance(standing, Unmodelled):
            continue
        steps = [step for step in pattern.split(".") if step != "**"]
        for key, value in _values(scenario, steps, ""):
            if standing.has(value, scenario):
                found.append(LeftOut(key, _text(value), standing.reason, standing.refused))
                break
    return tuple(found)


def words_left_out(scenarios: Iterable[Scenario]) -> list[str]:
    """The same of several scenarios, as people read it, nothing twice."""
    return list(dict.fromkeys(str(each) for one in scenarios for each in left_out(one)))


def require_modelled(scenario: Scenario) -> None:
    """InputError for what the twin refuses."""
    for each in left_out(scenario):
        if each.refused:
            expected = f"nothing that the twin has no model of ({each.reason}); the emulation has"
            raise InputError(each.key, each.value, expected)


def _values(value: Any, steps: list[str], key: str) -> Iterator[tuple[str, Any]]:
    """(key, value) of all that a pattern stands for."""
    if not steps:
        yield key, value
    elif steps[0] == "*":
        items = value.items() if isinstance(value, Mapping) else enumerate(value or ())
        for name, item in items:
            yield from _values(item, steps[1:], f"{key}.{name}")
    elif value is not None:
        below = getattr(value, steps[0])
        yield from _values(below, steps[1:], f"{key}.{steps[0]}" if key else steps[0])


def _text(value: Any) -> str:
    """A value in few words: the kind of what has one, how many there are of a list."""
    if isinstance(value, BaseModel):
        return str(getattr(value, "kind", "given"))
    return f"{len(value)} given" if isinstance(value, list) else str(value)
