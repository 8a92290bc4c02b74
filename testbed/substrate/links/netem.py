"""Links by netem in the kernel: its abilities, its options, and a check that it took them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from testbed.scenario.types import NS_PER_S, Link, LinkChange
from testbed.substrate.commands import json_of, tc_batch
from testbed.substrate.layout import Layout, LinkPlan
from testbed.substrate.links.link_error import LinkError

_TOLERANCE = 0.01


def lacking(links: Iterable[Link]) -> str | None:
    """What these links ask for that netem cannot do; None if it can do all."""
    for link in links:
        asked = link.impairments
        if link.trace is not None:
            return "a trace: netem has one rate"
        if asked.jitter_reorders and asked.jitter_ns > 0:
            return "jitter that changes the order: with a rate, netem keeps it"
        if asked.burst is not None and asked.loss > 0:
            return "loss and burst_loss on one link: netem has one model of loss"
    return None


def netem_limit(link: Link, frame_bytes: int) -> int:
    """netem's limit in packets: the queue and what is in flight, in frames of `frame_bytes`.

    netem counts packets where the line counts bytes, and counts those in flight too.
    """
    delay_ns = link.delay_ns + link.impairments.jitter_ns
    in_flight_bytes = link.rate_bps * delay_ns / (8 * NS_PER_S)
    return math.ceil((link.queue_bytes + in_flight_bytes) / frame_bytes) + 1


def netem_options(link: Link, frame_bytes: int, seed: int | None = None) -> str:
    """The words after `netem` for one direction of a link.

    `seed` is for kernels and iproute2 from 6.6 on; before, netem draws anew each time. `reorder`
    sends a frame at once, past delay and rate; a lost frame takes no time on the wire.
    """
    asked = link.impairments
    words = [f"delay {_microseconds(link.delay_ns)}"]
    if asked.jitter_ns:
        words[0] += f" {_microseconds(asked.jitter_ns)}"
    if asked.burst is not None:
        burst = asked.burst
        chances = (burst.to_bad, burst.to_good, burst.loss_bad, burst.loss_good)
        words.append("loss gemodel " + " ".join(map(_percent, chances)))
    elif asked.loss:
        words.append(f"loss random {_percent(asked.loss)}")
    if asked.duplicate:
        words.append(f"duplicate {_percent(asked.duplicate)}")
    if asked.reorder:
        words.append(f"reorder {_percent(asked.reorder)}")
    words.append(f"rate {link.rate_bps}bit limit {netem_limit(link, frame_bytes)}")
    if seed is not None:
        words.append(f"seed {seed}")
    return " ".join(words)


def _microseconds(ns: int) -> str:
    """tc knows no nanoseconds by that name."""
    return f"{ns / 1000:.3f}us"


def _percent(share: float) -> str:
    return f"{100 * share:.10g}%"


def set_netem(layout: Layout, frame_bytes: int) -> None:
    """Put netem on both ends of every link and read back that it is there.

    Raises CommandError if tc refuses, LinkError if what is read back differs.
    """
    tc_batch(line for plan in layout.links for line in netem_lines(plan, plan.link, frame_bytes))
    found = {entry["dev"]: entry for entry in json_of(["tc", "-j", "qdisc", "show"]) or []}
    for plan in layout.links:
        for interface in (plan.a_interface, plan.b_interface):
            check_netem(interface, found.get(interface, {}), plan.link, frame_bytes)


def netem_lines(plan: LinkPlan, link: Link, frame_bytes: int) -> list[str]:
    """`tc` commands that let both directions of a link be as `link` says."""
    options = netem_options(link, frame_bytes)
    return [
        f"qdisc replace dev {interface} root netem {options}"
        for interface in (plan.a_interface, plan.b_interface)
    ]


def change_netem(layout: Layout, change: LinkChange, frame_bytes: int) -> None:
    """Carry out a change of a link's settings; CommandError if tc refuses."""
    tc_batch(netem_lines(layout.links[change.index], change.link, frame_bytes))


def check_netem(interface: str, found: Mapping[str, Any], link: Link, frame_bytes: int) -> None:
    """LinkError unless `found`, from `tc -j qdisc show`, is the netem that the link asks for."""
    options = found.get("options", {})
    # tc prints the delay in seconds, older releases inside "delay", and the rate in bytes.
    delay = options.get("delay", {})
    delay_s = float(delay.get("delay", 0.0)) if isinstance(delay, dict) else float(delay)
    rate = options.get("rate", {})
    rate_bps = 8 * float(rate.get("rate", 0.0)) if isinstance(rate, dict) else 8 * float(rate)
    same = (
        found.get("kind") == "netem"
        and math.isclose(delay_s, link.delay_ns / NS_PER_S, rel_tol=_TOLERANCE, abs_tol=2e-6)
        and math.isclose(rate_bps, link.rate_bps, rel_tol=_TOLERANCE)
        and options.get("limit") == netem_limit(link, frame_bytes)
        and _kinds(options) == _wanted(link)
    )
    if not same:
        raise LinkError(
            f"{interface}: tc shows {dict(found)}, asked for netem with "
            f"{netem_options(link, frame_bytes)}"
        )


def _kinds(options: Mapping[str, Any]) -> set[str]:
    """The impairments that tc shows: it leaves out what is not set."""
    names = {"loss-random": "loss", "loss-gemodel": "burst", "duplicate": "", "reorder": ""}
    return {names[key] or key for key in names if key in options}


def _wanted(link: Link) -> set[str]:
    asked = link.impairments
    chances = {
        "loss": asked.burst is None and asked.loss > 0,
        "burst": asked.burst is not None,
        "duplicate": asked.duplicate > 0,
        "reorder": asked.reorder > 0,
    }
    return {name for name, there in chances.items() if there}
