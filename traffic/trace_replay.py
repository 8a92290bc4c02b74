"""The packets of a request that replays a capture: due times, flows, sizes, contents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.scenario.modulation import FloatArray, Path, on_path
from testbed.scenario.recording import RecordedPackets, Recording, fitting, read_recording
from testbed.scenario.shapes import Replay
from testbed.scenario.sizes import MIN_L3_BYTES
from testbed.scenario.types import NS_PER_S


@dataclass(frozen=True, slots=True)
class Replayed:
    """One element a packet, by time: seconds from the request's start, flow, size, content.

    `flows` counts a flow that is repeated as a new one. `contents` (CONTENT_DTYPE, None if they
    are not wanted) says what of `payloads` follows the header of the test packet.
    """

    times_s: FloatArray
    flows: NDArray[np.int64]
    l3_bytes: NDArray[np.uint16]
    contents: NDArray[np.void] | None
    payloads: bytes


def replay(
    recording: Recording, spec: Replay, rate_pps: float, life_s: float, load: Path
) -> Replayed:
    """What is sent in `life_s`; `load` is a factor on the speed. Raises InputError."""
    found = read_recording(recording.path, recording.sha256)
    order: NDArray[np.int64] = np.zeros(0, np.int64)

    def recorded(total_s: float) -> FloatArray:
        nonlocal order
        order, times_s = _rounds(found, recording, total_s, spec.repeat)
        return times_s

    times_s = on_path(load, rate_pps / recording.mean_pps, life_s, recorded)
    rows = order % len(found.times_ns)
    l3_bytes = fitting(found.l3_bytes[rows])
    contents = None
    if spec.contents:
        contents = found.contents[rows]
        contents["bytes"] = np.minimum(contents["bytes"], l3_bytes - MIN_L3_BYTES)
    return Replayed(
        times_s=times_s,
        flows=found.flows[rows] + order // len(found.times_ns) * recording.flows,
        l3_bytes=l3_bytes.astype(np.uint16),
        contents=contents,
        payloads=found.payloads,
    )


def _rounds(
    found: RecordedPackets, recording: Recording, total_s: float, repeat: bool
) -> tuple[NDArray[np.int64], FloatArray]:
    """Packets by number, those of later rounds counted on, and when they come before `total_s`.

    A round begins the mean time between two packets after the last packet of the one before.
    """
    period_s = recording.span_ns / NS_PER_S + 1 / recording.mean_pps
    rounds = max(1, int(np.ceil(total_s / period_s))) if repeat else 1
    times_s = found.times_ns / NS_PER_S
    times_s = (np.arange(rounds)[:, None] * period_s + times_s).ravel()
    inside = times_s < total_s
    return np.flatnonzero(inside), times_s[inside]
