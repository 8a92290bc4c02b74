"""How a link is measured: probes and trains that the link can carry. Pure.

A measurement must fit the link that it measures. Probes lie further apart than a probe takes on
the wire, or they would wait for each other. A train fits into the queue, or the queue would drop
its end, and leaves within `TRAIN_S`, or a slow link would hold up all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from testbed.scenario.trace import OPPORTUNITY_BYTES, opportunities_ms
from testbed.scenario.types import NS_PER_S, Link

PROBE_BYTES, TRAIN_BYTES = 100, 1400
PROBES, LEAST_PROBES, PROBE_S = 40, 5, 2.0
"""Probes of a direction: as many as `PROBE_S` has room for, within these bounds."""
TRAIN_FRAMES, TRAIN_S = 120, 1.0
"""Frames of a direction's trains together, and how long a slow link takes for them."""
FRAMES_AT_LEAST = 8
"""A train of fewer frames is made of smaller ones, where the link leaves room for that."""
QUEUE_SHARE = 0.8
"""Of the queue, which a train fills at most."""
PROBES_PPS, TRAINS_PPS = 4_000, 20_000
"""Frames a second at most, over all links: the emulator itself must not be what is measured."""
_LEAST_GAP_NS = 2_000_000
_LONGEST_SILENCE_NS = NS_PER_S


@dataclass(frozen=True, slots=True)
class Measurement:
    """Probes `probe_gap_ns` apart, then `trains` trains of `train_frames` frames back to back.

    Without probes a direction is not measured at all, without trains its rate is not.
    """

    probes: int
    probe_gap_ns: int
    trains: int
    train_frames: int
    train_bytes: int

    @property
    def frames(self) -> int:
        """Frames of all trains."""
        return self.trains * self.train_frames


def wire_ns(link: Link, l2_bytes: int) -> int:
    """How long a frame is on the wire; with a trace, on its average."""
    return max(1, l2_bytes * 8 * NS_PER_S // link.rate_bps)


def measurement_of(link: Link, directions: int) -> Measurement:
    """What measures one direction of a link beside `directions` in all."""
    if link.trace is not None:
        return _of_trace(link, link.trace.path, directions)
    # Further apart than the jitter: what keeps the order would delay the next one, too.
    gap_ns = _gap_ns(2 * link.impairments.jitter_ns, 2 * wire_ns(link, PROBE_BYTES), directions)
    l2_bytes = _train_bytes(link)
    frames = min(
        TRAIN_FRAMES,
        int(QUEUE_SHARE * link.queue_bytes / l2_bytes),
        max(2, int(TRAIN_S * NS_PER_S / wire_ns(link, l2_bytes))),
    )
    if frames < 2:  # the queue takes no second frame
        return Measurement(_probes(gap_ns), gap_ns, 0, 0, 0)
    room = int(TRAIN_S * NS_PER_S / wire_ns(link, frames * l2_bytes))
    trains = max(1, min(TRAIN_FRAMES // frames, room))
    return Measurement(_probes(gap_ns), gap_ns, trains, frames, l2_bytes)


def _of_trace(link: Link, path: str, directions: int) -> Measurement:
    """Probes that wait for an opportunity each; none if the trace is silent for too long."""
    times_ms = opportunities_ms(path)
    silence_ns = 1_000_000 * int(np.diff(times_ms, prepend=0).max())
    if silence_ns > _LONGEST_SILENCE_NS:
        return Measurement(0, 0, 0, 0, 0)
    gap_ns = _gap_ns(2 * silence_ns, 2 * wire_ns(link, OPPORTUNITY_BYTES), directions)
    return Measurement(_probes(gap_ns), gap_ns, 0, 0, 0)


def _gap_ns(jitter_ns: int, busy_ns: int, directions: int) -> int:
    return max(directions * NS_PER_S // PROBES_PPS, jitter_ns, busy_ns, _LEAST_GAP_NS)


def _probes(gap_ns: int) -> int:
    return max(LEAST_PROBES, min(PROBES, int(PROBE_S * NS_PER_S) // gap_ns))


def _train_bytes(link: Link) -> int:
    """The largest frame of which the queue, and a slow link in `TRAIN_S`, take a train."""
    queue_bytes = QUEUE_SHARE * link.queue_bytes
    in_time_bytes = TRAIN_S * link.rate_bps / 8
    wanted = int(in_time_bytes / FRAMES_AT_LEAST)
    if queue_bytes < 2 * TRAIN_BYTES:
        wanted = min(wanted, int(queue_bytes / 2))
    return max(PROBE_BYTES, min(TRAIN_BYTES, wanted))
