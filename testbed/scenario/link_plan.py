"""From the links of a scenario file to links with numbers, and to their changes in time. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from testbed.scenario.errors import InputError
from testbed.scenario.impairments import GilbertElliott, Impairments
from testbed.scenario.links import BurstLossSpec, LinkSettings, LinkSpec
from testbed.scenario.node_names import node_index
from testbed.scenario.trace import load_trace
from testbed.scenario.types import NS_PER_S, Link, LinkChange, RunPlan, Topology

T = TypeVar("T")
SURELY_CARRIED_BPS = 100_000_000
"""Every host carries links of so many L2 bits a second; what is above is worth a measurement."""


def first_link(a: int, b: int, delay_ns: int, spec: LinkSpec) -> Link:
    """The link between nodes `a` and `b` as it is where nothing else is said of it."""
    plain = Link(a, b, delay_ns, round(spec.rate_bps), spec.queue_bytes)
    common = LinkSettings(
        jitter_s=spec.jitter_s,
        jitter_reorders=spec.jitter_reorders,
        loss=spec.loss,
        burst_loss=spec.burst_loss,
        reorder=spec.reorder,
        duplicate=spec.duplicate,
        trace=spec.trace,
    )
    return changed(plain, common, "links")


def link_of_length(a: int, b: int, length_km: float, spec: LinkSpec) -> Link:
    """`first_link` of a length."""
    return first_link(a, b, round(length_km / spec.propagation_km_per_s * NS_PER_S), spec)


def changed(link: Link, settings: LinkSettings, field: str) -> Link:
    """The link with what `settings` give, which are at `field` of the file.

    Raises InputError for a trace that cannot be used.
    """
    seen = link.impairments
    impairments = Impairments(
        jitter_ns=_ns(settings.jitter_s, seen.jitter_ns),
        jitter_reorders=_given(settings.jitter_reorders, seen.jitter_reorders),
        loss=_given(settings.loss, seen.loss),
        burst=seen.burst if settings.burst_loss is None else _burst(settings.burst_loss),
        reorder=_given(settings.reorder, seen.reorder),
        duplicate=_given(settings.duplicate, seen.duplicate),
    )
    rate_bps, trace = link.rate_bps, link.trace
    if settings.rate_bps is not None:
        rate_bps, trace = round(settings.rate_bps), None
    if settings.trace is not None:
        trace = load_trace(settings.trace, f"{field}.trace")
        rate_bps = round(trace.mean_bps)
    return replace(
        link,
        delay_ns=_ns(settings.delay_s, link.delay_ns),
        rate_bps=rate_bps,
        queue_bytes=_given(settings.queue_bytes, link.queue_bytes),
        impairments=impairments,
        trace=trace,
    )


def apply_overrides(topology: Topology, spec: LinkSpec) -> Topology:
    """The topology with the links that differ; raises InputError for one that does not exist."""
    links = list(topology.links)
    for number, override in enumerate(spec.by_link):
        for index in _between(topology, override.between, f"links.by_link.{number}.between"):
            links[index] = changed(links[index], override, f"links.by_link.{number}")
    return replace(topology, links=tuple(links))


def link_changes(topology: Topology, spec: LinkSpec) -> tuple[LinkChange, ...]:
    """All changes in the order of time; each says all that holds for its link from then on."""
    now, up = list(topology.links), [True] * len(topology.links)
    found = []
    ordered = sorted(enumerate(spec.changes), key=lambda entry: entry[1].at_s)
    for number, change in ordered:
        indices = list(range(len(now)))
        if change.between is not None:
            indices = _between(topology, change.between, f"links.changes.{number}.between")
        for index in indices:
            now[index] = changed(now[index], change, f"links.changes.{number}")
            up[index] = _given(change.up, up[index])
            at_ns = round(change.at_s * NS_PER_S)
            found.append(LinkChange(at_ns, index, now[index], up[index]))
    return tuple(found)


def fastest_bps(plans: Iterable[RunPlan]) -> int:
    """The greatest rate that a link of these plans has at any time; a trace has none."""
    links = (
        link
        for plan in plans
        for link in (*plan.topology.links, *(change.link for change in plan.link_changes))
    )
    return max((link.rate_bps for link in links if link.trace is None), default=0)


def _between(topology: Topology, names: list[str], field: str) -> list[int]:
    ends = {node_index(topology, name, field) for name in names}
    found = [index for index, link in enumerate(topology.links) if {link.a, link.b} == ends]
    if not found:
        raise InputError(field, names, "two nodes with a link between them")
    return found


def _burst(spec: BurstLossSpec) -> GilbertElliott | None:
    burst = GilbertElliott(spec.to_bad, spec.to_good, spec.loss_bad, spec.loss_good)
    return burst if burst.loss > 0 else None


def _given(value: T | None, before: T) -> T:
    return before if value is None else value


def _ns(seconds: float | None, before: int) -> int:
    return before if seconds is None else round(seconds * NS_PER_S)
